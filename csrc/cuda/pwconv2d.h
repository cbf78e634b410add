// The pointwise kernels as their table sees them. pwconv2d.cuh has their source; a pwconv2d_<type>.cu compiles them.
#pragma once

#include "device.h"
#include "pixel_copies.cuh"

namespace mbv1::cuda {

// How a call's operands reach shared memory, see pixel_copies.cuh.
struct PwCopies {
  int word;     // of x: elements a copy, 0 for one at a time through registers
  int shifted;  // vectors of a channel of a tile where planes start anywhere; else 0
  bool weight_vectors;
};

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
  // By FMA, a warp of wide tiles makes 64 x 64 sums where that leaves four warps, else 32 x 64.
  static constexpr bool kIsWide = kIsFma<T, kTf32> && kN >= 64;
  static constexpr int kWarpN = kIsWide ? 64 : 32;
  static constexpr int kWarpM = kM < 64 ? 32 : kIsWide ? (kM * kN >= 4 * 64 * 64 ? 64 : 32) : Shape::kWarpM;
  using Tile = MatrixTile<T, kTf32, kLayout, kM / kWarpM, kN / kWarpN, kWarpM, kWarpN, Shape::kGroups>;
  // Slices of a group: two arrive while one is multiplied; one, where that takes many times as long by FMA.
  static constexpr int kStages = kIsWide ? 2 : 3;
  static constexpr int kStageElements = Tile::kPixelElements + Tile::kWeightElements;
  static constexpr int kBytes =
      max_of(kStages * Shape::kGroups * kStageElements * static_cast<int>(sizeof(T)), Tile::kStoreBytes);
  static constexpr int kSharedBytes = kBytes + 24 * Shape::kPixels;  // with the places of the pixels
  static_assert(kSharedBytes <= 64 * 1024);                          // what sm_75 has
  static constexpr bool kCanShift = kLayout == Layout::kNchw && sizeof(T) == 2;
  // 128 registers a thread: 512 threads an SM hide the latency of shared memory and of the epilogue's stores. Where
  // shared memory holds fewer blocks, each may have more registers. Wide warps need them: 168, and 255 for 64 x 64.
  static constexpr int kSmThreads = Tile::kSums > 64 ? 256 : kIsWide ? 384 : 512;
  static constexpr int kBlocksPerSm =
      max_of(1, min_of(kSmThreads / Tile::kThreads, kSmSharedBytes / (kSharedBytes + 1024)));

  __host__ __device__ static constexpr int shifted_elements(int vectors) {
    return Tile::kSlice * vectors * Tile::kVec;
  }

  static int dynamic_bytes(const PwCopies& copies) {
    if (copies.shifted == 0) return kBytes;
    const int stage = shifted_elements(copies.shifted) + Tile::kWeightElements;
    const int group = (kStages * stage + Tile::kPixelElements) * static_cast<int>(sizeof(T));
    return max_of(Shape::kGroups * group, Tile::kStoreBytes);
  }
  static int shared_bytes(const PwCopies& copies) {
    return dynamic_bytes(copies) + (copies.shifted > 0 ? 16 : 24) * Shape::kPixels;
  }

  static PwCopies copies(const PwConv2dParams& p) {
    PwCopies copies{0, 0, weights_are_vectors(p)};
    if constexpr (kLayout == Layout::kNhwc) {
      if (channels_are_vectors(p.x, p.x_stride, p.dtype)) copies.word = Tile::kVec;
    } else {
      copies.word = pixel_word(p);
      if (kCanShift && copies.word == 0 && pixels_are_shifted(p)) {
        PwCopies shifted = copies;
        shifted.shifted = static_cast<int>(shifted_vectors<Tile>(p.h * p.w));
        const bool fits = shared_bytes(shifted) + 1024 <= current_device().shared_bytes;
        if (shifted.shifted <= Tile::kGroupThreads && fits) return shifted;
      }
    }
    return copies;
  }
};

template <class T, bool kTf32, Layout kLayout, class Shape>
cudaError_t launch_pwconv2d(const PwConv2dParams& p, cudaStream_t stream);

#define MBV1_PWCONV2D_VARIANTS(declare, T, kTf32) \
  declare(T, kTf32, Shape<128, 128>) declare(T, kTf32, Shape<128, 64>) declare(T, kTf32, Shape<32, 32, 4>)

}  // namespace mbv1::cuda
