// The depthwise-separable kernels as their table sees them: two designs, one file a design and type compiles each.
#pragma once

#include <type_traits>

#include "pwconv2d.h"
#include "resident_plan.h"

namespace mbv1::cuda {

constexpr int kAnyKernel = 0;

template <class Element, bool kTf32, int kKernel, class Shape>
struct ResidentTraits {
  static constexpr int kWarpM = Shape::kPixels < Shape::kWarpM ? 32 : Shape::kWarpM;
  using Tile = MatrixTile<Element, kTf32, Layout::kNhwc, Shape::kPixels / kWarpM, Shape::kOutputs / 32, kWarpM, 32,
                          Shape::kGroups>;
  using Plan = ResidentPlan<Shape, sizeof(Element)>;
  static_assert(Tile::kThreads == Shape::kThreads && Plan::kSlice == Tile::kSlice);
  static_assert(Plan::kStageBytes == Tile::kWeightElements * static_cast<int>(sizeof(Element)));
  // 128 registers a thread at 512 threads an SM; the 5 x 5 window holds a row of 5 weights as well: 168 at 384.
  static constexpr int kBlocksPerSm = kIsAmpere ? (kKernel == 3 ? 512 : 384) / Tile::kThreads : 1;
};

template <class Element, bool kTf32, Layout kLayout, int kKernel>
struct SlicesTraits {
  static constexpr int kPixelWarps = 2, kOutputWarps = 4;
  static constexpr int kThreads = 32 * kPixelWarps * kOutputWarps;
  static constexpr int kBlocksPerSm = 2;  // 128 registers a thread
  static constexpr int kStages = 2;       // of pixels, weights and taps: one is multiplied while the next is made
  static constexpr int kTapsInShared =
      kKernel == kAnyKernel ? 49 : kKernel * kKernel;  // larger windows come in parts
  using Tile =
      std::conditional_t<kLayout == Layout::kNhwc, MatrixTile<Element, kTf32, kLayout, kPixelWarps, kOutputWarps>,
                         MatrixTile<Element, kTf32, kLayout, kOutputWarps, kPixelWarps>>;
  static constexpr int kTapElements = kTapsInShared * Tile::kSlice;
  static constexpr int kBytes =
      kStages * (Tile::kWeightElements + Tile::kPixelElements + kTapElements) * static_cast<int>(sizeof(Element));
  static constexpr int kSharedBytes = kBytes + 16 * Tile::kPixels;  // with the places of the pixels
  static_assert(Tile::kThreads == kThreads && Tile::kPixels * Tile::kPacks == kThreads);
  static_assert(kTapElements * sizeof(Element) % kVectorBytes == 0);
  static_assert(kSharedBytes <= 48 * 1024 && kBytes >= Tile::kStoreBytes);
};

// Design A, NHWC (separable_resident.cuh): the depthwise result of a patch of pixels lies in shared memory with all
// its channels, and every output channel of the block is made from there.
template <class T, bool kTf32, int kKernel, class Shape>
cudaError_t launch_separable_resident(const SeparableConv2dParams& p, cudaStream_t stream);

// Design B (separable_slices.cuh): slices of channels pass through shared memory, and their products add up in
// registers; any window and any number of channels, and the depthwise half anew for every tile of outputs.
template <class T, bool kTf32, Layout kLayout, int kKernel>
cudaError_t launch_separable_slices(const SeparableConv2dParams& p, cudaStream_t stream);

#define MBV1_SEPARABLE_RESIDENT_VARIANTS(declare, T, kTf32)                                                        \
  declare(T, kTf32, 3, Shape<128, 128>) declare(T, kTf32, 3, Shape<64, 64>) declare(T, kTf32, 3, Shape<32, 64, 4>) \
      declare(T, kTf32, 5, Shape<64, 64>)

#define MBV1_SEPARABLE_SLICES_VARIANTS(declare, T, kTf32)                          \
  declare(T, kTf32, Layout::kNhwc, 3) declare(T, kTf32, Layout::kNhwc, kAnyKernel) \
      declare(T, kTf32, Layout::kNchw, kAnyKernel)

}  // namespace mbv1::cuda
