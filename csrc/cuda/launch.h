// The launch of a kernel: with shared memory that may pass the 48 KB that need no leave, and, from sm_90 on, before
// the kernel ahead of it in the stream has ended (programmatic dependent launch).
//
// A dependent kernel's blocks come to the SMs as those of the one before leave them, and make their addresses
// meanwhile. Each must call wait_for_earlier_kernels() before it touches global memory in any way: what an earlier
// kernel reads may be memory that this one writes. Weights are no exception, as the kernel before may have made them.
#pragma once

#include "device.h"
#include "numeric.cuh"

namespace mbv1::cuda {

constexpr int kSharedBytesByDefault = 48 * 1024;

// Nothing that earlier kernels of the stream do is under way after this. The next kernel may come from here on.
__device__ inline void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Enqueues `blocks` blocks with `shared` bytes of dynamic shared memory on the current device. The kernel calls
// wait_for_earlier_kernels().
template <class... Parameters, class... Arguments>
cudaError_t launch_blocks(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared,
                          cudaStream_t stream, const Arguments&... arguments) {
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  if (shared > kSharedBytesByDefault / 2) {  // static shared memory counts, too
    // At every launch: it costs less than a table of what is set for which device, and is legal during a capture.
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(blocks), config.blockDim = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared), config.stream = stream;
  config.attrs = &dependent, config.numAttrs = current_device().capability >= 90 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace mbv1::cuda
