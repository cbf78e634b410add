// The first convolution: an implicit matrix product whose inner dimension is (kernel row, kernel column, channel).
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// Where weight [o][c][i][j] of inner index k = (i * kernel_w + j) * channels + c lies from weight [o][0][0][0].
inline auto weight_offset(const StemConv2dParams& p) {
  return [&p](int64_t k) {
    const int64_t c = k % p.in_channels, tap = k / p.in_channels;
    return c * p.weight_stride_c + tap / p.window.kernel_w * p.weight_stride_h +
           tap % p.window.kernel_w * p.weight_stride_w;
  };
}

// Input rows as the product reads them: [row][column][channel] in the type of the sums, with their padding.
template <class T>
struct StemRows {
  Acc<T>* data;
  int64_t columns, row_size, pixel_step;
  int64_t* offsets;  // of inner index k from an output's first input

  // For `rows` output rows, in the calling thread's workspace.
  StemRows(const StemConv2dParams& p, int64_t rows) {
    const Window& w = p.window;
    const int64_t depth = int64_t{w.kernel_h} * w.kernel_w * p.in_channels;
    columns = (p.out_w - 1) * w.stride_w + w.kernel_w;
    row_size = columns * p.in_channels, pixel_step = w.stride_w * p.in_channels;
    // A tile may reach beyond the last output of the last row.
    const int64_t slack = Tile<Acc<T>>::kRows * pixel_step;
    data = workspace<Acc<T>>(Slot::kInput, ((rows - 1) * w.stride_h + w.kernel_h) * row_size + slack);
    offsets = workspace<int64_t>(Slot::kTileOffsets, depth);
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t tap = k / p.in_channels;
      offsets[k] = tap / w.kernel_w * row_size + tap % w.kernel_w * p.in_channels + k % p.in_channels;
    }
  }

  // What output rows [begin, end) of image n read.
  void stage(const StemConv2dParams& p, int64_t n, int64_t begin, int64_t end) const {
    const int64_t top = begin * p.window.stride_h - p.window.pad_top, channels = p.in_channels;
    const int64_t count = (end - begin - 1) * p.window.stride_h + p.window.kernel_h;
    const int64_t left = smaller<int64_t>(p.window.pad_left, columns), right = smaller(left + p.in_w, columns);
    for (int64_t i = 0; i < count; ++i) {
      Acc<T>* to = data + i * row_size;
      const bool exists = top + i >= 0 && top + i < p.in_h;
      const T* from = static_cast<const T*>(p.x) + n * p.x_stride.n + (top + i) * p.x_stride.h;
      const int64_t first = exists ? left : columns;
      for (int64_t e = 0; e < first * channels; ++e) to[e] = Acc<T>(0);
      if (!exists) continue;
      if (p.x_stride.c == 1 && p.x_stride.w == channels) {
        gather(from, 1, (right - left) * channels, to + left * channels);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          const T* value = from + c * p.x_stride.c;
          for (int64_t w = left; w < right; ++w, value += p.x_stride.w) to[w * channels + c] = load_one(value);
        }
      }
      for (int64_t e = right * channels; e < row_size; ++e) to[e] = Acc<T>(0);
    }
  }

  // Row `row` of those staged, all columns and channels.
  void multiply(const StemConv2dParams& p, int64_t row, const Output<T>& out, const Acc<T>* packed,
                const Acc<T>* bias, int64_t cols) const {
    using A = Acc<T>;
    constexpr int kRows = Tile<A>::kRows;
    const int64_t depth = int64_t{p.window.kernel_h} * p.window.kernel_w * p.in_channels;
    const A* a = data + row * p.window.stride_h * row_size;
    for (int64_t ow = 0; ow < p.out_w; ow += kRows, a += kRows * pixel_step) {
      multiply_panels(out.from_row(ow), IndexedRows<A>{a, offsets, depth, pixel_step},
                      smaller<int64_t>(p.out_w - ow, kRows), packed, panel_elements<A>(depth), bias, cols, 0,
                      divide_up(p.out_channels, Tile<A>::kCols));
    }
  }
};

template <class T>
void stem_conv2d(const StemConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  const int64_t depth = int64_t{p.window.kernel_h} * p.window.kernel_w * p.in_channels;
  const A* packed = pack_weights<A>(threads, static_cast<const T*>(p.weight), weight_offset(p), p.weight_stride_o,
                                    depth, p.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  parallel(threads, p.batch * p.out_h, [&](int64_t begin, int64_t end) {
    const StemRows<T> rows(p, 1);
    int64_t* y_row = workspace<int64_t>(Slot::kOffsets, p.out_w);
    for (int64_t ow = 0; ow < p.out_w; ++ow) y_row[ow] = ow * p.y_stride.w;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / p.out_h, oh = item % p.out_h;
      rows.stage(p, n, oh, oh + 1);
      T* y = static_cast<T*>(p.y) + n * p.y_stride.n + oh * p.y_stride.h;
      const Output<T> out{y, y_row, p.out_w, kLanes<A> * p.y_stride.c, p.y_stride.c, p.activation};
      rows.multiply(p, 0, out, packed, bias, p.out_channels);
    }
  });
}

inline void run_stem_conv2d(const StemConv2dParams& p, const Threads& threads) {
  with_dtype(p.dtype, [&](auto type) { stem_conv2d<decltype(type)>(p, threads); });
}

constexpr Kernel<StemConv2dParams> kStemConv2d[] = {
    {"stem_conv2d_nhwc", [](const StemConv2dParams& p) { return p.y_stride.c == 1; }, run_stem_conv2d},
    {"stem_conv2d_nchw", [](const StemConv2dParams&) { return true; }, run_stem_conv2d},
};

}  // namespace
}  // namespace mbv1::cpu
