// Depthwise-separable convolution: some rows of depthwise outputs are computed into the thread's scratch memory,
// where they stay in the second-level cache, and multiplied from there. The tensor between the two never exists.
#pragma once

#include "dwconv2d.h"
#include "pwconv2d.h"

namespace mbv1::cpu {
namespace {

// Where depthwise output m of a band lies in the left factor, whose tiles have `blocks` blocks: offsets[0 … count).
template <class A>
void place_in_tiles(int64_t count, int64_t blocks, int64_t* offsets) {
  constexpr int kRows = Tile<A>::kRows, kL = kLanes<A>;
  for (int64_t first = 0, tile = 0; first < count; first += kRows, tile += blocks * Tile<A>::kBlock) {
    for (int64_t r = 0; r < smaller<int64_t>(kRows, count - first); ++r) offsets[first + r] = tile + r * kL;
  }
}

// Bands of output rows of one image: [tile][block][pixel][channel], the left factor of the product.
template <class T, class E>
void separable_conv2d_nhwc(const SeparableConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  const int64_t channels = p.dw.channels, blocks = blocks_of<A>(channels), width = p.pw.w, height = p.pw.h;
  const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
  const DwRuns<T, E> runs(p.dw.window);
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.pw.weight), weight_offset(p.pw),
                                    p.pw.weight_stride_o, channels, p.pw.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  const int64_t fitting = kTileBytes / (channels * width * static_cast<int64_t>(sizeof(E)));
  const int64_t fair = divide_up(p.pw.batch * height, threads.count * kItemsPerThread);
  const int64_t band = larger<int64_t>(1, smaller(height, smaller(fitting, fair)));
  const int64_t bands = divide_up(height, band);
  parallel(threads, p.pw.batch * bands, [&](int64_t begin, int64_t end) {
    E* middle = workspace<E>(Slot::kTile, tile_elements<A>(band * width, channels));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, band * width);
    place_in_tiles<A>(band * width, blocks, offsets);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / bands, first = item % bands * band, last = smaller(first + band, height);
      struct Place {
        E* y;
        const int64_t* offsets;
      };
      for (int64_t block = 0; block < blocks; ++block) {
        E* y = middle + block * Tile<A>::kBlock;
        depthwise_rows(p.dw, runs, dw_weights, n, first, last, block, block + 1, 0,
                       [&](int64_t oh) { return Place{y, offsets + (oh - first) * width}; });
      }
      const int64_t pixels = (last - first) * width;
      multiply_tiles(output_pixels<T>(p.pw, (n * height + first) * width, pixels), middle, pixels, packed, channels,
                     bias, p.pw.out_channels, 0, divide_up(p.pw.out_channels, Tile<A>::kCols));
    }
  });
}

// Bands of output rows of one image: [channel][pixel], the right factor of the product.
template <class T>
void separable_conv2d_nchw(const SeparableConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const int64_t channels = p.dw.channels, height = p.pw.h, width = p.pw.w;
  const int64_t padded = blocks_of<A>(channels) * kLanes<A>;
  const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
  const A* pw_weights = pack_weight_rows(threads, static_cast<const T*>(p.pw.weight), p.pw.weight_stride_o,
                                         p.pw.weight_stride_k, p.pw.out_channels, channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  const int64_t fitting = kTileBytes / (channels * width * static_cast<int64_t>(sizeof(A)));
  const int64_t fair = divide_up(p.pw.batch * height, threads.count * kItemsPerThread);
  const int64_t band = larger<int64_t>(1, smaller(height, smaller(fitting, fair)));
  const int64_t bands = divide_up(height, band), step = round_up(band * width, kCols);
  with_kernel_size(p.dw, [&](auto size) {
    parallel(threads, p.pw.batch * bands, [&](int64_t begin, int64_t end) {
      A* middle = workspace<A>(Slot::kTile, step * padded);
      for (int64_t i = step * channels; i < step * padded; ++i) middle[i] = A(0);
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
    {"separable_conv2d_nhwc", [](const SeparableConv2dParams& p) { return p.pw.y_stride.c == 1; },
     [](const SeparableConv2dParams& p, const Threads& threads) {
       with_dtype(p.pw.dtype, [&](auto type) {
         with_operand(type,
                      [&](auto operand) { separable_conv2d_nhwc<decltype(type), decltype(operand)>(p, threads); });
       });
     }},
    {"separable_conv2d_nchw", [](const SeparableConv2dParams&) { return true; },
     [](const SeparableConv2dParams& p, const Threads& threads) {
       with_dtype(p.pw.dtype, [&](auto type) { separable_conv2d_nchw<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
