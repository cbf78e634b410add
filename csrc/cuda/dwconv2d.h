// The kernels of dwconv2d that are compiled in files of their own, so that they compile side by side.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "numeric.cuh"

namespace mbv1::cuda {

// Square windows of kKernel at kStride without dilation; NHWC with 16-byte vectors of channels: dwconv2d_nhwc.cuh.
template <int kKernel, int kStride>
bool matches_nhwc_strips(const DwConv2dParams& p);
template <int kKernel, int kStride>
Work work_nhwc_strips(const DwConv2dParams& p);
template <int kKernel, int kStride>
cudaError_t launch_nhwc_strips(const DwConv2dParams& p, cudaStream_t stream);

// The same windows in dense NCHW: dwconv2d_nchw.cuh.
template <int kKernel, int kStride>
bool matches_nchw_planes(const DwConv2dParams& p);
template <int kKernel, int kStride>
Work work_nchw_planes(const DwConv2dParams& p);
template <int kKernel, int kStride>
cudaError_t launch_nchw_planes(const DwConv2dParams& p, cudaStream_t stream);

// Square windows of kKernel in NCHW with any stride and dilation: dwconv2d_nchw_tiles.cu.
template <int kKernel>
bool matches_nchw(const DwConv2dParams& p);
template <int kKernel>
Work work_nchw(const DwConv2dParams& p);
template <int kKernel>
cudaError_t launch_nchw(const DwConv2dParams& p, cudaStream_t stream);

inline bool is_square(const DwConv2dParams& p, int kernel) {
  return has_cuda_kernels(p.dtype) && p.window.kernel_h == kernel && p.window.kernel_w == kernel &&
         coordinates_fit_int32(p);
}

// Coordinates of x inside it that `tiles` tiles of `tile` outputs read, each of them `span` from its first one on.
inline double coordinates_of_tiles(int64_t in, int64_t tiles, int64_t tile, int64_t span, int64_t stride,
                                   int64_t pad) {
  int64_t count = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = i * tile * stride - pad;
    count += std::max<int64_t>(0, std::min(first + span, in) - std::max<int64_t>(first, 0));
  }
  return static_cast<double>(count);
}

}  // namespace mbv1::cuda
