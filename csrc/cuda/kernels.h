// The CUDA kernels as their binding sees them: one table an op, in csrc/cuda/<op>.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "../common/kernel_table.h"
#include "../common/params.h"
#include "cost_model.h"

namespace mbv1::cuda {

template <class Params>
struct Kernel {
  const char* name;
  bool (*matches)(const Params&);
  // What its launch does, for the cost model; on the current_device() (device.h). Never called for an empty output.
  Work (*work)(const Params&);
  // Enqueues on the current device. Never called for an empty output.
  cudaError_t (*launch)(const Params&, cudaStream_t);
  // Of a kernel that needs them: bytes of device memory that launch finds in the params' `workspace`, 256-byte
  // aligned and uninitialised; and what its launches after the first one do.
  int64_t (*workspace)(const Params&) = nullptr;
  std::vector<Work> (*further)(const Params&) = nullptr;
};

KernelTable<Kernel<DwConv2dParams>> dwconv2d_kernels();
KernelTable<Kernel<PwConv2dParams>> pwconv2d_kernels();
KernelTable<Kernel<SeparableConv2dParams>> separable_conv2d_kernels();
KernelTable<Kernel<StemConv2dParams>> stem_conv2d_kernels();
KernelTable<Kernel<PoolLinearParams>> pool_linear_kernels();

inline auto kernels_of(const DwConv2dParams&) { return dwconv2d_kernels(); }
inline auto kernels_of(const PwConv2dParams&) { return pwconv2d_kernels(); }
inline auto kernels_of(const SeparableConv2dParams&) { return separable_conv2d_kernels(); }
inline auto kernels_of(const StemConv2dParams&) { return stem_conv2d_kernels(); }
inline auto kernels_of(const PoolLinearParams&) { return pool_linear_kernels(); }

// separable_conv2d as two launches, the best of dwconv2d's and of pwconv2d's, with the tensor between them in the
// workspace: a line of separable_conv2d's table (unfused.cpp).
bool matches_unfused(const SeparableConv2dParams&);
Work work_unfused(const SeparableConv2dParams&);
cudaError_t launch_unfused(const SeparableConv2dParams&, cudaStream_t);
int64_t workspace_unfused(const SeparableConv2dParams&);
std::vector<Work> further_unfused(const SeparableConv2dParams&);

}  // namespace mbv1::cuda
