// How the rows of a product's left factor are read, and where its result goes.
#pragma once

#include "packing.h"

namespace mbv1::cpu {
namespace {

// Memory to fetch into the second-level cache meanwhile, in equal parts: the next panel, which the processor's own
// prefetchers would only ask for when its first rows are needed.
struct Prefetch {
  // Blocks of short vectors take so little time that a loop over lines would be a tenth of it. They fetch a line
  // each, which is the whole panel from eight tiles on, or two, by a second instruction.
  static constexpr bool kCounts = kVectorBytes == 64;
  const char* from;
  int64_t step;  // bytes of a part

  Prefetch(const void* begin, int64_t bytes, int64_t parts, int64_t most_lines = 1)
      : from(static_cast<const char*>(begin)), step(kCacheLine * divide_up(bytes, parts * kCacheLine)) {
    if (!kCounts) step = smaller(step, most_lines * kCacheLine);
  }

  // Nothing but, again and again, a line that is there.
  explicit Prefetch(const void* line) : from(static_cast<const char*>(line)), step(0) {}

  template <int kMostLines>
  MBV1_INLINE void part(const char* line) const {
    static_assert(kMostLines == 1 || kMostLines == 2);
    if constexpr (kCounts) {
      for (int64_t i = 0; i < step; i += kCacheLine) __builtin_prefetch(line + i, 0, 2);
    } else {
      __builtin_prefetch(line, 0, 2);
      if (kMostLines == 2) __builtin_prefetch(line + step - kCacheLine, 0, 2);
    }
  }
};

// a + r * step is row r of a tile, or behind its last row the first of the next one.
template <class A>
struct TileStep {
  int64_t next;  // elements from a tile to the next

  friend MBV1_INLINE int64_t operator*(int r, TileStep step) {
    constexpr int kRows = Tile<A>::kRows;
    return r < kRows ? r * kLanes<A> : step.next + (r - kRows) * kLanes<A>;
  }
};

// How the left factor's rows are read, from one tile to the next. Operand is what A and B hold: the type of the sums,
// or BFloat16 where the processor multiplies pairs of them, with B in pairs of k, [k / 2][column][2].
template <class E, int kFetched = 1>
struct BlockedRows {
  using Operand = E;
  static constexpr int kL = kLanes<Acc<E>>, kUnroll = smaller(kL, kVectorBytes == 64 ? 4 : 8);
  const E* a;  // of the tile
  int64_t depth;
  int64_t tile = blocks_of<Acc<E>>(depth) * Tile<Acc<E>>::kBlock;  // elements to the next one
  Prefetch prefetch = Prefetch(a);  // a part of it, of up to kFetched lines, for each block

  int64_t parts() const { return blocks_of<Acc<E>>(depth); }  // of a tile

  MBV1_INLINE void advance(int64_t tiles) {
    a += tiles * tile, prefetch.from += tiles * blocks_of<Acc<E>>(depth) * prefetch.step;
  }

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    const E* block = a;
    const char* line = prefetch.from;
    const TileStep<Acc<E>> step{tile};
    for (int64_t left = depth; left > 0; left -= kL, block += Tile<Acc<E>>::kBlock, line += prefetch.step) {
      prefetch.template part<kFetched>(line);
      // What kUnroll takes behind the last k is zero.
      for (int64_t k = 0; k < (kUnroll == kL ? 1 : smaller<int64_t>(left, kL)); k += kUnroll) {
#pragma GCC unroll 8
        for (int u = 0; u < kUnroll; u += kPairOf<E>) multiply(block + k + u, step);
      }
    }
  }
};

// Row r is a[r * step … + depth): pixels of NHWC, read where they lie, or what was made for AMX to read.
template <class E>
struct StridedRows {
  using Operand = E;
  const E* a;
  int64_t depth, step;
  Prefetch prefetch = Prefetch(a);  // by AMX, a part of it for each step

  // What AMX multiplies at once of a row: 64 bytes, or 32.
  int64_t amx_depth() const { return kLanes<Acc<E>> * (depth % (2 * kLanes<Acc<E>>) == 0 ? 2 : 1); }
  int64_t parts() const { return divide_up(depth, amx_depth()); }

  MBV1_INLINE void advance(int64_t tiles) { a += tiles * Tile<Acc<E>>::kRows * step; }

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    constexpr int kPair = kPairOf<E>, kUnroll = 4 * kPair;
    int64_t k = 0;
    for (; k + kUnroll <= depth; k += kUnroll) {
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; u += kPair) multiply(a + k + u, step);
    }
    for (; k < depth; k += kPair) multiply(a + k, step);
  }
};

// Element (row, k) is a[offsets[k] + row * step]: the windows of a convolution, read where they lie. Step may be an
// integral constant, with which the rows need no address of their own.
template <class E, class Step>
struct IndexedRows {
  using Operand = E;
  const E* a;
  const int64_t* offsets;
  int64_t depth;
  Step step;

  MBV1_INLINE void advance(int64_t tiles) { a += tiles * Tile<Acc<E>>::kRows * step; }

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    int64_t k = 0;
    for (; k + 3 <= depth; k += 3) {  // which the compiler's own unrolling would have copy all sums first
      multiply(a + offsets[k], step), multiply(a + offsets[k + 1], step), multiply(a + offsets[k + 2], step);
    }
    for (; k < depth; ++k) multiply(a + offsets[k], step);
  }
};

// Tiles of weights as rows, and as columns pixels whose channels are `plane` apart.
template <class E>
struct WeightRows : BlockedRows<E> {
  int64_t plane;
};
template <class Rows>
constexpr bool kIsWeights = false;
template <class E>
constexpr bool kIsWeights<WeightRows<E>> = true;

// Where rows of C go: vector v < vectors of row r < count to y[rows[r] + v * vector_step], clamped to [low, high].
template <class T>
struct Target {
  T* y;
  const int64_t* rows;
  int64_t vector_step, count, vectors;
  Acc<T> low, high;

  Target part(int64_t first, int64_t length) const {
    Target target = *this;
    target.rows += first, target.count = length;
    return target;
  }
};

}  // namespace
}  // namespace mbv1::cpu
