// Design B of the depthwise-separable convolution for NCHW: a block makes a band of output rows, or of parts of them.
//
//   for each slice of channels:  start the copies of a later slice: rows of x, pointwise weights
//                                depthwise + bias + activation of this slice -> pixel tile [k][pixel]
//                                sums += pointwise weights of this slice * pixel tile
//
// A band is a run of pixels down the stack of all images: whole rows, as 18 of 7 in a tile of 128 pixels, or as many
// pixels as the tile has. Where that is less work it is part of rows, in whole sectors: 16 pixels of 8 rows of 112.
// Under it lie rows of x that are numbered through, images one after another, with the rows of padding that windows
// cover. Each row, or the part of it in whole sectors, is copied as the 16-byte vectors that cover it, so that where
// it starts in its first vector depends on the row and the channel; what is not there arrives as zeros. A thread
// makes kColumns neighbouring pixels of some channels of a slice: what it knows of their windows stays in registers.
// It reads words of kColumns elements, and so 1 where rows start anywhere.
#pragma once

#include <climits>

#include "copies.cuh"
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

// Where a block's band lies.
struct Band {
  int64_t first_row, first_number, last_number;  // of the stack of output rows; of x
  int skipped;                                   // pixels of the first row that are not of the band
  int first_out, first_column;                   // of its rows; of x

  template <int kKernel, int kStride>
  __device__ static Band of(const DwConv2dParams& p, const BandGrid& grid, int64_t number) {
    const DivMod band = divmod(number, grid.parts), row = divmod(band.quotient * grid.pixels, grid.width);
    const int last_row = (static_cast<int>(row.remainder) + grid.pixels - 1) / grid.width;
    const auto number_of = [&](int64_t out_row) {
      const DivMod image = divmod(out_row, p.out_h);
      return image.quotient * ((p.out_h - 1) * kStride + kKernel) + image.remainder * kStride;
    };
    return {row.quotient,
            number_of(row.quotient),
            number_of(row.quotient + last_row) + kKernel - 1,
            static_cast<int>(row.remainder),
            static_cast<int>(band.remainder) * grid.width,
            static_cast<int>(grid.first_column(band.remainder, kStride))};
  }
};

// What one thread copies of each slice: a vector of a row, of every `step`-th channel.
template <class Traits, int kStride>
class BandCopies {
  using T = typename Traits::T;
  static constexpr int kVec = Traits::Tile::kVec, kSlice = Traits::Tile::kSlice;

 public:
  __device__ BandCopies(const DwConv2dParams& p, const BandGrid& grid, const Band& band) {
    const int copy = threadIdx.x % grid.copies, row = copy / grid.row_vectors;
    first_ = threadIdx.x / grid.copies, place_ = copy * kVec;
    column_ = band.first_column + (copy - row * grid.row_vectors) * kVec;
    const int64_t number = band.first_number + row;
    row_ = number <= band.last_number ? band_row<Traits::kKernel, kStride>(p, number) : -1;
    if (first_ >= grid.copy_groups) first_ = kSlice;  // this thread is not of a whole group
  }

  // Starts the copies of channels first_k on, of which k_left exist.
  __device__ void copy(const DwConv2dParams& p, const BandGrid& grid, T* stage, int first_k, int k_left) const {
    const T* x = static_cast<const T*>(p.x) + column_;
    const int left = static_cast<int>(p.in_w) - column_, last = row_ >= 0 ? k_left : 0;
    int64_t start = row_ + (first_k + first_) * p.x_stride.c;
    T* to = stage + first_ * grid.copies * kVec + place_;
#pragma unroll 1
    for (int k = first_; k < kSlice; k += grid.copy_groups) {
      const int shift = static_cast<int>(start) & (kVec - 1);
      const int count = k < last ? max(0, min(left + shift, kVec)) : 0;
      copy_async(to, count > 0 ? x + (start - shift) : static_cast<const T*>(p.x), count);
      start += grid.copy_groups * p.x_stride.c, to += grid.copy_groups * grid.copies * kVec;
    }
  }

 private:
  int64_t row_;
  int first_, place_, column_;
};

// The windows of kColumns neighbours in a row of the band. They lie in three words of kColumns elements of each row
// of x: the last element of the first word, or its only one, is the first of the first window.
template <class Traits, int kStride, int kColumns>
class BandWindows {
  using T = typename Traits::T;
  static constexpr int kKernel = Traits::kKernel, kVec = Traits::Tile::kVec, kWords = 3;
  static_assert(kColumns - 1 + (kColumns - 1) * kStride + kKernel <= kWords * kColumns);

 public:
  __device__ BandWindows(const DwConv2dParams& p, const BandGrid& grid, const Band& band, int pixel) {
    const int place = band.skipped + pixel, row = place / grid.width,
              out_column = band.first_out + place - row * grid.width;
    const DivMod image = divmod(band.first_row + row, p.out_h);
    if (pixel >= grid.pixels || out_column >= p.out_w || image.quotient >= p.batch) return;
    const int column = out_column * kStride - static_cast<int>(p.window.pad_left) - (kColumns - 1);
    int64_t start = image.quotient * p.x_stride.n + (image.remainder * kStride - p.window.pad_top) * p.x_stride.h;
#pragma unroll
    for (int i = 0; i < kKernel; ++i, start += p.x_stride.h) {
      bits_ |= (static_cast<int>(start) & (kVec - 1)) << kStartBits * i;  // of padding, it does not matter
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      bits_ |= inside(column + i * kColumns, static_cast<int>(p.in_w)) << (kStartBits * kKernel + i);
    }
    const int64_t number = image.quotient * ((p.out_h - 1) * kStride + kKernel) + image.remainder * kStride;
    place_ = static_cast<int>(number - band.first_number) * grid.row_vectors * kVec + column - band.first_column;
  }

  __device__ bool exist() const { return place_ != kNowhere; }

  // Adds row `i` of the windows of one channel, from its rows in shared memory; `start`: of the channel in its
  // vector.
  __device__ void add(float (&sums)[kColumns], const T* rows, int pitch, int start, int i,
                      const Pack<float, Traits::kTapRow>& weights) const {
    const T* from = rows + place_ + i * pitch + (((bits_ >> kStartBits * i) + start) & (kVec - kColumns));
    float x[kWords * kColumns];
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
      Pack<T, kColumns> pack{};
      if (bits_ >> (kStartBits * kKernel + word) & 1) pack = load_pack<kColumns>(from + word * kColumns);
#pragma unroll
      for (int v = 0; v < kColumns; ++v) x[word * kColumns + v] = to_float(pack[v]);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int j = 0; j < kKernel; ++j) sums[c] = fmaf(weights[j], x[kColumns - 1 + c * kStride + j], sums[c]);
    }
  }

 private:
  static constexpr int kStartBits = 4, kNowhere = INT_MIN;
  int bits_ = 0;          // of each row where it starts in its first vector, then which words are inside x
  int place_ = kNowhere;  // where the first word lies
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

template <class T, bool kTf32, class Shape, int kStride, int kColumns>
__global__ void __launch_bounds__(BandTraits<T, kTf32, Shape>::kThreads, BandTraits<T, kTf32, Shape>::kBlocksPerSm)
    separable_bands_kernel(SeparableConv2dParams p, bool weight_vectors, Output output, BandGrid grid) {
  using Traits = BandTraits<T, kTf32, Shape>;
  using Tile = typename Traits::Tile;
  constexpr int kTapPitch = Traits::kTapPitch;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ typename Tile::TilePlaces places;
  const int x_elements = Tile::kSlice * grid.copies * Tile::kVec;
  T* const x_stages = reinterpret_cast<T*>(memory);
  T* const weight_stages = x_stages + grid.stages * x_elements;
  T* const pixels = weight_stages + grid.stages * Tile::kWeightElements;
  float* const tap_stages = reinterpret_cast<float*>(pixels + Tile::kPixelElements);

  const DivMod block = divmod(blockIdx.x, grid.output_tiles);
  const int64_t first_output = block.remainder * Tile::kOutputs;
  const int outputs_left = at_most(p.pw.out_channels - first_output, Tile::kOutputs);
  const int channels = static_cast<int>(p.dw.channels);
  const Band band = Band::of<Traits::kKernel, kStride>(p.dw, grid, block.quotient);
  for (int i = threadIdx.x; i < Traits::kPixels; i += Traits::kThreads) {
    const int place = band.skipped + i, row = place / grid.width, column = band.first_out + place - row * grid.width;
    const bool exists = i < grid.pixels && column < p.dw.out_w;
    const int64_t pixel = exists ? (band.first_row + row) * p.dw.out_w + column : output.pixels;
    places.y[i] = pixel_offset(pixel, output, output.y_stride);
    if (output.residual) places.residual[i] = pixel_offset(pixel, output, output.residual_stride);
  }

  const BandCopies<Traits, kStride> x_copies(p.dw, grid, band);
  const RowCopies<Tile, Tile::kOutputs, true> weight_copies(
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
  // Taps pass through registers, so that they arrive while the slice before theirs is worked on: a thread's are a row
  // of a channel, with the bias after the first.
  Pack<float, Traits::kTapRow> taps;
  const auto load_taps = [&](int first_k) {
    const int thread = thread_anew(), row = thread / Tile::kSlice;
    const int64_t channel = first_k + thread % Tile::kSlice;
    const bool exists = row < Traits::kKernel && channel < channels;
    const T* from = static_cast<const T*>(p.dw.weight) + channel * p.dw.weight_stride_c + row * p.dw.weight_stride_h;
#pragma unroll
    for (int j = 0; j < Traits::kKernel; ++j) taps[j] = exists ? to_float(from[j * p.dw.weight_stride_w]) : 0.f;
    const bool has_bias = exists && row == 0 && p.dw.bias != nullptr;
    taps[Traits::kKernel] = has_bias ? to_float(static_cast<const T*>(p.dw.bias)[channel * p.dw.bias_stride]) : 0.f;
  };
  const auto store_taps = [&](float* stage) {
    const int thread = thread_anew(), row = thread / Tile::kSlice;
    if (row >= Traits::kKernel) return;
    store_pack(stage + thread % Tile::kSlice * kTapPitch + row * Traits::kTapRow, taps);
  };

  // A thread makes one or two words of pixels of a channel, which share its taps.
  constexpr int kWords = Traits::words_at_once(kColumns), kThreadsOfChannel = Traits::kPixels / kColumns / kWords;
  constexpr int kLanes = Traits::kThreads / kThreadsOfChannel;
  using Windows = BandWindows<Traits, kStride, kColumns>;
  const auto windows_of = [&](int word) {
    return Windows(p.dw, grid, band, (threadIdx.x % kThreadsOfChannel + word * kThreadsOfChannel) * kColumns);
  };
  const Windows windows[] = {windows_of(0), windows_of(kWords - 1)};
  // Channels past the last are zero in x and in their taps, and so they stay.
  const auto make_pixels = [&](const T* x, const float* slice_taps, int first_k) {
    const int thread = thread_anew(), pixel = thread % kThreadsOfChannel * kColumns;
    const int count = windows[0].exist() || windows[kWords - 1].exist() ? Tile::kSlice : 0;
#pragma unroll 1
    for (int k = thread / kThreadsOfChannel; k < count; k += kLanes) {
      const unsigned start = static_cast<unsigned>(first_k + k) * static_cast<unsigned>(p.dw.x_stride.c);
      float values[kWords][kColumns];
#pragma unroll
      for (int i = 0; i < Traits::kKernel; ++i) {
        const auto weights = load_pack<Traits::kTapRow>(slice_taps + k * kTapPitch + i * Traits::kTapRow);
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
#pragma unroll
          for (int c = 0; c < kColumns && i == 0; ++c) values[word][c] = weights[Traits::kKernel];
          windows[word].add(values[word], x + k * grid.copies * Tile::kVec, grid.row_vectors * Tile::kVec,
                            start % Tile::kVec, i, weights);
        }
      }
      activate(values, p.dw.activation);
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        store_word(pixels + k * Tile::kColumnPitch + pixel + word * kThreadsOfChannel * kColumns,
                   round_to<T>(values[word]));
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
  Tile::store(sums, memory, output, places, first_output);
}

template <class T, bool kTf32, class Shape, int kStride>
auto bands_kernel(int columns) {
  if (columns == 4) return separable_bands_kernel<T, kTf32, Shape, kStride, 4>;
  if (columns == 2) return separable_bands_kernel<T, kTf32, Shape, kStride, 2>;
  return separable_bands_kernel<T, kTf32, Shape, kStride, 1>;
}

template <class T, bool kTf32, class Shape>
cudaError_t launch_separable_bands(const SeparableConv2dParams& p, cudaStream_t stream) {
  using Traits = BandTraits<T, kTf32, Shape>;
  const BandGrid grid = Traits::grid(p);
  Output output = output_of(p.pw, Layout::kNchw);
  const bool whole_vectors = grid.starts_with_vectors(p.dw.out_w, Traits::Tile::kVec);
  output.y_vectors &= whole_vectors, output.residual_vectors &= whole_vectors;
  const auto kernel = p.dw.window.stride_h == 1 ? bands_kernel<T, kTf32, Shape, 1>(grid.columns)
                                                : bands_kernel<T, kTf32, Shape, 2>(grid.columns);
  return launch_blocks(kernel, grid.blocks(), Traits::kThreads, Traits::shared_bytes(grid), stream, p,
                       weights_are_vectors(p.pw), output, grid);
}

#define MBV1_SEPARABLE_BANDS_INSTANTIATE(T, kTf32, ...) \
  template cudaError_t launch_separable_bands<T, kTf32, __VA_ARGS__>(const SeparableConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
