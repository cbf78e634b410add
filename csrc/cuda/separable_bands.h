// Design B for NCHW as its table sees it. separable_bands.cuh has the source, a separable_bands_<type>.cu compiles
// it.
#pragma once

#include <algorithm>
#include <numeric>

#include "device.h"
#include "matrix_tile.cuh"

namespace mbv1::cuda {

// How a call is cut into bands of whole output rows, down the stack of all images' rows.
struct BandGrid {
  int height;                   // rows of a band
  int columns;                  // neighbouring pixels that a thread makes
  int in_rows, row_vectors;     // of x under a band at most, and vectors that cover a row, wherever it starts
  int copies, copy_groups;      // of a channel, rows times vectors; channels that threads copy at once
  int stages;                   // of x and of pointwise weights: one is used while the others arrive
  int64_t bands, output_tiles;  // a block makes a tile of a band

  int64_t blocks() const { return bands * output_tiles; }
  // Whether every band starts at a multiple of the vector size.
  bool starts_with_vectors(int64_t out_w, int vector) const { return height * out_w % vector == 0; }
};

constexpr int kBandPixels = 128;

template <class Element, bool kTf32>
struct BandTraits {
  using T = Element;
  // 128 outputs a block; 64 where FMAs make them, which need more registers for their factors.
  using Tile = MatrixTile<T, kTf32, Layout::kNchw, 2, 4, std::is_same_v<T, float> && !kTf32 ? 32 : 64>;
  static constexpr int kKernel = 3, kPixels = Tile::kPixels, kThreads = Tile::kThreads;
  static_assert(kPixels == kBandPixels && kThreads == 256);
  static constexpr int kBlocksPerSm = kIsAmpere ? 2 : 1;  // 128 registers a thread
  static constexpr int kMaxStages = 4;
  static constexpr int kTapRow = 4, kTapPitch = kKernel * kTapRow;  // floats: 16-byte loads of a row of taps
  static constexpr int kTapElements = Tile::kSlice * kTapPitch;
  static constexpr int kStaticBytes = 16 * kPixels;  // the places of the pixels

  static int64_t shared_bytes(const BandGrid& grid, int stages) {
    const int64_t x = int64_t{Tile::kSlice} * grid.copies * kVectorBytes;
    const int64_t matrices = stages * Tile::kWeightElements + Tile::kPixelElements;
    return stages * x + matrices * sizeof(T) + 2 * kTapElements * sizeof(float);
  }
  static int64_t shared_bytes(const BandGrid& grid) { return shared_bytes(grid, grid.stages); }

  static BandGrid grid(const SeparableConv2dParams& p) {
    const DwConv2dParams& dw = p.dw;
    const int64_t rows = dw.batch * dw.out_h, stride = dw.window.stride_h;
    BandGrid grid{};
    int64_t height = std::clamp<int64_t>(kPixels / dw.out_w, 1, rows);
    // Where planes are whole vectors, so are bands, unless that leaves much of the tile empty.
    for (int64_t less = height; dw.out_h * dw.out_w % Tile::kVec == 0 && 2 * less > height; --less) {
      if (less * dw.out_w % Tile::kVec != 0) continue;
      height = less;
      break;
    }
    const int64_t images = std::min(dw.batch, (height - 1 + dw.out_h - 1) / dw.out_h + 1);  // under a band
    const Strides4& x = dw.x_stride;
    // Rows start at multiples of this in their first vector.
    const int64_t unit = std::gcd(std::gcd(x.n, x.c), std::gcd<int64_t>(x.h, Tile::kVec));
    // As many columns as words of x that lie the same way in every row.
    const auto are_words = [&](int columns) {
      return dw.window.pad_left == 1 && unit % columns == 0 && dw.out_w % columns == 0;
    };
    grid.columns = are_words(4) ? 4 : are_words(2) ? 2 : 1;
    grid.height = static_cast<int>(height);
    grid.in_rows = static_cast<int>((height - 1) * stride + kKernel + (images - 1) * (kKernel - stride));
    grid.row_vectors = static_cast<int>(ceil_div(dw.in_w + Tile::kVec - unit, Tile::kVec));
    grid.copies = grid.in_rows * grid.row_vectors, grid.copy_groups = kThreads / grid.copies;
    grid.bands = ceil_div(rows, height), grid.output_tiles = ceil_div(p.pw.out_channels, Tile::kOutputs);
    // Two blocks an SM, or one, and what is left for more stages.
    const int64_t all = current_device().shared_bytes - 1024 - kStaticBytes;
    const int64_t half = (all - 1024 - kStaticBytes) / 2;
    grid.stages = 2;
    const int64_t share = shared_bytes(grid) <= half ? half : all;
    while (grid.stages < kMaxStages && shared_bytes(grid, grid.stages + 1) <= share) ++grid.stages;
    return grid;
  }
};

// NCHW, 3x3, stride 1 or 2, rows of at most 128 outputs. Slices of channels of the rows of x that a band needs come
// to shared memory by 16-byte copies; the depthwise half is made from there.
template <class T, bool kTf32>
cudaError_t launch_separable_bands(const SeparableConv2dParams& p, cudaStream_t stream);

}  // namespace mbv1::cuda
