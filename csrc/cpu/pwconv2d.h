// Pointwise convolution: one matrix product with bias, residual and activation.
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// Rows of the left factor that an item multiplies: a fraction of a second-level cache, as weights pass by it.
constexpr int64_t kTileBytes = 256 * 1024;

// Where row k of the weights, a matrix [in_channels][out_channels], begins.
inline EvenRows weight_offset(const PwConv2dParams& p) { return {p.weight_stride_k}; }

// What few pixels may take of the second-level cache, where the panels of the weights pass by all of them.
constexpr int64_t kFewPixelsBytes = 512 * 1024;

// Whether to share out the panels among the threads, each packed just before its only use: then the weights are read
// once and never written to memory.
template <class E>
bool by_panels(const PwConv2dParams& p, const Threads& threads, int64_t pixels) {
  using A = Acc<E>;
  return tile_elements<A>(pixels, p.in_channels) * static_cast<int64_t>(sizeof(E)) <= kFewPixelsBytes &&
         (threads.count == 1 || divide_up(p.out_channels, Tile<A>::kCols) >= 2 * threads.count);
}

// `pixels` pixels, whose tiles of the left factor are at `a`.
template <class T, class E>
void multiply_by_panels(const PwConv2dParams& p, const Threads& threads, const Output<T>& out, const E* a,
                        int64_t pixels, const Acc<T>* bias) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols, kRows = Tile<A>::kRows;
  const int64_t blocks = blocks_of<A>(p.in_channels);
  parallel(threads, divide_up(p.out_channels, kCols), [&](int64_t begin, int64_t end) {
    E* panel = workspace<E>(Slot::kWeights, panel_elements<A>(p.in_channels));
    for (int64_t j = begin * kCols; j < smaller(end * kCols, p.out_channels); j += kCols) {
      pack_panel(static_cast<const T*>(p.weight), weight_offset(p), p.weight_stride_o, p.in_channels, p.out_channels,
                 j, panel);
      for (int64_t row = 0; row < pixels; row += kRows) {
        multiply_into<T, false>(out.from_row(row),
                                BlockedRows<E>{a + row / kRows * blocks * Tile<A>::kBlock, p.in_channels},
                                smaller<int64_t>(kRows, pixels - row), panel, kCols * kPairOf<E>, bias + j, j,
                                smaller<int64_t>(kCols, p.out_channels - j));
      }
    }
  });
}

template <class T, class E>
void pwconv2d_nhwc(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const T* x = static_cast<const T*>(p.x);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const int64_t pixels = p.batch * p.h * p.w;
  const int64_t tile = tile_elements<A>(kRows, p.in_channels);
  // Pixels from `first` on to the rows [begin, end) of the left factor.
  const auto pack_pixels = [&](int64_t first, int64_t begin, int64_t end, E* a) {
    Pixel pixel(first, p.h, p.w);
    for (int64_t r = begin; r < end; ++r, pixel.next(p.h, p.w)) {
      pack_row(x + pixel.offset(p.x_stride), p.x_stride.c, p.in_channels, r % kRows, a + r / kRows * tile);
    }
  };
  if (by_panels<E>(p, threads, pixels)) {
    E* a = workspace<E>(Slot::kTile, tile_elements<A>(pixels, p.in_channels));
    parallel(threads, pixels, [&](int64_t begin, int64_t end) { pack_pixels(begin, begin, end, a); });
    return multiply_by_panels(p, threads, output_pixels<T>(p, 0, pixels), a, pixels, bias);
  }
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.weight), weight_offset(p), p.weight_stride_o,
                                    p.in_channels, p.out_channels);
  const int64_t panels = divide_up(p.out_channels, Tile<A>::kCols);
  // Every tile is packed once for each item that it is in.
  const int64_t tiles = divide_up(pixels, kRows);
  const int64_t blocks = smaller(panels, divide_up(threads.count * kItemsPerThread, tiles));
  const int64_t panels_per_block = divide_up(panels, blocks);
  const int64_t fitting = larger<int64_t>(1, kTileBytes / (tile * static_cast<int64_t>(sizeof(E))));
  const int64_t group = smaller(fitting, divide_up(tiles * blocks, threads.count * kItemsPerThread));
  const int64_t groups = divide_up(tiles, group);
  parallel(threads, groups * blocks, [&](int64_t begin, int64_t end) {
    E* a = workspace<E>(Slot::kTile, group * tile);
    int64_t packed_group = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item / blocks * group * kRows, count = smaller(group * kRows, pixels - first);
      if (item / blocks != packed_group) pack_pixels(first, 0, count, a);
      packed_group = item / blocks;
      const int64_t panel = item % blocks * panels_per_block;
      multiply_tiles(output_pixels<T>(p, first, count), a, count, packed, p.in_channels, bias, p.out_channels, panel,
                     smaller(panel + panels_per_block, panels));
    }
  });
}

template <class T>
void pwconv2d_nchw(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const A* weights = pack_weight_rows(threads, static_cast<const T*>(p.weight), p.weight_stride_o, p.weight_stride_k,
                                      p.out_channels, p.in_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const int64_t pixels = p.h * p.w;
  const int64_t panels = divide_up(pixels, kCols);
  const bool even = p.x_stride.h == p.w * p.x_stride.w || p.h == 1;
  parallel(threads, p.batch * panels, [&](int64_t begin, int64_t end) {
    A* b = workspace<A>(Slot::kInput, panel_elements<A>(p.in_channels));
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
        zero_rows(b, p.in_channels);
      }
      multiply_channels<T>(p, weights, bias, b, kCols, n, first, cols);
    }
  });
}

constexpr Kernel<PwConv2dParams> kPwConv2d[] = {
    {"pwconv2d_nhwc", [](const PwConv2dParams& p) { return p.y_stride.c == 1; },
     [](const PwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) {
         with_operand(type, [&](auto operand) { pwconv2d_nhwc<decltype(type), decltype(operand)>(p, threads); });
       });
     }},
    {"pwconv2d_nchw", [](const PwConv2dParams&) { return true; },
     [](const PwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { pwconv2d_nchw<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
