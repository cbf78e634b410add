// Pointwise (1x1) convolution: a matrix product of pixels and weights with an epilogue, see matrix_tile.cuh.
//
// Copies of the next slices are under way while one is multiplied (sm_75: they are made at once). A block's tile is
// given by a Shape; large ones ask less of L2, small ones give more blocks.
//
// kShifted: pixels of NCHW arrive as vectors of x, and each slice of them is put in place before it is multiplied.
#pragma once

#include "launch.h"
#include "pwconv2d.h"

namespace mbv1::cuda {

template <class T, bool kTf32, Layout kLayout, class Shape, bool kShifted>
__global__ void __launch_bounds__(PwTraits<T, kTf32, kLayout, Shape>::Tile::kThreads,
                                  PwTraits<T, kTf32, kLayout, Shape>::kBlocksPerSm)
    pwconv2d_kernel(PwConv2dParams p, PwCopies copies, Output output, int64_t output_tiles) {
  using Traits = PwTraits<T, kTf32, kLayout, Shape>;
  using Tile = typename Traits::Tile;
  constexpr int kStages = Traits::kStages;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ int64_t x_offset[kShifted ? 1 : Tile::kPixels];
  __shared__ typename Tile::TilePlaces places;

  // The blocks that share a tile of pixels run side by side, so that x comes from memory once.
  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  const int pixels_left = at_most(output.pixels - first_pixel, Tile::kPixels);
  const int outputs_left = at_most(p.out_channels - first_output, Tile::kOutputs);
  if constexpr (!kShifted) {
    for (int i = threadIdx.x; i < Tile::kPixels; i += Tile::kThreads) {
      x_offset[i] = pixel_offset(first_pixel + i, output, p.x_stride);
    }
  }
  places.fill(output, first_pixel);
  __syncthreads();
  wait_for_earlier_kernels();

  const auto pixel_copies = [&] {
    if constexpr (Tile::kIsNhwc) {
      return RowCopies<Tile, Tile::kPixels, false>(p.x, p.x_stride.c, copies.word == Tile::kVec, pixels_left,
                                                   [&](int i) { return x_offset[i]; });
    } else if constexpr (kShifted) {
      return ShiftedCopies<Tile>(p, first_pixel, pixels_left, copies.shifted);
    } else {
      return ColumnCopies<Tile>(p.x, p.x_stride.c, copies.word, x_offset);
    }
  }();
  const RowCopies<Tile, Tile::kOutputs, true> weight_copies(
      p.weight, p.weight_stride_k, copies.weight_vectors, outputs_left,
      [&](int i) { return (first_output + i) * p.weight_stride_o; });
  // Of a group: its stages, each the pixels and the weights of a slice, and the tile of pixels put in place.
  const int pixel_elements = kShifted ? Traits::shifted_elements(copies.shifted) : Tile::kPixelElements;
  const int stage_elements = pixel_elements + Tile::kWeightElements;
  const int group_elements = kStages * stage_elements + (kShifted ? Tile::kPixelElements : 0);
  T* const stages = reinterpret_cast<T*>(memory) + Tile::group() * group_elements;
  T* const in_place = stages + kStages * stage_elements;
  // Slices in turns: group g multiplies g, g + kGroups and so on; the last ones may lie past the end, as zeros.
  const int64_t rounds = (p.in_channels + Tile::kSlice * Tile::kGroups - 1) / (Tile::kSlice * Tile::kGroups);
  int64_t next_k = Tile::group() * Tile::kSlice;
  int next_stage = 0;
  const auto load = [&] {
    if (next_k < rounds * (Tile::kSlice * Tile::kGroups)) {
      T* stage = stages + next_stage * stage_elements;
      const int k_left = at_most(p.in_channels - next_k, Tile::kSlice);
      if constexpr (Tile::kIsNhwc) {
        pixel_copies.copy(stage, next_k, k_left, pixels_left);
      } else {
        pixel_copies.copy(stage, next_k, k_left);
      }
      weight_copies.copy(stage + pixel_elements, next_k, k_left, outputs_left);
      next_k += Tile::kSlice * Tile::kGroups;
      next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
    }
    commit_async();
  };

  float sums[Tile::kSums] = {};
#pragma unroll 1
  for (int i = 0; i < kStages - 1; ++i) load();
  int stage = 0;
#pragma unroll 1
  for (int64_t round = 0; round < rounds; ++round) {
    wait_async<kStages - 2>();
    Tile::sync_group();  // this slice has arrived, and the stage of the slice before it is free
    load();
    const T* slice = stages + stage * stage_elements;
    const T* pixels = slice;
    if constexpr (kShifted) {
      pixel_copies.put(in_place, slice, (round * Tile::kGroups + Tile::group()) * Tile::kSlice);
      Tile::sync_group();
      pixels = in_place;
    }
    Tile::multiply(sums, pixels, slice + pixel_elements);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  wait_async<0>();
  if constexpr (Tile::kGroups > 1) __syncthreads();  // all slices are multiplied: their memory serves the sums
  Tile::store(sums, memory, output, places, first_output);
}

template <class T, bool kTf32, Layout kLayout, class Shape>
cudaError_t launch_pwconv2d(const PwConv2dParams& p, cudaStream_t stream) {
  using Traits = PwTraits<T, kTf32, kLayout, Shape>;
  const Output output = output_of(p, kLayout);
  const PwCopies copies = Traits::copies(p);
  const int64_t output_tiles = ceil_div(p.out_channels, Shape::kOutputs);
  const int64_t blocks = output_tiles * ceil_div(output.pixels, Shape::kPixels);
  const auto launch = [&](auto kernel) {
    return launch_blocks(kernel, blocks, Traits::Tile::kThreads, Traits::dynamic_bytes(copies), stream, p, copies,
                         output, output_tiles);
  };
  if constexpr (Traits::kCanShift) {
    if (copies.shifted > 0) return launch(pwconv2d_kernel<T, kTf32, kLayout, Shape, true>);
  }
  return launch(pwconv2d_kernel<T, kTf32, kLayout, Shape, false>);
}

#define MBV1_PWCONV2D_INSTANTIATE(T, kTf32, ...)                                                                   \
  template cudaError_t launch_pwconv2d<T, kTf32, Layout::kNhwc, __VA_ARGS__>(const PwConv2dParams&, cudaStream_t); \
  template cudaError_t launch_pwconv2d<T, kTf32, Layout::kNchw, __VA_ARGS__>(const PwConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
