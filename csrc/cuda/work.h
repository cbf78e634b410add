// Counts that the `work` functions of several kernels share.
#pragma once

#include <algorithm>

#include "../common/params.h"
#include "cost_model.h"

namespace mbv1::cuda {

inline double element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Instructions that convert an element to float32. PTX moves a bfloat16 to where a float32 has its upper half.
inline double conversions(DType dtype) { return dtype == DType::kFloat16 ? 1 : 0; }

// Distinct elements of a tensor, of which a dimension of stride 0 holds one.
inline double distinct(const Strides4& stride, int64_t n, int64_t c, int64_t h, int64_t w) {
  double count = 1;
  const int64_t sizes[] = {n, c, h, w}, strides[] = {stride.n, stride.c, stride.h, stride.w};
  for (int i = 0; i < 4; ++i) count *= strides[i] == 0 ? 1.0 : static_cast<double>(sizes[i]);
  return count;
}

inline double outputs(const DwConv2dParams& p) { return 1.0 * p.batch * p.channels * p.out_h * p.out_w; }
inline double taps(const Window& window) { return 1.0 * window.kernel_h * window.kernel_w; }

// Elements of x that some window covers.
template <class Params>
double covered(const Params& p, int64_t channels) {
  const auto extent = [](int64_t in, int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
    return std::min(in, std::min(out * kernel, (out - 1) * stride + (kernel - 1) * dilation + 1));
  };
  const Window& w = p.window;
  return distinct(p.x_stride, p.batch, channels, extent(p.in_h, p.out_h, w.stride_h, w.kernel_h, w.dilation_h),
                  extent(p.in_w, p.out_w, w.stride_w, w.kernel_w, w.dilation_w));
}

inline double covered_width(const DwConv2dParams& p) {
  const Window& w = p.window;
  return std::min(p.in_w,
                  std::min(p.out_w * w.kernel_w, (p.out_w - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1));
}

// Each tensor once.
inline double tensor_bytes(const DwConv2dParams& p) {
  const double weights = p.channels * (taps(p.window) + (p.bias != nullptr));
  return (covered(p, p.channels) + weights + outputs(p)) * element_bytes(p.dtype);
}

inline double tensor_bytes(const PwConv2dParams& p) {
  const double weights = 1.0 * p.out_channels * (p.in_channels + (p.bias != nullptr));
  const double residual = p.residual == nullptr ? 0 : distinct(p.residual_stride, p.batch, p.out_channels, p.h, p.w);
  const double x = distinct(p.x_stride, p.batch, p.in_channels, p.h, p.w);
  return (x + weights + residual + 1.0 * p.batch * p.out_channels * p.h * p.w) * element_bytes(p.dtype);
}

inline double tensor_bytes(const SeparableConv2dParams& p) {
  PwConv2dParams pw = p.pw;
  pw.x_stride = {};  // one element, of a tensor between the parts that has none
  return tensor_bytes(p.dw) + tensor_bytes(pw) - (outputs(p.dw) + 1) * element_bytes(p.dw.dtype);
}

inline double tensor_bytes(const StemConv2dParams& p) {
  const double weights = p.out_channels * (p.in_channels * taps(p.window) + (p.bias != nullptr));
  const double y = 1.0 * p.batch * p.out_channels * p.out_h * p.out_w;
  return (covered(p, p.in_channels) + weights + y) * element_bytes(p.dtype);
}

inline double tensor_bytes(const PoolLinearParams& p) {
  const double weights = 1.0 * p.out_features * (p.channels + (p.bias != nullptr));
  const double x = distinct(p.x_stride, p.batch, p.channels, p.h, p.w);
  return (x + weights + 1.0 * p.batch * p.out_features) * element_bytes(p.dtype);
}

}  // namespace mbv1::cuda
