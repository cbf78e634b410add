// Pointwise convolution: one matrix product with bias, residual and activation.
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// Weight panels that one work item covers: 64 to 128 output channels, so that small images still make many items.
constexpr int64_t kPanelsPerItem = 4;

// Where row k of the weights, a matrix [in_channels][out_channels], begins.
inline auto weight_offset(const PwConv2dParams& p) {
  return [step = p.weight_stride_k](int64_t k) { return k * step; };
}

template <class T>
void pwconv2d_nhwc(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const A* packed =
      pack_weights<T>(threads, p.weight, weight_offset(p), p.weight_stride_o, p.in_channels, p.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const T* x = static_cast<const T*>(p.x);
  const int64_t pixels = p.batch * p.h * p.w;
  const int64_t tiles = divide_up(pixels, kRows);
  const int64_t panels = divide_up(p.out_channels, Tile<A>::kCols);
  const int64_t blocks = divide_up(panels, kPanelsPerItem);
  parallel(threads, tiles * blocks, [&](int64_t begin, int64_t end) {
    const A* rows[kRows];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % tiles * kRows;
      const int64_t count = smaller<int64_t>(pixels - first, kRows);
      A* converted = std::is_same_v<T, A> ? nullptr : workspace<A>(Slot::kInput, kRows * p.in_channels);
      for (int64_t r = 0; r < kRows; ++r) {
        const T* row = x + Pixel(first + smaller(r, count - 1), p.h, p.w).offset(p.x_stride);
        if constexpr (std::is_same_v<T, A>) {
          rows[r] = row;
        } else {
          rows[r] = converted + r * p.in_channels;
          gather(row, p.x_stride.c, p.in_channels, converted + r * p.in_channels);
        }
      }
      const int64_t panel = item / tiles * kPanelsPerItem;
      multiply_pixels<T>(p, rows, std::is_same_v<T, A> ? p.x_stride.c : 1, packed, bias, first, count, panel,
                         smaller(panel + kPanelsPerItem, panels));
    }
  });
}

template <class T>
void pwconv2d_nchw(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const WeightRows<T> weights =
      weight_rows<T>(threads, p.weight, p.weight_stride_o, p.weight_stride_k, p.out_channels, p.in_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const int64_t pixels = p.h * p.w;
  const int64_t panels = divide_up(pixels, kCols);
  const bool even = p.x_stride.h == p.w * p.x_stride.w || p.h == 1;
  parallel(threads, p.batch * panels, [&](int64_t begin, int64_t end) {
    A* b = workspace<A>(Slot::kInput, p.in_channels * kCols);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / panels, first = item % panels * kCols;
      const int64_t cols = smaller<int64_t>(pixels - first, kCols);
      const T* image = static_cast<const T*>(p.x) + n * p.x_stride.n;
      if (even) {
        pack_panel(image, [&](int64_t k) { return k * p.x_stride.c; }, p.x_stride.w, p.in_channels, pixels, first, b);
      } else {
        for (int64_t j = 0; j < kCols; ++j) {
          const Pixel pixel(first + smaller(j, cols - 1), p.h, p.w);
          const T* column = image + pixel.h * p.x_stride.h + pixel.w * p.x_stride.w;
          for (int64_t k = 0; k < p.in_channels; ++k) b[k * kCols + j] = load_one(column + k * p.x_stride.c);
        }
      }
      multiply_channels<T>(p, weights, bias, b, kCols, n, first, cols);
    }
  });
}

constexpr Kernel<PwConv2dParams> kPwConv2d[] = {
    {"pwconv2d_nhwc", [](const PwConv2dParams& p) { return p.y_stride.c == 1; },
     [](const PwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { pwconv2d_nhwc<decltype(type)>(p, threads); });
     }},
    {"pwconv2d_nchw", [](const PwConv2dParams&) { return true; },
     [](const PwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { pwconv2d_nchw<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
