// Depthwise-separable convolution: a tile of depthwise outputs is computed into the thread's scratch memory, where it
// stays in the second-level cache, and multiplied from there. The tensor between the two never exists.
#pragma once

#include "dwconv2d.h"
#include "pwconv2d.h"

namespace mbv1::cpu {
namespace {

// A tile of depthwise outputs takes about this much: a fraction of a second-level cache, as weights pass by it.
constexpr int64_t kTileBytes = 128 * 1024;
// Work items a thread should get, so that none waits long for the last.
constexpr int64_t kItemsPerThread = 4;

// Tiles of consecutive output pixels, all channels of each: [pixel][channel], the left factor of the product.
template <class T>
void separable_conv2d_nhwc(const SeparableConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const int64_t channels = p.dw.channels, pixels = p.pw.batch * p.pw.h * p.pw.w;
  const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
  const A* packed =
      pack_weights<T>(threads, p.pw.weight, weight_offset(p.pw), p.pw.weight_stride_o, channels, p.pw.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  const int64_t panels = divide_up(p.pw.out_channels, Tile<A>::kCols);
  const int64_t fitting = kTileBytes / (channels * static_cast<int64_t>(sizeof(A)));
  const int64_t fair = divide_up(pixels, threads.count * kItemsPerThread);
  const int64_t tile = larger<int64_t>(1, smaller(fitting, fair) / kRows) * kRows;
  with_depthwise_row<T, A>(p.dw, [&](auto depthwise_row) {
    parallel(threads, divide_up(pixels, tile), [&](int64_t begin, int64_t end) {
      A* middle = workspace<A>(Slot::kTile, tile * channels);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item * tile, count = smaller(tile, pixels - first);
        for (int64_t done = 0; done < count;) {
          const Pixel pixel(first + done, p.pw.h, p.pw.w);
          const int64_t run = smaller(count - done, p.pw.w - pixel.w);
          depthwise_row(p.dw, dw_weights, pixel.n, pixel.h, pixel.w, pixel.w + run, middle + done * channels,
                        channels);
          done += run;
        }
        for (int64_t panel = 0; panel < panels; panel += kPanelsPerItem) {
          for (int64_t row = 0; row < count; row += kRows) {
            const int64_t rows = smaller<int64_t>(count - row, kRows);
            const A* a[kRows];
            for (int64_t r = 0; r < kRows; ++r) a[r] = middle + (row + smaller(r, rows - 1)) * channels;
            multiply_pixels<T>(p.pw, a, 1, packed, bias, first + row, rows, panel,
                               smaller(panel + kPanelsPerItem, panels));
          }
        }
      }
    });
  });
}

// Tiles of whole output rows of one image: [channel][pixel], the right factor of the product.
template <class T>
void separable_conv2d_nchw(const SeparableConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const int64_t channels = p.dw.channels, height = p.pw.h, width = p.pw.w;
  const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
  const WeightRows<T> pw_weights =
      weight_rows<T>(threads, p.pw.weight, p.pw.weight_stride_o, p.pw.weight_stride_k, p.pw.out_channels, channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  const int64_t fitting = kTileBytes / (channels * width * static_cast<int64_t>(sizeof(A)));
  const int64_t fair = divide_up(p.pw.batch * height, threads.count * kItemsPerThread);
  const int64_t band = larger<int64_t>(1, smaller(height, smaller(fitting, fair)));
  const int64_t bands = divide_up(height, band), step = round_up(band * width, kCols);
  with_kernel_size(p.dw, [&](auto size) {
    parallel(threads, p.pw.batch * bands, [&](int64_t begin, int64_t end) {
      A* middle = workspace<A>(Slot::kTile, step * channels);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t n = item / bands, first = item % bands * band;
        const int64_t last = smaller(first + band, height), pixels = (last - first) * width;
        for (int64_t c = 0; c < channels; ++c) {
          A* row = middle + c * step;
          depthwise_rows_nchw<T, A, decltype(size)::value>(p.dw, dw_weights, n, c, first, last, row);
          for (int64_t i = pixels; i < round_up(pixels, kCols); ++i) row[i] = A(0);
        }
        for (int64_t j = 0; j < pixels; j += kCols) {
          multiply_channels<T>(p.pw, pw_weights, bias, middle + j, step, n, first * width + j,
                               smaller<int64_t>(pixels - j, kCols));
        }
      }
    });
  });
}

constexpr Kernel<SeparableConv2dParams> kSeparableConv2d[] = {
    {"separable_conv2d_nhwc",
     [](const SeparableConv2dParams& p) { return p.dw.x_stride.c == 1 && p.pw.y_stride.c == 1; },
     [](const SeparableConv2dParams& p, const Threads& threads) {
       with_dtype(p.pw.dtype, [&](auto type) { separable_conv2d_nhwc<decltype(type)>(p, threads); });
     }},
    {"separable_conv2d_nchw", [](const SeparableConv2dParams& p) { return p.pw.y_stride.w == 1; },
     [](const SeparableConv2dParams& p, const Threads& threads) {
       with_dtype(p.pw.dtype, [&](auto type) { separable_conv2d_nchw<decltype(type)>(p, threads); });
     }},
    // Channels-last memory whose channels are a strided slice.
    {"separable_conv2d_any", [](const SeparableConv2dParams&) { return true; },
     [](const SeparableConv2dParams& p, const Threads& threads) {
       with_dtype(p.pw.dtype, [&](auto type) { separable_conv2d_nhwc<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
