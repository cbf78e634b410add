// Design B for NCHW as its table sees it. separable_bands.cuh has the source, a separable_bands_<type>.cu compiles
// it.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include "device.h"
#include "pwconv2d.h"

namespace mbv1::cuda {

// How a call is cut into bands down the stack of all images' output rows: runs of pixels, most often of whole rows,
// or parts of rows.
struct BandGrid {
  int pixels, width;         // of a band; columns of its rows, fewer than those of y in parts
  int columns;               // neighbouring pixels that a thread makes
  int overhang;              // columns of x, in whole sectors, that a part's windows reach to its left
  int in_rows, row_vectors;  // of x under a band at most, and vectors that cover a row, wherever it starts
  int copies, copy_groups;   // of a channel, rows times vectors; channels that threads copy at once
  int stages;                // of x and of pointwise weights: one is used while the others arrive
  int64_t bands, parts;      // down the stack, and side by side
  int64_t output_tiles;      // a block makes a tile of a band

  // Of x, under a part: a multiple of the vector size.
  __host__ __device__ int64_t first_column(int64_t part, int64_t stride) const {
    const int64_t first = part * width * stride - overhang;
    return first > 0 ? first : 0;
  }
  bool exists() const { return width > 0; }
  int64_t blocks() const { return bands * parts * output_tiles; }
  // Whether every row of a part, or every run, starts at a multiple of the vector size.
  bool starts_with_vectors(int64_t out_w, int vector) const { return (parts > 1 ? out_w : pixels) % vector == 0; }
};

template <class Element, bool kTf32, class Shape>
struct BandTraits {
  using T = Element;
  static constexpr int kPixels = Shape::kPixels;
  // By FMA a warp makes 32 x 64, which needs more registers.
  static constexpr bool kIsWide = kIsFma<T, kTf32>;
  static constexpr int kWarpM = kIsWide ? 32 : Shape::kWarpM, kWarpN = kIsWide ? 64 : 32;
  using Tile = MatrixTile<T, kTf32, Layout::kNchw, Shape::kOutputs / kWarpM, kPixels / kWarpN, kWarpM, kWarpN>;
  static constexpr int kKernel = 3, kThreads = Tile::kThreads;
  // 128 registers a thread at 512 threads an SM, 168 at 384.
  static constexpr int kSmThreads = kIsWide ? 384 : 512, kBlocksPerSm = kIsAmpere ? kSmThreads / kThreads : 1;
  static constexpr int kMaxStages = 4;
  static constexpr int kSector = 32 / static_cast<int>(sizeof(T));  // elements
  static constexpr int kTapRow = 4, kTapPitch = kKernel * kTapRow;  // floats: 16-byte loads of a row of taps
  static constexpr int kTapElements = Tile::kSlice * kTapPitch;
  static constexpr int kStaticBytes = 16 * kPixels;  // the places of the pixels
  static_assert((2 * Tile::kWeightElements + Tile::kPixelElements) * sizeof(T) >= Tile::kStoreBytes);

  // Words of pixels that a thread makes at once, as many as registers hold.
  __host__ __device__ static constexpr int words_at_once(int columns) {
    return kIsWide || columns * sizeof(T) <= 4 ? 2 : 1;
  }

  static int64_t shared_bytes(const BandGrid& grid, int stages) {
    const int64_t x = int64_t{Tile::kSlice} * grid.copies * kVectorBytes;
    const int64_t matrices = stages * Tile::kWeightElements + Tile::kPixelElements;
    return stages * x + matrices * sizeof(T) + 2 * kTapElements * sizeof(float);
  }
  static int64_t shared_bytes(const BandGrid& grid) { return shared_bytes(grid, grid.stages); }

  // The cut with the least work, if a block can have one.
  static BandGrid grid(const SeparableConv2dParams& p) {
    const int64_t out_w = p.dw.out_w, plane = p.dw.out_h * out_w;
    const int64_t all = current_device().shared_bytes - 1024 - kStaticBytes;
    BandGrid best{};
    int64_t least = INT64_MAX;
    const auto consider = [&](int64_t pixels, int64_t width) {
      const BandGrid grid = cut(p, pixels, width);
      if (grid.copies > kThreads || shared_bytes(grid, 2) > all) return;
      // For a channel, a copy is as much work as a pixel's share of the product, and by FMA a fifth of that.
      const int64_t work = grid.blocks() * (grid.copies + kPixels * (kIsWide ? 5 : 1));
      if (work < least) best = grid, least = work;
    };
    // Whole rows, but of whole sectors where planes are, unless that leaves much of the tile empty or needs too much.
    for (int64_t rows = kPixels / out_w, less = rows; 2 * less > rows; --less) {
      if (plane % kSector != 0 || less * out_w % kSector == 0) {
        consider(less * out_w, out_w);
        break;
      }
    }
    consider(kPixels, out_w);
    if (!best.exists() && out_w <= kPixels) consider(kPixels / out_w * out_w, out_w);
    const bool has_parts = p.dw.window.pad_left <= kSector && (out_w % kSector == 0 || plane % kSector != 0);
    for (int64_t width = kPixels; has_parts && width >= kSector; width -= kSector) {
      if (width < out_w) consider(kPixels / width * width, width);
    }
    if (!best.exists()) return best;
    // As many blocks an SM as registers or shared memory hold, and what is left for more stages.
    best.stages = 2;
    int blocks = kSmThreads / kThreads;
    const auto share = [&] { return (all + 1024 + kStaticBytes) / blocks - 1024 - kStaticBytes; };
    while (shared_bytes(best) > share()) --blocks;
    while (best.stages < kMaxStages && shared_bytes(best, best.stages + 1) <= share()) ++best.stages;
    return best;
  }

 private:
  // Into bands of `pixels`, in rows of `width` columns.
  static BandGrid cut(const SeparableConv2dParams& p, int64_t pixels, int64_t width) {
    const DwConv2dParams& dw = p.dw;
    const int64_t all_rows = dw.batch * dw.out_h, stride = dw.window.stride_h;
    BandGrid grid{};
    // A band may start anywhere in a row, by steps of what its pixels and its rows have in common.
    const int64_t rows = std::min(all_rows, (pixels - 1 + width - std::gcd(pixels, width)) / width + 1);
    const int64_t images = std::min(dw.batch, (rows - 1 + dw.out_h - 1) / dw.out_h + 1);  // under a band
    const Strides4& x = dw.x_stride;
    // Rows start at multiples of this in their first vector.
    const int64_t unit = std::gcd(std::gcd(x.n, x.c), std::gcd<int64_t>(x.h, Tile::kVec));
    // As many columns as words of x that lie the same way in every row.
    const auto are_words = [&](int columns) {
      return dw.window.pad_left == 1 && unit % columns == 0 && dw.out_w % columns == 0;
    };
    grid.columns = are_words(4) ? 4 : are_words(2) ? 2 : 1;
    grid.pixels = static_cast<int>(pixels), grid.width = static_cast<int>(width);
    grid.bands = ceil_div(all_rows * width, pixels), grid.parts = ceil_div(dw.out_w, width);
    grid.output_tiles = ceil_div(p.pw.out_channels, Tile::kOutputs);
    grid.in_rows = static_cast<int>((rows - 1) * stride + kKernel + (images - 1) * (kKernel - stride));
    grid.overhang = grid.parts > 1 && dw.window.pad_left > 0 ? kSector : 0;
    const int64_t reach = grid.overhang - dw.window.pad_left + (width - 1) * stride + kKernel;
    const int64_t in_columns = grid.parts > 1 ? std::min(ceil_div(reach, kSector) * kSector, dw.in_w) : dw.in_w;
    grid.row_vectors = static_cast<int>(ceil_div(in_columns + Tile::kVec - unit, Tile::kVec));
    grid.copies = grid.in_rows * grid.row_vectors, grid.copy_groups = kThreads / std::max(1, grid.copies);
    return grid;
  }
};

// NCHW, 3x3, stride 1 or 2. Slices of channels of the rows of x that a band needs come to shared memory by 16-byte
// copies; the depthwise half is made from there.
template <class T, bool kTf32, class Shape>
cudaError_t launch_separable_bands(const SeparableConv2dParams& p, cudaStream_t stream);

#define MBV1_SEPARABLE_BANDS_VARIANTS(declare, T, kTf32) \
  declare(T, kTf32, Shape<128, 64>) declare(T, kTf32, Shape<64, 128>)

}  // namespace mbv1::cuda
