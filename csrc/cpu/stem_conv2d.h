// The first convolution: an implicit matrix product whose inner dimension is (kernel row, kernel column, channel).
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// The product as a pointwise convolution of `depth` channels over the output's pixels.
inline PwConv2dParams as_pointwise(const StemConv2dParams& p) {
  PwConv2dParams pw{};
  pw.y = p.y;
  pw.batch = p.batch, pw.h = p.out_h, pw.w = p.out_w;
  pw.in_channels = p.window.kernel_h * p.window.kernel_w * p.in_channels;
  pw.out_channels = p.out_channels;
  pw.y_stride = p.y_stride;
  pw.activation = p.activation;
  pw.dtype = p.dtype;
  return pw;
}

// Where weight [o][c][i][j] of inner index k = (i * kernel_w + j) * channels + c lies from weight [o][0][0][0].
inline auto weight_offset(const StemConv2dParams& p) {
  return [&p](int64_t k) {
    const int64_t c = k % p.in_channels, tap = k / p.in_channels;
    return c * p.weight_stride_c + tap / p.window.kernel_w * p.weight_stride_h +
           tap % p.window.kernel_w * p.weight_stride_w;
  };
}

// The input values under the window of an output pixel, zero outside, to patch[k * step].
template <class T>
void gather_patch(const StemConv2dParams& p, int64_t n, int64_t oh, int64_t ow, Acc<T>* patch, int64_t step) {
  const Window& window = p.window;
  const T* image = static_cast<const T*>(p.x) + n * p.x_stride.n;
  const int64_t top = oh * window.stride_h - window.pad_top, left = ow * window.stride_w - window.pad_left;
  for (int64_t i = 0; i < window.kernel_h; ++i) {
    for (int64_t j = 0; j < window.kernel_w; ++j) {
      const int64_t ih = top + i, iw = left + j;
      const bool inside = ih >= 0 && ih < p.in_h && iw >= 0 && iw < p.in_w;
      const T* pixel = image + ih * p.x_stride.h + iw * p.x_stride.w;
      for (int64_t c = 0; c < p.in_channels; ++c, patch += step) {
        *patch = inside ? load_one(pixel + c * p.x_stride.c) : Acc<T>(0);
      }
    }
  }
}

template <class T>
void stem_conv2d_nhwc(const StemConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const PwConv2dParams pw = as_pointwise(p);
  const A* packed =
      pack_weights<T>(threads, p.weight, weight_offset(p), p.weight_stride_o, pw.in_channels, p.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const int64_t pixels = pw.batch * pw.h * pw.w;
  parallel(threads, divide_up(pixels, kRows), [&](int64_t begin, int64_t end) {
    A* patches = workspace<A>(Slot::kInput, kRows * pw.in_channels);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item * kRows, rows = smaller<int64_t>(pixels - first, kRows);
      const A* a[kRows];
      for (int64_t r = 0; r < kRows; ++r) a[r] = patches + smaller(r, rows - 1) * pw.in_channels;
      for (int64_t r = 0; r < rows; ++r) {
        const Pixel pixel(first + r, pw.h, pw.w);
        gather_patch<T>(p, pixel.n, pixel.h, pixel.w, patches + r * pw.in_channels, 1);
      }
      multiply_pixels<T>(pw, a, 1, packed, bias, first, rows, 0, divide_up(p.out_channels, Tile<A>::kCols));
    }
  });
}

template <class T>
void stem_conv2d_nchw(const StemConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const PwConv2dParams pw = as_pointwise(p);
  const auto offset = weight_offset(p);
  A* weights = workspace<A>(Slot::kWeights, p.out_channels * pw.in_channels);
  for (int64_t o = 0; o < p.out_channels; ++o) {
    const T* row = static_cast<const T*>(p.weight) + o * p.weight_stride_o;
    for (int64_t k = 0; k < pw.in_channels; ++k) weights[o * pw.in_channels + k] = load_one(row + offset(k));
  }
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const int64_t pixels = pw.h * pw.w, panels = divide_up(pixels, kCols);
  parallel(threads, pw.batch * panels, [&](int64_t begin, int64_t end) {
    A* patches = workspace<A>(Slot::kInput, pw.in_channels * kCols);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / panels, first = item % panels * kCols;
      const int64_t cols = smaller<int64_t>(pixels - first, kCols);
      for (int64_t j = 0; j < kCols; ++j) {
        const Pixel pixel(first + smaller(j, cols - 1), pw.h, pw.w);
        gather_patch<T>(p, n, pixel.h, pixel.w, patches + j, kCols);
      }
      multiply_channels<T>(pw, {weights, pw.in_channels, 1}, bias, patches, kCols, n, first, cols);
    }
  });
}

constexpr Kernel<StemConv2dParams> kStemConv2d[] = {
    {"stem_conv2d_nhwc", [](const StemConv2dParams& p) { return p.y_stride.c == 1; },
     [](const StemConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { stem_conv2d_nhwc<decltype(type)>(p, threads); });
     }},
    {"stem_conv2d_nchw", [](const StemConv2dParams&) { return true; },
     [](const StemConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { stem_conv2d_nchw<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
