// Pointwise (1x1) convolution: a matrix product of pixels and weights with an epilogue, see matrix_tile.cuh.
//
// Copies of the next slices are under way while one is multiplied (sm_75: they are made at once). A block's tile is
// given by a Shape; large ones ask less of L2, small ones give more blocks.
#pragma once

#include "launch.h"
#include "pwconv2d.h"

namespace mbv1::cuda {

struct PwVectors {
  bool x, weight;
};

// What one thread copies of a pixel tile of NCHW, [k][pixel], in every slice.
template <class Tile>
class ColumnCopies {
  using T = typename Tile::T;
  static constexpr int kRowPacks = Tile::kPixels / Tile::kVec;
  static constexpr int kStep = Tile::kGroupThreads / kRowPacks, kCount = Tile::kSlice / kStep;
  static_assert(Tile::kGroupThreads % kRowPacks == 0 && Tile::kSlice % kStep == 0);

 public:
  // `offset` holds the element offsets of the tile's pixels in shared memory, -1 for one that is not there.
  __device__ ColumnCopies(const void* x, int64_t stride_c, bool vectors, const int64_t* offset)
      : x_(static_cast<const T*>(x)), stride_c_(stride_c), vectors_(vectors) {
    const int thread = threadIdx.x % Tile::kGroupThreads;
    k_ = thread / kRowPacks, pixel_ = thread % kRowPacks * Tile::kVec;
    offset_ = offset + pixel_;
  }

  __device__ void copy(T* tile, int64_t first_k, int k_left, int /*pixels_left*/) const {
    const T* x_channel = x_ + (first_k + k_) * stride_c_;
    T* to = tile + k_ * Tile::kColumnPitch + pixel_;
    if (vectors_) {
      // A tile starts at a multiple of the vector size, so a vector lies inside or outside as a whole.
      const int64_t first = offset_[0];
      if (first >= 0) x_channel += first;
#pragma unroll
      for (int i = 0; i < kCount; ++i, x_channel += kStep * stride_c_) {
        copy_vector_async(to + i * kStep * Tile::kColumnPitch, x_channel, first >= 0 && k_ + i * kStep < k_left);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i, x_channel += kStep * stride_c_) {
      Pack<T, Tile::kVec> pack;
#pragma unroll
      for (int v = 0; v < Tile::kVec; ++v) {
        pack[v] = k_ + i * kStep < k_left && offset_[v] >= 0 ? x_channel[offset_[v]] : from_float<T>(0.f);
      }
      store_pack(to + i * kStep * Tile::kColumnPitch, pack);
    }
  }

 private:
  const T* x_;
  const int64_t* offset_;
  int64_t stride_c_;
  int k_, pixel_;
  bool vectors_;
};

template <class T, bool kTf32, Layout kLayout, class Shape>
__global__ void __launch_bounds__(PwTraits<T, kTf32, kLayout, Shape>::Tile::kThreads,
                                  PwTraits<T, kTf32, kLayout, Shape>::kBlocksPerSm)
    pwconv2d_kernel(PwConv2dParams p, PwVectors vectors, Output output, int64_t output_tiles) {
  using Traits = PwTraits<T, kTf32, kLayout, Shape>;
  using Tile = typename Traits::Tile;
  constexpr int kStages = Traits::kStages;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ int64_t x_offset[Tile::kPixels];
  __shared__ typename Tile::TilePlaces places;

  // The blocks that share a tile of pixels run side by side, so that x comes from memory once.
  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  const int pixels_left = at_most(output.pixels - first_pixel, Tile::kPixels);
  const int outputs_left = at_most(p.out_channels - first_output, Tile::kOutputs);
  for (int i = threadIdx.x; i < Tile::kPixels; i += Tile::kThreads) {
    x_offset[i] = pixel_offset(first_pixel + i, output, p.x_stride);
  }
  places.fill(output, first_pixel);
  __syncthreads();
  wait_for_earlier_kernels();

  const auto pixel_copies = [&] {
    if constexpr (Tile::kIsNhwc) {
      return RowCopies<Tile, Tile::kPixels, false>(p.x, p.x_stride.c, vectors.x, pixels_left,
                                                   [&](int i) { return x_offset[i]; });
    } else {
      return ColumnCopies<Tile>(p.x, p.x_stride.c, vectors.x, x_offset);
    }
  }();
  const RowCopies<Tile, Tile::kOutputs, true> weight_copies(
      p.weight, p.weight_stride_k, vectors.weight, outputs_left,
      [&](int i) { return (first_output + i) * p.weight_stride_o; });
  T* const stages = reinterpret_cast<T*>(memory) + Tile::group() * kStages * Traits::kStageElements;
  // Slices in turns: group g multiplies g, g + kGroups and so on; the last ones may lie past the end, as zeros.
  const int64_t rounds = (p.in_channels + Tile::kSlice * Tile::kGroups - 1) / (Tile::kSlice * Tile::kGroups);
  int64_t next_k = Tile::group() * Tile::kSlice;
  int next_stage = 0;
  const auto load = [&] {
    if (next_k < rounds * (Tile::kSlice * Tile::kGroups)) {
      T* stage = stages + next_stage * Traits::kStageElements;
      const int k_left = at_most(p.in_channels - next_k, Tile::kSlice);
      pixel_copies.copy(stage, next_k, k_left, pixels_left);
      weight_copies.copy(stage + Tile::kPixelElements, next_k, k_left, outputs_left);
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
    const T* slice = stages + stage * Traits::kStageElements;
    Tile::multiply(sums, slice, slice + Tile::kPixelElements);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  wait_async<0>();
  if constexpr (Tile::kGroups > 1) __syncthreads();  // all slices are multiplied: their memory serves the sums
  Tile::store(sums, reinterpret_cast<float*>(memory), output, places, first_output);
}

template <class T, bool kTf32, Layout kLayout, class Shape>
cudaError_t launch_pwconv2d(const PwConv2dParams& p, cudaStream_t stream) {
  using Traits = PwTraits<T, kTf32, kLayout, Shape>;
  const Output output = output_of(p, kLayout);
  const PwVectors vectors{are_vectors(p.x, p.x_stride, p.h, p.w, p.dtype, kLayout), weights_are_vectors(p)};
  const int64_t output_tiles = ceil_div(p.out_channels, Shape::kOutputs);
  const int64_t blocks = output_tiles * ceil_div(output.pixels, Shape::kPixels);
  return launch_blocks(pwconv2d_kernel<T, kTf32, kLayout, Shape>, blocks, Traits::Tile::kThreads, Traits::kBytes,
                       stream, p, vectors, output, output_tiles);
}

#define MBV1_PWCONV2D_INSTANTIATE(T, kTf32, ...)                                                                   \
  template cudaError_t launch_pwconv2d<T, kTf32, Layout::kNhwc, __VA_ARGS__>(const PwConv2dParams&, cudaStream_t); \
  template cudaError_t launch_pwconv2d<T, kTf32, Layout::kNchw, __VA_ARGS__>(const PwConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
