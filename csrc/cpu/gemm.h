// The matrix product under pwconv2d, separable_conv2d, stem_conv2d and chain.
//
// C[i][j] = bias[j] + sum_k A[i][k] * B[k][j] for pixels i and output channels j. packing.h says how A and B lie in
// memory. WeightRows are the other way round: output channels i and pixels j.
#pragma once

#include "activation.h"
#include "packing.h"

namespace mbv1::cpu {
namespace {

// Cache lines to fetch into the second-level cache meanwhile: the next panel, which the processor's own prefetchers
// would only ask for when its first rows are needed.
struct Prefetch {
  const char* from;
  int64_t lines;  // a part

  MBV1_INLINE void part(int64_t index) const {
    const char* line = from + index * lines * kCacheLine;
    for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(line + i * kCacheLine, 0, 2);
  }
};

// How the left factor's rows are read. Operand is what A and B hold: the type of the sums, or BFloat16 where the
// processor multiplies pairs of them, with B in pairs of k, [k / 2][column][2].
template <class E>
struct BlockedRows {
  using Operand = E;
  const E* a;  // of the tile
  int64_t depth;
  Prefetch prefetch = {};  // a part of it for each block

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    constexpr int kL = kLanes<Acc<E>>, kUnroll = smaller(kL, 4);
    const E* block = a;
    for (int64_t left = depth, i = 0; left > 0; left -= kL, ++i, block += Tile<Acc<E>>::kBlock) {
      prefetch.part(i);
      // What kUnroll takes behind the last k is zero.
      for (int64_t k = 0; k < smaller<int64_t>(left, kL); k += kUnroll) {
#pragma GCC unroll 4
        for (int u = 0; u < kUnroll; u += kPairOf<E>) multiply(block + k + u, std::integral_constant<int64_t, kL>{});
      }
    }
  }
};

// Row r is a[r * step … + depth): pixels of NHWC, read where they lie.
template <class E>
struct StridedRows {
  using Operand = E;
  const E* a;
  int64_t depth, step;

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

// Element (row, k) is a[offsets[k] + row * step]: the windows of a convolution, read where they lie.
template <class E>
struct IndexedRows {
  using Operand = E;
  const E* a;
  const int64_t* offsets;
  int64_t depth, step;

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    for (int64_t k = 0; k < depth; ++k) multiply(a + offsets[k], step);
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

// Where a tile of C goes: vector v < vectors of row r < count to y[rows[r] + v * vector_step], clamped to [low,
// high].
template <class T>
struct Target {
  T* y;
  const int64_t* rows;
  int64_t vector_step, count, vectors;
  Acc<T> low, high;
};

// kR rows of A times the first kVectors vectors of a panel of B. The bias is the pixels' columns', or the weights'
// rows'.
template <int kR, int kVectors, class Rows, class T>
__attribute__((noinline)) void multiply_tile(const Rows& rows, const typename Rows::Operand* b, const Acc<T>* bias,
                                             const Target<T>& where) {
  using A = Acc<T>;
  using E = typename Rows::Operand;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>;
  V sums[kR][kVectors] = {};
  rows.for_each([&](const E* a, auto step) MBV1_LAMBDA {
    V columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) columns[v] = load_operand(b + v * kL * kPairOf<E>);
    if constexpr (kIsWeights<Rows>) {
      b += rows.plane;
    } else {
      b += Tile<A>::kCols * kPairOf<E>;
    }
#pragma GCC unroll 14
    for (int r = 0; r < kR; ++r) {
      const V factor = broadcast_operand(a + r * step);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add<E>(sums[r][v], factor, columns[v]);
    }
  });
  const Target<T> target = where;  // only here, where the sums leave registers for it; stores do not change the copy
  // Sums that begin with a large bias would lose digits of all that follows.
  V biases[kVectors] = {};
#pragma GCC unroll 2
  for (int v = 0; v < kVectors && !kIsWeights<Rows>; ++v) biases[v] = load(bias + v * kL);
  const V low = broadcast(target.low), high = broadcast(target.high);
#pragma GCC unroll 14
  for (int r = 0; r < kR; ++r) {
    if (r >= target.count) return;
    T* y = target.y + target.rows[r];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (v >= target.vectors) break;
      V sum = sums[r][v] + (kIsWeights<Rows> ? broadcast(bias[r]) : biases[v]);
      sum = sum < low ? low : sum;  // NaN stays NaN
      sum = sum > high ? high : sum;
      store_product<E>(y + v * target.vector_step, sum, kL);
    }
  }
}

// ---- What becomes of a tile ----

// The output of a product, and what is added to it on the way. Element j of vector v of row r is at
// y[y_row[r] + v * y_vector_step + j * y_step]. Where y_step is not 1, the rows are neighbours in memory.
template <class T>
struct Output {
  T* y;
  const int64_t* y_row;
  int64_t rows;  // all that this thread makes: behind a tile, it makes them later
  int64_t y_vector_step, y_step;
  Activation activation;
  const T* residual = nullptr;  // or element (r, j) at residual[residual_row[r] + j * residual_step]
  const int64_t* residual_row = nullptr;
  int64_t residual_step = 0;

  Output from_row(int64_t row) const {
    Output out = *this;
    out.y_row += row, out.rows -= row;
    if (residual != nullptr) out.residual_row += row;
    return out;
  }
};

template <class E, class T>
void store_tile(const Output<T>& out, const Acc<T>* c, int64_t rows, int64_t cols, int64_t first_col) {
  using A = Acc<T>;
  for (int64_t r = 0; r < rows; ++r) {
    T* y = out.y + out.y_row[r] + first_col / kLanes<A> * out.y_vector_step;
    for (int64_t j = 0; j < cols; j += kLanes<A>, y += out.y_vector_step) {
      const int64_t count = smaller<int64_t>(cols - j, kLanes<A>);
      typename Vec<A>::Type v = load(c + r * Tile<A>::kCols + j);
      if (out.residual != nullptr) {
        const T* residual = out.residual + out.residual_row[r] + (first_col + j) * out.residual_step;
        if (out.residual_step == 1) {
          v += load_part(residual, count);
        } else {
          for (int64_t i = 0; i < count; ++i) v[i] += load_one(residual + i * out.residual_step);
        }
      }
      store_product<E>(y, activate<A>(v, out.activation), count);
    }
  }
}

// The same where the rows are neighbours: a vector of them may reach beyond the tile, into rows that are made later.
template <class E, class T>
void store_planes(const Output<T>& out, const Acc<T>* c, int64_t rows, int64_t cols, int64_t first_col) {
  using A = Acc<T>;
  constexpr int kL = kLanes<A>, kCols = Tile<A>::kCols;
  for (int64_t j = 0; j < cols; j += kL) {
    T* planes = out.y + out.y_row[0] + (first_col + j) / kL * out.y_vector_step;
    for (int64_t r = 0; r < rows; r += kL) {
      const int64_t count = smaller<int64_t>(out.rows - r, kL), made = smaller<int64_t>(rows - r, kL);
      const int64_t* residual_row = out.residual_row + r;
      bool gathers = false;
      for (int64_t k = 1; out.residual != nullptr && k < made; ++k) gathers |= residual_row[k] != residual_row[0] + k;
      transpose_columns(RowsOf<A>{c + r * kCols + j, kCols, kL, kL}, 0, cols - j, [&](int64_t i, auto v) MBV1_LAMBDA {
        if (out.residual != nullptr) {
          const T* residual = out.residual + (first_col + j + i) * out.residual_step;
          if (!gathers) v += load_part(residual + residual_row[0], made);
          for (int64_t k = 0; gathers && k < made; ++k) v[k] += load_one(residual + residual_row[k]);
        }
        if (out.residual != nullptr || !is_clamp(out.activation)) v = activate<A>(v, out.activation);
        store_product<E>(planes + i * out.y_step + r, v, count);
      });
    }
  }
}

// A tile of C: rows [0, count) of it, columns [first_col, first_col + cols).
template <class T, class Rows>
void multiply_into(const Output<T>& out, const Rows& rows, int64_t count, const typename Rows::Operand* b,
                   const Acc<T>* bias, int64_t first_col, int64_t cols) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows, kHalf = Tile<A>::kHalf, kCols = Tile<A>::kCols, kL = kLanes<A>;
  const auto multiply = [&](const auto& target) {
    if (cols <= kL) return multiply_tile<kRows, 1>(rows, b, bias, target);
    return count <= kHalf ? multiply_tile<kHalf, Tile<A>::kVectors>(rows, b, bias, target)
                          : multiply_tile<kRows, Tile<A>::kVectors>(rows, b, bias, target);
  };
  const Activation clamp = out.residual == nullptr && is_clamp(out.activation) ? out.activation : Activation::kNone;
  const A low = low_of<A>(clamp), high = high_of<A>(clamp);
  if (out.y_step == 1 && cols % kL == 0 && clamp == out.activation && out.residual == nullptr) {
    T* y = out.y + first_col / kL * out.y_vector_step;
    return multiply(Target<T>{y, out.y_row, out.y_vector_step, count, cols / kL, low, high});
  }
  // By way of a copy of the tile.
  alignas(64) A c[round_up(kRows, kL) * kCols];
  int64_t c_rows[kRows];
  for (int r = 0; r < kRows; ++r) c_rows[r] = r * kCols;
  multiply(Target<A>{c, c_rows, kL, count, kCols / kL, low, high});
  using E = typename Rows::Operand;
  out.y_step == 1 ? store_tile<E>(out, c, count, cols, first_col) : store_planes<E>(out, c, count, cols, first_col);
}

// ---- Products ----

// Pixel `index` of an (N, H, W) grid.
struct Pixel {
  int64_t n, h, w;
  Pixel(int64_t index, int64_t height, int64_t width)
      : n(index / (height * width)), h(index / width % height), w(index % width) {}
  int64_t offset(const Strides4& s) const { return n * s.n + h * s.h + w * s.w; }
  void next(int64_t height, int64_t width) {
    if (++w < width) return;
    w = 0;
    if (++h == height) h = 0, ++n;
  }
};

// Panels [panel_begin, panel_end) of B, which has `cols` columns and rows in whole blocks, times `count` rows of A,
// at most a tile.
template <class T, class Rows>
void multiply_panels(const Output<T>& out, const Rows& rows, int64_t count, const typename Rows::Operand* packed,
                     int64_t panel_size, const Acc<T>* bias, int64_t cols, int64_t panel_begin, int64_t panel_end) {
  constexpr int kCols = Tile<Acc<T>>::kCols;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const int64_t j = panel * kCols;
    multiply_into(out, rows, count, packed + panel * panel_size, bias + j, j, smaller<int64_t>(cols - j, kCols));
  }
}

// The same for the tiles of `count` rows at `a`. A panel stays in the second-level cache while the rows pass by it.
// `after` is what will be multiplied next, or null.
template <class T, class E>
void multiply_tiles(const Output<T>& out, const E* a, int64_t count, const E* packed, int64_t depth,
                    const Acc<T>* bias, int64_t cols, int64_t panel_begin, int64_t panel_end,
                    const E* after = nullptr) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const int64_t blocks = blocks_of<A>(depth), panel_size = panel_elements<A>(depth);
  const int64_t panel_lines = panel_size * static_cast<int64_t>(sizeof(E)) / kCacheLine;
  const int64_t lines = divide_up(panel_lines, divide_up(count, kRows) * blocks);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const E* next = panel + 1 < panel_end ? packed + (panel + 1) * panel_size : after;
    for (int64_t row = 0; row < count; row += kRows) {
      const int64_t tile = row / kRows;
      const Prefetch prefetch{reinterpret_cast<const char*>(next) + tile * blocks * lines * kCacheLine,
                              next == nullptr ? 0 : lines};
      const BlockedRows<E> rows{a + tile * blocks * Tile<A>::kBlock, depth, prefetch};
      multiply_panels(out.from_row(row), rows, smaller<int64_t>(count - row, kRows), packed, panel_size, bias, cols,
                      panel, panel + 1);
    }
  }
}

// The pixels [first, first + count) of all images, in NCHW of one image, with offsets in the workspace.
template <class T>
Output<T> output_pixels(const PwConv2dParams& p, int64_t first, int64_t count) {
  int64_t* rows = workspace<int64_t>(Slot::kOffsets, 2 * count);
  const auto find = [&](const Strides4& stride, int64_t* to) {
    for (int64_t r = 0; r < count;) {
      const Pixel pixel(first + r, p.h, p.w);
      const int64_t start = pixel.offset(stride), of_row = smaller(p.w - pixel.w, count - r);
      for (int64_t i = 0; i < of_row; ++i) to[r + i] = start + i * stride.w;
      r += of_row;
    }
  };
  find(p.y_stride, rows);
  if (p.residual != nullptr) find(p.residual_stride, rows + count);
  return {static_cast<T*>(p.y),
          rows,
          count,
          kLanes<Acc<T>> * p.y_stride.c,
          p.y_stride.c,
          p.activation,
          static_cast<const T*>(p.residual),
          rows + count,
          p.residual_stride.c};
}

}  // namespace
}  // namespace mbv1::cpu
