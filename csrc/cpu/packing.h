// How the factors of the matrix product (gemm.h) lie in memory.
//
// The left one, A, lies in tiles of Tile::kRows rows, [tile][k / kLanes][row][k % kLanes], so that every factor of a
// tile is at a constant distance from one pointer and each row of a block is a cache line. The right one, B, lies in
// panels of Tile::kCols columns, [panel][k][column]. Both are padded with zeros to whole blocks of kLanes in k.
#pragma once

#include "product.h"
#include "transpose.h"

namespace mbv1::cpu {
namespace {

constexpr int64_t kCacheLine = 64;

// Elements from a row of `count` to the next that make an odd number of cache lines: rows multiples of 2 or 4 KB
// apart would share few sets of a first-level cache.
template <class E>
constexpr int64_t line_step(int64_t count) {
  constexpr int64_t kLine = kCacheLine / sizeof(E);
  return (divide_up(count, kLine) | 1) * kLine;
}

// Into the second-level cache, what will be read soon.
inline void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(static_cast<const char*>(from) + i, 0, 2);
}

// Accumulators, a row of B and one factor of A fill the registers: 14 x 2 + 2 + 1 of 32, or 6 x 2 + 2 + 1 of 16.
// The widths of MobileNet's layers are multiples of 14 or 7, and the half tile takes the last 7; of 4, it keeps both
// multiply-add units of 16 registers busy, and takes what 6 leave of 14 x 14, 28 x 28 … pixels.
template <class A>
struct Tile {
  static constexpr int kRows = kVectorBytes == 64 ? 14 : 6;
  static constexpr int kHalf = kVectorBytes == 64 ? 7 : 4;
  // With 16 registers a single row that is left over joins the last tile, and half of B's row stays in memory.
  static constexpr int kMost = kVectorBytes == 32 ? 7 : kRows;
  static constexpr int kVectors = 2;
  static constexpr int kCols = kVectors * kLanes<A>;
  static constexpr int kBlock = kRows * kLanes<A>;  // elements of A from one block of k to the next
  static_assert(kRows * kVectors + kVectors + 1 <= (kVectorBytes == 64 ? 32 : 16), "accumulators must fit registers");
};

// Blocks of k, and the elements of A that `rows` rows take.
template <class A>
constexpr int64_t blocks_of(int64_t depth) {
  return divide_up(depth, kLanes<A>);
}
template <class A>
constexpr int64_t tile_elements(int64_t rows, int64_t depth) {
  return divide_up(rows, Tile<A>::kRows) * blocks_of<A>(depth) * Tile<A>::kBlock;
}
template <class A>
constexpr int64_t panel_elements(int64_t depth) {
  return blocks_of<A>(depth) * kLanes<A> * Tile<A>::kCols;
}

// `count` elements `step` apart, converted and contiguous.
template <class T, class D>
void gather(const T* from, int64_t step, int64_t count, D* to) {
  constexpr int64_t kStep = kLanes<Acc<T>>;
  const auto copy = [&](int64_t i) {
    if constexpr (std::is_same_v<T, D>) {
      copy_vector(from + i, to + i);
    } else {
      store(to + i, load(from + i));
    }
  };
  if (step == 1 && count >= kStep) {
    for (int64_t i = 0; i + kStep <= count; i += kStep) copy(i);
    copy(count - kStep);  // overlaps, where the last vector is not whole
  } else if (step == 1 && std::is_same_v<T, D>) {
    constexpr int64_t kHalf = kStep / 2;
    if (count < kHalf) return copy_less<kHalf / 2>(from, count, reinterpret_cast<T*>(to));
    for (int64_t i : {int64_t{0}, count - kHalf}) __builtin_memcpy(to + i, from + i, kHalf * sizeof(T));
  } else {
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, D>) {
        to[i] = from[i * step];
      } else {
        to[i] = load_one(from + i * step);
      }
    }
  }
}

// bias[0..count) in the type of the sums, padded with zeros to `padded` values; zeros where there is none.
template <class T>
void fill_bias(const void* bias, int64_t step, int64_t count, int64_t padded, Acc<T>* to) {
  if (bias != nullptr) gather(static_cast<const T*>(bias), step, count, to);
  for (int64_t i = bias == nullptr ? 0 : count; i < padded; ++i) to[i] = Acc<T>(0);
}
template <class T>
int64_t padded_bias(int64_t count) {
  return round_up(count, Tile<Acc<T>>::kCols) + Tile<Acc<T>>::kRows;
}
template <class T>
const Acc<T>* gather_bias(Slot slot, const void* bias, int64_t step, int64_t count) {
  Acc<T>* values = workspace<Acc<T>>(slot, padded_bias<T>(count));
  fill_bias<T>(bias, step, count, padded_bias<T>(count), values);
  return values;
}

// Rows of a matrix an even distance apart.
struct EvenRows {
  int64_t step;
  int64_t operator()(int64_t k) const { return k * step; }
};

// `to` is a panel whose column j is from[j * step … + depth): weights as torch has them.
template <class T, class D>
void transpose_panel(const T* from, int64_t step, int64_t depth, int64_t cols, D* to) {
  constexpr int kL = kLanes<Acc<T>>, kCols = Tile<Acc<T>>::kCols;
  for (int64_t j = 0; j < kCols; j += kL) {
    const int64_t rows = larger<int64_t>(0, smaller<int64_t>(kL, cols - j));
    const int64_t behind = larger<int64_t>(0, cols - j - rows) * step;
    transpose_rows<T>({from + j * step, step, rows, behind + depth}, depth, to + j, kCols);
  }
  for (int64_t i = depth * kCols; i < panel_elements<Acc<T>>(depth); ++i) to[i] = D{};
}

// One panel of B: columns [first, first + kCols) of the matrix whose element (k, j) is from[k_offset(k) + j *
// j_step], in pairs also zero, where the offset is negative.
template <class E, class T, class Offset>
void pack_panel(const T* from, const Offset& k_offset, int64_t j_step, int64_t depth, int64_t cols, int64_t first,
                E* to) {
  constexpr int kCols = Tile<Acc<T>>::kCols, kPair = kPairOf<E>;
  if constexpr (std::is_same_v<Offset, EvenRows>) {
    const T* column = from + first * j_step;
    if (k_offset.step == 1 && kPair == 1) return transpose_panel(column, j_step, depth, cols - first, to);
    if constexpr (kPair == 2) {  // pairs are moved as if they were of the type of the sums
      if (k_offset.step == 1 && j_step % 2 == 0 && depth % (2 * kLanes<Acc<T>>) == 0) {
        return transpose_panel(reinterpret_cast<const Acc<T>*>(column), j_step / 2, depth / 2, cols - first,
                               reinterpret_cast<Acc<T>*>(to));
      }
    }
  }
  const int64_t count = smaller<int64_t>(cols - first, kCols), padded = blocks_of<Acc<T>>(depth) * kLanes<Acc<T>>;
  for (int64_t k = 0; k < padded; ++k) {
    if constexpr (kPair == 1) {
      E* row = to + k * kCols;
      if (k < depth) gather(from + k_offset(k) + first * j_step, j_step, count, row);
      for (int64_t j = k < depth ? count : 0; j < kCols; ++j) row[j] = E(0);
    } else {
      E* row = to + k / kPair * kCols * kPair + k % kPair;
      const int64_t offset = k < depth ? k_offset(k) : -1;
      for (int64_t j = 0; j < kCols; ++j) {
        row[j * kPair] = offset >= 0 && j < count ? from[offset + (first + j) * j_step] : E{};
      }
    }
  }
}

// All panels of a weight matrix [depth][cols].
template <class E, class T, class Offset>
void pack_panels(const Threads& threads, const T* from, const Offset& k_offset, int64_t j_step, int64_t depth,
                 int64_t cols, E* to) {
  parallel(threads, divide_up(cols, Tile<Acc<T>>::kCols), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(from, k_offset, j_step, depth, cols, panel * Tile<Acc<T>>::kCols,
                 to + panel * panel_elements<Acc<T>>(depth));
    }
  });
}

// Packed into the calling thread's workspace.
template <class E, class T, class Offset>
const E* pack_weights(const Threads& threads, const T* from, const Offset& k_offset, int64_t j_step, int64_t depth,
                      int64_t cols) {
  const int64_t panels = divide_up(cols, Tile<Acc<T>>::kCols);
  E* packed = workspace<E>(Slot::kWeights, panels * panel_elements<Acc<T>>(depth));
  pack_panels(threads, from, k_offset, j_step, depth, cols, packed);
  return packed;
}

// A row of A: `depth` elements `step` apart, to row `row` of a tile.
template <class E, class T>
void pack_row(const T* from, int64_t step, int64_t depth, int64_t row, E* tile) {
  constexpr int kL = kLanes<Acc<T>>;
  E* to = tile + row * kL;
  for (int64_t k = 0; k < depth; k += kL, to += Tile<Acc<T>>::kBlock) {
    const int64_t count = smaller<int64_t>(kL, depth - k);
    if (count < kL) __builtin_memset(to, 0, kL * sizeof(E));  // of a constant size, which is no call
    gather(from + k * step, step, count, to);
  }
}

// A weight matrix [rows][depth] as A, in the calling thread's workspace.
template <class T>
const Acc<T>* pack_weight_rows(const Threads& threads, const T* from, int64_t row_stride, int64_t step, int64_t rows,
                               int64_t depth) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  A* packed = workspace<A>(Slot::kWeights, tile_elements<A>(rows, depth));
  parallel(threads, divide_up(rows, kRows), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kRows; row < end * kRows; ++row) {
      // Rows past the end repeat the last one: their products are not stored.
      pack_row(from + smaller(row, rows - 1) * row_stride, step, depth, row % kRows,
               packed + row / kRows * tile_elements<A>(kRows, depth));
    }
  });
  return packed;
}

// Rows [0, count) of A, whose columns lie as rows of `planes`, to tiles at `to`.
template <class E, class T>
void pack_columns(const RowsOf<T>& planes, int64_t count, E* to) {
  constexpr int kL = kLanes<Acc<T>>, kRows = Tile<Acc<T>>::kRows, kBlock = Tile<Acc<T>>::kBlock;
  const int64_t blocks = blocks_of<Acc<T>>(planes.rows);
  for (int64_t block = 0; block < blocks; ++block, to += kBlock) {
    const int64_t k = block * kL, rows = smaller<int64_t>(kL, planes.rows - k);
    const int64_t readable = (planes.rows - k - rows) * planes.step + planes.readable;
    const RowsOf<T> part{planes.from + k * planes.step, planes.step, rows, readable};
    E* tile = to;
    for (int64_t first = 0; first < count; first += kRows, tile += blocks * kBlock) {
      const int64_t last = smaller(first + kRows, count);
      for (int64_t r = first; r < last; r += kL) {
        E* row = tile + (r - first) * kL;
        transpose_columns(part, r, last - r, [&](int64_t i, auto v) MBV1_LAMBDA { store_raw<T>(row + i * kL, v); });
      }
    }
  }
}

}  // namespace
}  // namespace mbv1::cpu
