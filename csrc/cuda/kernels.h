// The CUDA kernels as their binding sees them: one table an op, in csrc/cuda/<op>.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "../common/kernel_table.h"
#include "../common/params.h"

namespace mbv1::cuda {

template <class Params>
struct Kernel {
  const char* name;
  bool (*matches)(const Params&);
  // Enqueues on the current device. Never called for an empty output.
  cudaError_t (*launch)(const Params&, cudaStream_t);
};

KernelTable<Kernel<DwConv2dParams>> dwconv2d_kernels();
KernelTable<Kernel<PwConv2dParams>> pwconv2d_kernels();
KernelTable<Kernel<SeparableConv2dParams>> separable_conv2d_kernels();
KernelTable<Kernel<StemConv2dParams>> stem_conv2d_kernels();
KernelTable<Kernel<PoolLinearParams>> pool_linear_kernels();

}  // namespace mbv1::cuda
