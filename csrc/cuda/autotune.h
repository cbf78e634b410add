// MBV1_AUTOTUNE=1: kernels are chosen by measuring them on the device at hand, and the choices are kept on disk.
//
// One text file a device and version of the library, in $MBV1_AUTOTUNE_CACHE, $XDG_CACHE_HOME/mbv1_kernels or
// ~/.cache/mbv1_kernels; a line is `<op> <dtype> <digest of sizes, strides and alignment> <kernel> <us>`. Writers
// take a lock, merge with what is there and replace the file whole, so processes can share it. A line that cannot be
// read is ignored, and where the folder cannot be written the choices last as long as the process.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

namespace mbv1::cuda {

bool autotune_enabled();

// The kernel that was measured to be the fastest for a call on the current device, by this process or another; empty
// where none was.
std::string tuned_kernel(const std::string& call);
void keep_tuned(const std::string& call, const std::string& kernel, double us);

// Microseconds of `launch`, which enqueues on the stream: the best mean of several rounds, one after another and so
// with a warm L2. Infinite where it fails.
double measure_us(const std::function<cudaError_t()>& launch, cudaStream_t stream);

// Whether the stream is part of a CUDA graph that is being captured, where nothing can be measured.
bool is_capturing(cudaStream_t stream);

}  // namespace mbv1::cuda
