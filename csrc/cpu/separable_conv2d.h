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

// Output rows that an item makes: as many as fit, but so few that every thread gets its share of items.
inline int64_t band_of_rows(int64_t height, int64_t batch, int64_t fitting, const Threads& threads) {
  const int64_t fair = divide_up(batch * height, items_wanted(threads));
  return larger<int64_t>(1, smaller(height, smaller(fitting, fair)));
}

// Bands of output rows of one image: [tile][block][pixel][channel], the left factor of the product.
template <class T, class E>
void separable_conv2d(const SeparableConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  const int64_t channels = p.dw.channels, blocks = blocks_of<A>(channels), width = p.pw.w, height = p.pw.h;
  const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
  const DwRuns<T, E> runs(p.dw.window);
  const DwRuns<T, E, true> runs_in_place(p.dw.window);
  const bool reads_in_place = channels % kLanes<A> == 0 && in_place<T>(p.dw);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  // Depthwise outputs of rows [first, last) of image n to the tiles of the left factor.
  const auto depthwise = [&](int64_t n, int64_t first, int64_t last, E* tiles, const int64_t* offsets) {
    const auto place = [&](int64_t oh) { return DwPlace<E>{tiles, offsets + (oh - first) * width}; };
    if (reads_in_place) {
      return depthwise_in_place(p.dw, runs_in_place, dw_weights, n, first, last, 0, channels, Tile<A>::kRows, place);
    }
    for (int64_t block = 0; block < blocks; ++block, tiles += Tile<A>::kBlock) {
      if (p.dw.x_stride.c == 1) {
        depthwise_rows(p.dw, runs_in_place, dw_weights, n, first, last, block, block + 1, 0, place);
      } else {
        depthwise_planes(p.dw, runs, dw_weights, n, block, first, last, place, [](int64_t, int64_t) {});
      }
    }
  };
  if (p.pw.batch == 1 && by_panels<E>(p.pw, threads)) {
    E* middle = workspace<E>(Slot::kTile, tile_elements<A>(height * width, channels));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, height * width);
    place_in_tiles<A>(height * width, blocks, offsets);
    parallel(threads, height,
             [&](int64_t begin, int64_t end) { depthwise(0, begin, end, middle, offsets + begin * width); });
    return multiply_by_panels<T>(p.pw, threads, LeftFactor<E>{middle, channels}, bias);
  }
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.pw.weight), weight_offset(p.pw),
                                    p.pw.weight_stride_o, channels, p.pw.out_channels);
  const int64_t fitting = kTileBytes / (channels * width * static_cast<int64_t>(sizeof(E)));
  const int64_t band = band_of_rows(height, p.pw.batch, fitting, threads), bands = divide_up(height, band);
  parallel(threads, p.pw.batch * bands, [&](int64_t begin, int64_t end) {
    E* middle = workspace<E>(Slot::kTile, tile_elements<A>(band * width, channels));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, band * width);
    place_in_tiles<A>(band * width, blocks, offsets);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / bands, first = item % bands * band, last = smaller(first + band, height);
      depthwise(n, first, last, middle, offsets);
      const int64_t pixels = (last - first) * width;
      multiply_tiles(output_pixels<T>(p.pw, (n * height + first) * width, pixels), middle, pixels, packed, channels,
                     bias, p.pw.out_channels, 0, divide_up(p.pw.out_channels, Tile<A>::kCols));
    }
  });
}

inline void run_separable_conv2d(const SeparableConv2dParams& p, const Threads& threads) {
  with_dtype(p.pw.dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { separable_conv2d<decltype(type), decltype(operand)>(p, threads); });
  });
}

constexpr Kernel<SeparableConv2dParams> kSeparableConv2d[] = {
    {"separable_conv2d_nhwc", [](const SeparableConv2dParams& p) { return p.pw.y_stride.c == 1; },
     run_separable_conv2d},
    {"separable_conv2d_nchw", [](const SeparableConv2dParams&) { return true; }, run_separable_conv2d},
};

}  // namespace
}  // namespace mbv1::cpu
