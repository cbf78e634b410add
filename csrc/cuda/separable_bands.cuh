// Design B of the depthwise-separable convolution for NCHW: a block makes a band of whole output rows.
//
//   for each slice of channels:  start the copies of a later slice: rows of x, pointwise weights
//                                depthwise + bias + activation of this slice -> pixel tile [k][pixel]
//                                sums += pointwise weights of this slice * pixel tile
//
// A band is rows of the stack of all images, as many as fill the tile of 128 pixels: 1 of 112 pixels, 18 of 7. Under
// it lie rows of x that are numbered through, images one after another, with the rows of padding that windows cover.
// Each row is copied as the 16-byte vectors that cover it, so that where it starts in its first vector depends on the
// row and the channel; what is not there arrives as zeros. A thread makes kColumns neighbouring pixels of some
// channels of a slice: what it knows of their windows stays in registers. It reads words of kColumns elements, and so
// 1 where rows start anywhere.
#pragma once

#include "launch.h"
#include "separable_bands.h"

namespace mbv1::cuda {

// A row of x: the element of channel 0 where it starts; < 0: padding, or past the last image.
template <int kKernel, int kStride>
__device__ int64_t band_row(const DwConv2dParams& p, int64_t number) {
  const DivMod image = divmod(number, (p.out_h - 1) * kStride + kKernel);
  const int64_t ih = image.remainder - p.window.pad_top;
  return image.quotient < p.batch && inside(ih, p.in_h) ? image.quotient * p.x_stride.n + ih * p.x_stride.h : -1;
}

// What one thread copies of each slice: a vector of a row, of every `step`-th channel.
template <class Traits, int kStride>
class BandCopies {
  using T = typename Traits::T;
  static constexpr int kVec = Traits::Tile::kVec, kSlice = Traits::Tile::kSlice;

 public:
  __device__ BandCopies(const DwConv2dParams& p, const BandGrid& grid, int64_t first_number) {
    const int copy = threadIdx.x % grid.copies, row = copy / grid.row_vectors;
    first_ = threadIdx.x / grid.copies, place_ = copy * kVec;
    column_ = (copy - row * grid.row_vectors) * kVec;
    row_ = band_row<Traits::kKernel, kStride>(p, first_number + row);
    if (first_ >= grid.copy_groups) first_ = kSlice;  // this thread is not of a whole group
  }

  // Starts the copies of channels first_k on, of which k_left exist.
  __device__ void copy(const DwConv2dParams& p, const BandGrid& grid, T* stage, int first_k, int k_left) const {
    const T* x = static_cast<const T*>(p.x);
#pragma unroll 1
    for (int k = first_; k < kSlice; k += grid.copy_groups) {
      const int64_t start = row_ + (first_k + k) * p.x_stride.c;
      const int shift = static_cast<int>(start & (kVec - 1));
      const int left = row_ >= 0 && k < k_left ? static_cast<int>(p.in_w) + shift - column_ : 0;
      const int count = left >= kVec ? kVec : left > 0 ? left : 0;
      copy_async(stage + k * grid.copies * kVec + place_, count > 0 ? x + (start - shift + column_) : x, count);
    }
  }

 private:
  int64_t row_;
  int first_, place_, column_;
};

// One store to shared memory: the compiler would store the elements of a pack in registers one by one.
template <class T, int kSize>
__device__ void store_word(T* to, const Pack<T, kSize>& pack) {
  if constexpr (sizeof(pack) == 16) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(bits.x), "r"(bits.y),
                 "r"(bits.z), "r"(bits.w)
                 : "memory");
  } else if constexpr (sizeof(pack) == 8) {
    uint2 bits;
    memcpy(&bits, &pack, sizeof(bits));
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(shared_address(to)), "r"(bits.x), "r"(bits.y) : "memory");
  } else if constexpr (sizeof(pack) == 4 && kSize == 2) {
    uint32_t bits;
    memcpy(&bits, &pack, sizeof(bits));
    *reinterpret_cast<uint32_t*>(to) = bits;
  } else {
    store_pack(to, pack);
  }
}

// The windows of kColumns neighbours in a row of the band. They lie in three words of kColumns elements of each row
// of x: the last element of the first word, or its only one, is the first of the first window.
template <class Traits, int kStride, int kColumns>
class BandWindows {
  using T = typename Traits::T;
  static constexpr int kKernel = Traits::kKernel, kVec = Traits::Tile::kVec, kWords = 3;
  static_assert(kColumns - 1 + (kColumns - 1) * kStride + kKernel <= kWords * kColumns);

 public:
  __device__ BandWindows(const DwConv2dParams& p, const BandGrid& grid, int64_t first_row, int64_t first_number,
                         int pixel) {
    const int width = static_cast<int>(p.out_w), row = pixel / width;
    const DivMod image = divmod(first_row + row, p.out_h);
    if (row >= grid.height || image.quotient >= p.batch) return;
    const int64_t number = image.quotient * ((p.out_h - 1) * kStride + kKernel) + image.remainder * kStride;
    const int column = (pixel - row * width) * kStride - static_cast<int>(p.window.pad_left) - (kColumns - 1);
#pragma unroll
    for (int i = 0; i < kKernel; ++i) {
      const int64_t start = band_row<kKernel, kStride>(p, number + i);
      if (start >= 0) starts_ |= static_cast<int>(start & (kVec - 1)) << kStartBits * i;
    }
#pragma unroll
    for (int i = words_ = 0; i < kWords; ++i) words_ |= inside(column + i * kColumns, static_cast<int>(p.in_w)) << i;
    place_ = static_cast<int>(number - first_number) * grid.row_vectors * kVec + column;
  }

  __device__ bool exist() const { return words_ >= 0; }

  // The sums of one channel, from its rows in shared memory; `start`: of the channel in its vector.
  __device__ void sum(float (&sums)[kColumns], const T* rows, int pitch, int start, const float* taps) const {
#pragma unroll
    for (int i = 0; i < kKernel; ++i) {
      const auto weights = load_pack<Traits::kTapRow>(taps + i * Traits::kTapRow);
      const T* from = rows + place_ + i * pitch + (((starts_ >> kStartBits * i) + start) & (kVec - kColumns));
      float x[kWords * kColumns];
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        Pack<T, kColumns> pack{};
        if (words_ >> word & 1) pack = load_pack<kColumns>(from + word * kColumns);
#pragma unroll
        for (int v = 0; v < kColumns; ++v) x[word * kColumns + v] = to_float(pack[v]);
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (i == 0) sums[c] = weights[kKernel];
#pragma unroll
        for (int j = 0; j < kKernel; ++j) {
          sums[c] = fmaf(weights[j], x[kColumns - 1 + c * kStride + j], sums[c]);
        }
      }
    }
  }

 private:
  static constexpr int kStartBits = 4;
  int starts_ = 0;          // of the rows in their first vectors
  int words_ = -1, place_;  // which words are inside x, -1: these pixels do not exist; where the first word lies
};

// Waits until at most `pending` of this thread's newest groups are under way.
__device__ inline void wait_for_slice(int pending) {
  if (pending == 0) return wait_async<0>();
  if (pending == 1) return wait_async<1>();
  wait_async<2>();
}

// threadIdx.x, read anew: what is made of it is not kept in registers from slice to slice.
__device__ inline int thread_anew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

template <class T, bool kTf32, int kStride, int kColumns>
__global__ void __launch_bounds__(BandTraits<T, kTf32>::kThreads, BandTraits<T, kTf32>::kBlocksPerSm)
    separable_bands_kernel(SeparableConv2dParams p, bool weight_vectors, Output output, BandGrid grid) {
  using Traits = BandTraits<T, kTf32>;
  using Tile = typename Traits::Tile;
  constexpr int kTaps = Traits::kKernel * Traits::kKernel, kTapPitch = Traits::kTapPitch;
  constexpr int kTapLoads = (Tile::kSlice * (kTaps + 1) + Traits::kThreads - 1) / Traits::kThreads;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ typename Tile::TilePlaces places;
  const int x_elements = Tile::kSlice * grid.copies * Tile::kVec;
  T* const x_stages = reinterpret_cast<T*>(memory);
  T* const weight_stages = x_stages + grid.stages * x_elements;
  T* const pixels = weight_stages + grid.stages * Tile::kWeightElements;
  float* const tap_stages = reinterpret_cast<float*>(pixels + Tile::kPixelElements);

  const DivMod block = divmod(blockIdx.x, grid.output_tiles);
  const int64_t first_row = block.quotient * grid.height, first_output = block.remainder * Tile::kOutputs;
  const int64_t outputs_left = p.pw.out_channels - first_output;
  const int channels = static_cast<int>(p.dw.channels);
  const DivMod first = divmod(first_row, p.dw.out_h);
  const int64_t first_number =
      first.quotient * ((p.dw.out_h - 1) * kStride + Traits::kKernel) + first.remainder * kStride;
  for (int i = threadIdx.x; i < Traits::kPixels; i += Traits::kThreads) {
    const int64_t pixel = i < grid.height * p.dw.out_w ? first_row * p.dw.out_w + i : output.pixels;
    places.y[i] = pixel_offset(pixel, output, output.y_stride);
    places.residual[i] = pixel_offset(pixel, output, output.residual_stride);
  }

  const BandCopies<Traits, kStride> x_copies(p.dw, grid, first_number);
  const RowCopies<Tile, Tile::kOutputs> weight_copies(
      p.pw.weight, p.pw.weight_stride_k, weight_vectors, outputs_left,
      [&](int i) { return (first_output + i) * p.pw.weight_stride_o; });
  int next_k = 0, next_stage = 0;
  const auto load = [&] {
    if (next_k < channels) {
      x_copies.copy(p.dw, grid, x_stages + next_stage * x_elements, next_k, channels - next_k);
      weight_copies.copy(weight_stages + next_stage * Tile::kWeightElements, next_k, channels - next_k, outputs_left);
      next_k += Tile::kSlice;
      next_stage = next_stage + 1 == grid.stages ? 0 : next_stage + 1;
    }
    commit_async();
  };
  // Taps pass through registers, so that they arrive while the slice before theirs is worked on.
  float taps[kTapLoads];
  const auto load_taps = [&](int first_k) {
    const int thread = thread_anew();
#pragma unroll
    for (int i = 0; i < kTapLoads; ++i) {
      const int e = thread + i * Traits::kThreads, k = e / (kTaps + 1), tap = e % (kTaps + 1);
      const int64_t channel = first_k + k;
      const T* from = tap == kTaps ? static_cast<const T*>(p.dw.bias) : static_cast<const T*>(p.dw.weight);
      const int64_t offset = tap == kTaps
                                 ? channel * p.dw.bias_stride
                                 : channel * p.dw.weight_stride_c + tap / Traits::kKernel * p.dw.weight_stride_h +
                                       tap % Traits::kKernel * p.dw.weight_stride_w;
      taps[i] = k < Tile::kSlice && channel < channels && from != nullptr ? to_float(from[offset]) : 0.f;
    }
  };
  const auto store_taps = [&](float* stage) {
    const int thread = thread_anew();
#pragma unroll
    for (int i = 0; i < kTapLoads; ++i) {
      const int e = thread + i * Traits::kThreads, k = e / (kTaps + 1);
      const int tap = e % (kTaps + 1), row = tap / Traits::kKernel * Traits::kTapRow;
      const int place = tap == kTaps ? Traits::kKernel : row + tap % Traits::kKernel;  // bias after the first row
      if (k < Tile::kSlice) stage[k * kTapPitch + place] = taps[i];
    }
  };

  constexpr int kThreadsOfChannel = Traits::kPixels / kColumns, kLanes = Traits::kThreads / kThreadsOfChannel;
  constexpr int kBatch = kColumns == 1 ? 2 : 1;  // channels at a time
  const BandWindows<Traits, kStride, kColumns> windows(p.dw, grid, first_row, first_number,
                                                       threadIdx.x % kThreadsOfChannel * kColumns);
  // Channels past the last are zero in x and in their taps, and so they stay.
  const auto make_pixels = [&](const T* x, const float* slice_taps, int first_k) {
    const int thread = thread_anew(), pixel = thread % kThreadsOfChannel * kColumns;
    const int count = windows.exist() ? Tile::kSlice : 0;
#pragma unroll 1
    for (int first = thread / kThreadsOfChannel; first < count; first += kLanes * kBatch) {
      float values[kBatch][kColumns];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int k = first + i * kLanes;
        const unsigned start = static_cast<unsigned>(first_k + k) * static_cast<unsigned>(p.dw.x_stride.c);
        windows.sum(values[i], x + k * grid.copies * Tile::kVec, grid.row_vectors * Tile::kVec, start % Tile::kVec,
                    slice_taps + k * kTapPitch);
      }
      activate(values, p.dw.activation);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        store_word(pixels + (first + i * kLanes) * Tile::kColumnPitch + pixel, round_to<T>(values[i]));
      }
    }
  };

  float sums[Tile::kSums] = {};
  wait_for_earlier_kernels();
#pragma unroll 1
  for (int i = 0; i < grid.stages - 1; ++i) load();
  load_taps(0);
  store_taps(tap_stages);
  int stage = 0, tap_stage = 0;
#pragma unroll 1
  for (int first_k = 0; first_k < channels; first_k += Tile::kSlice, tap_stage ^= 1) {
    wait_for_slice(grid.stages - 2);
    __syncthreads();  // this slice is there, and what its pixels and the next copies replace is used
    load();
    load_taps(first_k + Tile::kSlice);
    make_pixels(x_stages + stage * x_elements, tap_stages + tap_stage * Traits::kTapElements, first_k);
    store_taps(tap_stages + (tap_stage ^ 1) * Traits::kTapElements);
    __syncthreads();
    Tile::multiply(sums, pixels, weight_stages + stage * Tile::kWeightElements);
    stage = stage + 1 == grid.stages ? 0 : stage + 1;
  }
  wait_async<0>();
  Tile::store(sums, nullptr, output, places, first_output);
}

template <class T, bool kTf32, int kStride>
auto bands_kernel(int columns) {
  if (columns == 4) return separable_bands_kernel<T, kTf32, kStride, 4>;
  return columns == 2 ? separable_bands_kernel<T, kTf32, kStride, 2> : separable_bands_kernel<T, kTf32, kStride, 1>;
}

template <class T, bool kTf32>
cudaError_t launch_separable_bands(const SeparableConv2dParams& p, cudaStream_t stream) {
  using Traits = BandTraits<T, kTf32>;
  const BandGrid grid = Traits::grid(p);
  Output output = output_of(p.pw, Layout::kNchw);
  const bool whole_vectors = grid.starts_with_vectors(p.dw.out_w, Traits::Tile::kVec);
  output.y_vectors &= whole_vectors, output.residual_vectors &= whole_vectors;
  const auto kernel =
      p.dw.window.stride_h == 1 ? bands_kernel<T, kTf32, 1>(grid.columns) : bands_kernel<T, kTf32, 2>(grid.columns);
  return launch_blocks(kernel, grid.blocks(), Traits::kThreads, Traits::shared_bytes(grid), stream, p,
                       weights_are_vectors(p.pw), output, grid);
}

}  // namespace mbv1::cuda
