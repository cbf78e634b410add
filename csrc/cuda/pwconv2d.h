// The pointwise kernels as their table sees them. pwconv2d.cuh has their source; a pwconv2d_<type>.cu compiles them.
#pragma once

#include "matrix_tile.cuh"

namespace mbv1::cuda {

// A block's tile: kPixels x kOutputs, by kGroups groups of warps that share out K.
template <int kTilePixels, int kTileOutputs, int kTileGroups = 1>
struct Shape {
  static constexpr int kPixels = kTilePixels, kOutputs = kTileOutputs, kGroups = kTileGroups;
  // A warp makes 64 x 32 sums where that leaves four warps, else 32 x 32.
  static constexpr int kWarpM = kPixels * kOutputs >= 4 * 64 * 32 ? 64 : 32;
  static constexpr int kThreads = kPixels * kOutputs / kWarpM * kGroups;
};

template <class T, bool kTf32, Layout kLayout, class Shape>
struct PwTraits {
  static constexpr int kM = kLayout == Layout::kNhwc ? Shape::kPixels : Shape::kOutputs;
  static constexpr int kN = kLayout == Layout::kNhwc ? Shape::kOutputs : Shape::kPixels;
  static constexpr int kWarpM = kM < Shape::kWarpM ? 32 : Shape::kWarpM;
  using Tile = MatrixTile<T, kTf32, kLayout, kM / kWarpM, kN / 32, kWarpM, Shape::kGroups>;
  static constexpr int kStages = 3;  // slices of a group: two arrive while one is multiplied
  static constexpr int kStageElements = Tile::kPixelElements + Tile::kWeightElements;
  static constexpr int kBytes =
      max_of(kStages * Shape::kGroups * kStageElements * static_cast<int>(sizeof(T)), Tile::kStagingBytes);
  static constexpr int kSharedBytes = kBytes + 24 * Shape::kPixels;  // with the places of the pixels
  static_assert(kSharedBytes <= 64 * 1024);                          // what sm_75 has
  // 128 registers a thread: 512 threads an SM hide the latency of shared memory and of the epilogue's stores. Where
  // shared memory holds fewer blocks, each may have more registers.
  static constexpr int kBlocksPerSm = max_of(1, min_of(512 / Tile::kThreads, kSmSharedBytes / (kSharedBytes + 1024)));
};

template <class T, bool kTf32, Layout kLayout, class Shape>
cudaError_t launch_pwconv2d(const PwConv2dParams& p, cudaStream_t stream);

#define MBV1_PWCONV2D_VARIANTS(declare, T, kTf32) \
  declare(T, kTf32, Shape<128, 128>) declare(T, kTf32, Shape<128, 64>) declare(T, kTf32, Shape<32, 32, 4>)

}  // namespace mbv1::cuda
