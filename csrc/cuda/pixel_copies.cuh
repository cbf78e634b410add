// How pixels of NCHW reach a tile [k][pixel] of shared memory: by the widest copies that their planes allow.
//
//   words     of 16, 8 or 4 bytes, where every plane is whole words and lies at a multiple of them (ColumnCopies)
//   elements  anywhere, each through a register (ColumnCopies)
//   vectors   as memory has them, wherever planes of 2-byte elements start; a second step puts their elements in
//             their places (ShiftedCopies)
#pragma once

#include "copies.cuh"
#include "matrix_tile.cuh"

namespace mbv1::cuda {

// Elements of the widest words that cover x as they lie, each inside a plane; 0 where there are none of 4 bytes.
inline int pixel_word(const PwConv2dParams& p) {
  const int element = kVectorBytes / vector_size(p.dtype);
  for (int width = vector_size(p.dtype); width * element >= 4; width /= 2) {
    if (pixels_are_words(p.x, p.x_stride, p.h, p.w, p.dtype, width)) return width;
  }
  return 0;
}

// Whether the pixels of a channel lie one after another and vectors cover them, wherever they start.
inline bool pixels_are_shifted(const PwConv2dParams& p) {
  return is_aligned(p.x) && pixels_are_words(p.x, p.x_stride, p.h, p.w, p.dtype, 1);
}

// What one thread copies in every slice.
template <class Tile>
class ColumnCopies {
  using T = typename Tile::T;
  static constexpr int kPixels = Tile::kPixels, kSlice = Tile::kSlice;

 public:
  // `offset` holds the element offsets of the tile's pixels in x, -1 for one that is not there.
  __device__ ColumnCopies(const void* x, int64_t stride_c, int word, const int64_t* offset)
      : x_(static_cast<const T*>(x)), stride_c_(stride_c), offset_(offset), word_(word) {}

  __device__ void copy(T* tile, int64_t first_k, int k_left) const {
    const int bytes = word_ * static_cast<int>(sizeof(T));
    if (bytes == kVectorBytes) return copy_words<kVectorBytes>(tile, first_k, k_left);
    if (bytes == 8) return copy_words<8>(tile, first_k, k_left);
    if (bytes == 4) return copy_words<4>(tile, first_k, k_left);
    copy_words<0>(tile, first_k, k_left);
  }

 private:
  // Neighbouring threads copy neighbouring words. A tile starts at a multiple of them, so that a word lies inside or
  // outside as a whole. Without words: elements.
  template <int kBytes>
  __device__ void copy_words(T* tile, int64_t first_k, int k_left) const {
    constexpr int kWord = max_of(1, kBytes / static_cast<int>(sizeof(T))), kRowWords = kPixels / kWord;
    constexpr int kStep = Tile::kGroupThreads / kRowWords;
    static_assert(Tile::kGroupThreads % kRowWords == 0 && kSlice % kStep == 0);
    const int thread = threadIdx.x % Tile::kGroupThreads, first = thread / kRowWords,
              pixel = thread % kRowWords * kWord;
    const int64_t offset = offset_[pixel];
    const int last = offset >= 0 ? k_left : 0;
    const T* from = x_ + (first_k + first) * stride_c_ + max(offset, int64_t{0});
    T* to = tile + first * Tile::kColumnPitch + pixel;
#pragma unroll(kSlice / kStep > 8 ? 8 : kSlice / kStep)
    for (int k = first; k < first + kSlice; k += kStep, from += kStep * stride_c_, to += kStep * Tile::kColumnPitch) {
      if constexpr (kBytes > 0) {
        copy_word_async<kBytes>(to, from, k < last);
      } else {
        *to = k < last ? *from : from_float<T>(0.f);
      }
    }
  }

  const T* x_;
  int64_t stride_c_;
  const int64_t* offset_;
  int word_;
};

// Vectors that cover a tile's pixels of a channel, wherever its planes start: each plane's pixels may begin and end
// inside one.
template <class Tile>
constexpr int64_t shifted_vectors(int64_t plane) {
  const int64_t planes = (Tile::kPixels - 2) / plane + 2;
  return (Tile::kPixels + 2 * (Tile::kVec - 1) * planes) / Tile::kVec;
}

// What one thread copies in every slice, a vector of every kGroupThreads / vectors-th channel, and what it puts in
// place of that: two pixels of every channel that it comes to.
template <class Tile>
class ShiftedCopies {
  using T = typename Tile::T;
  static constexpr int kVec = Tile::kVec, kSlice = Tile::kSlice;
  static constexpr int kPairs = Tile::kPixels / 2, kPairStep = Tile::kGroupThreads / kPairs;
  static_assert(sizeof(T) == 2 && Tile::kGroupThreads % kPairs == 0 && kSlice % kPairStep == 0);

 public:
  // Of the tile of `pixels` from first_pixel on; `vectors`: shifted_vectors().
  __device__ ShiftedCopies(const PwConv2dParams& p, int64_t first_pixel, int pixels, int vectors)
      : x_(static_cast<const T*>(p.x)), stride_c_(p.x_stride.c), vectors_(vectors) {
    const int thread = threadIdx.x % Tile::kGroupThreads;
    first_ = thread / vectors, step_ = Tile::kGroupThreads / vectors;
    if (first_ >= step_) first_ = kSlice;  // this thread is not of a whole channel
    const int own = thread % vectors, pair = thread % kPairs * 2;
    const DivMod image = divmod(first_pixel, p.h * p.w);
    int64_t image_start = image.quotient * p.x_stride.n, in_image = image.remainder;
    for (int pixel = 0, vector = 0; pixel < pixels; image_start += p.x_stride.n, in_image = 0) {
      const int64_t start = image_start + in_image;
      const int length = at_most(p.h * p.w - in_image, pixels - pixel), covering = (length + 2 * (kVec - 1)) / kVec;
      if (own >= vector && own < vector + covering) start_ = start, length_ = length, vector_ = own - vector;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int place = pair + i - pixel;
        if (place < 0 || place >= length) continue;
        place_[i] = vector * kVec + place, start_of_[i] = static_cast<unsigned>(start);
      }
      pixel += length, vector += covering;
    }
  }

  // Starts the copies of a slice to `stage`, [k][vectors].
  __device__ void copy(T* stage, int64_t first_k, int k_left) const {
    int64_t start = start_ + (first_k + first_) * stride_c_;
    T* to = stage + (first_ * vectors_ + static_cast<int>(threadIdx.x % Tile::kGroupThreads) % vectors_) * kVec;
    for (int k = first_; k < kSlice; k += step_, start += step_ * stride_c_, to += step_ * vectors_ * kVec) {
      const int shift = static_cast<int>(start) & (kVec - 1);
      const int count = k < k_left ? max(0, min(shift + length_ - vector_ * kVec, kVec)) : 0;
      copy_async(to, count > 0 ? x_ + (start - shift + vector_ * kVec) : x_, count);
    }
  }

  // Fills a tile from what has arrived.
  __device__ void put(T* tile, const T* stage, int64_t first_k) const {
    const int thread = threadIdx.x % Tile::kGroupThreads, first = thread / kPairs;
    const unsigned stride = static_cast<unsigned>(stride_c_);
    unsigned channel = static_cast<unsigned>(first_k + first) * stride;
    T* to = tile + first * Tile::kColumnPitch + thread % kPairs * 2;
    const T* row = stage + first * vectors_ * kVec;
#pragma unroll 4
    for (int k = first; k < kSlice; k += kPairStep) {
      Pack<T, 2> pair{};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (place_[i] >= 0) pair[i] = row[place_[i] + ((start_of_[i] + channel) & (kVec - 1))];
      }
      store_word(to, pair);
      channel += kPairStep * stride, to += kPairStep * Tile::kColumnPitch, row += kPairStep * vectors_ * kVec;
    }
  }

 private:
  const T* x_;
  int64_t stride_c_, start_ = 0;  // where the tile's pixels of a plane start, and
  int length_ = 0, vector_ = 0;   // how many they are; this thread's is one of the vectors that cover them
  int vectors_, first_, step_;
  int place_[2] = {-1, -1};  // of the pixels that it puts in place, among a channel's vectors if no plane is shifted
  unsigned start_of_[2] = {};  // of their planes, in x
};

}  // namespace mbv1::cuda
