// The kernels of dwconv2d that are compiled in files of their own, so that they compile side by side.
#pragma once

#include "kernels.h"

namespace mbv1::cuda {

// Square windows of kKernel at kStride without dilation; NHWC with 16-byte vectors of channels: dwconv2d_nhwc.cuh.
template <int kKernel, int kStride>
bool matches_nhwc_strips(const DwConv2dParams& p);
template <int kKernel, int kStride>
cudaError_t launch_nhwc_strips(const DwConv2dParams& p, cudaStream_t stream);

// The same windows in dense NCHW: dwconv2d_nchw.cuh.
template <int kKernel, int kStride>
bool matches_nchw_planes(const DwConv2dParams& p);
template <int kKernel, int kStride>
cudaError_t launch_nchw_planes(const DwConv2dParams& p, cudaStream_t stream);

}  // namespace mbv1::cuda
