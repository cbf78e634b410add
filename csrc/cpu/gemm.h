// The matrix product under pwconv2d, separable_conv2d, stem_conv2d and chain.
//
// C[i][j] = bias[j] + sum_k A[i][k] * B[k][j] for pixels i and output channels j. packing.h says how A and B lie in
// memory. WeightRows are the other way round: output channels i and pixels j.
#pragma once

#include "activation.h"
#include "amx.h"

namespace mbv1::cpu {
namespace {

// Adds to `sums` kR rows of A times the first kVectors vectors of a panel of B. Returns the end of the panel.
template <int kR, int kVectors, class Rows, class V>
MBV1_INLINE const typename Rows::Operand* add_tile(const Rows& rows, const typename Rows::Operand* b,
                                                   V (&sums)[kR][kVectors]) {
  using E = typename Rows::Operand;
  using A = Acc<E>;
  // Vectors of a row of B that have a register of their own.
  constexpr int kL = kLanes<A>, kLoaded = kR > Tile<A>::kRows ? kVectors - 1 : kVectors;
  rows.for_each([&](const E* a, auto step, auto... odd) MBV1_LAMBDA {
    V columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kLoaded; ++v) columns[v] = load_operand(b + v * kL * kPairOf<E>);
#pragma GCC unroll 14
    for (int r = 0; r < kR; ++r) {
      const V factor = broadcast_operand(a + r * step, odd...);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        V& sum = sums[r][v];
        sum = v < kLoaded ? multiply_add<E>(sum, factor, columns[v])
                          : multiply_add_from(sum, factor, b + v * kL * kPairOf<E>);
      }
    }
    if constexpr (kIsWeights<Rows>) {
      b += rows.plane;
    } else {
      b += Tile<A>::kCols * kPairOf<E>;
    }
  });
  return b;
}

// Tiles of kR rows of A, as many as the target has rows for, times the first kVectors vectors of a panel of B. The
// bias is the pixels' columns', or the weights' rows'.
template <int kR, int kVectors, class Rows, class T>
__attribute__((noinline)) void multiply_rows(Rows rows, const typename Rows::Operand* panel, const Acc<T>* bias,
                                             const Target<T>& where) {
  using A = Acc<T>;
  using E = typename Rows::Operand;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>;
  for (int64_t first = 0; first < where.count; first += kR, rows.advance(1)) {
    V sums[kR][kVectors] = {};
    add_tile(rows, panel, sums);
    // Copied only here, where the sums leave registers for it; stores do not change the copy.
    const Target<T> target = where;
    // Sums that begin with a large bias would lose digits of all that follows.
    V biases[kVectors] = {};
#pragma GCC unroll 2
    for (int v = 0; v < kVectors && !kIsWeights<Rows>; ++v) biases[v] = load(bias + v * kL);
    const V low = broadcast(target.low), high = broadcast(target.high);
    const int64_t* offsets = target.rows + first;
    const int64_t count = target.count - first;
    const auto finish = [&](auto bounded) MBV1_LAMBDA {
#pragma GCC unroll 14
      for (int r = 0; r < kR; ++r) {
        if (r >= count) return;
        T* y = target.y + offsets[r];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          if (v >= target.vectors) break;
          V sum = sums[r][v] + (kIsWeights<Rows> ? broadcast(bias[first + r]) : biases[v]);
          sum = sum < low ? low : sum;  // NaN stays NaN
          if constexpr (bounded) sum = sum > high ? high : sum;
          store_product<E>(y + v * target.vector_step, sum, kL);
        }
      }
    };
    // Both comparisons take the units that multiply, where 64-byte vectors leave them nothing else to do.
    target.high < std::numeric_limits<A>::infinity() ? finish(std::true_type{}) : finish(std::false_type{});
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
  bool far = false;  // as Map::far

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

// Rows [0, count) of C, columns [first_col, first_col + cols), which are of one panel.
template <class T, class Rows>
void multiply_into(const Output<T>& out, Rows rows, int64_t count, const typename Rows::Operand* b,
                   const Acc<T>* bias, int64_t first_col, int64_t cols) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows, kHalf = Tile<A>::kHalf, kCols = Tile<A>::kCols, kL = kLanes<A>;
  constexpr int kVectors = Tile<A>::kVectors;
  const auto multiply = [&](const Rows& left, const auto& target) {
    if (by_amx(left, b, bias, target)) return;
    if (cols <= kL) return multiply_rows<kRows, 1>(left, b, bias, target);
    const int64_t rest = target.count % kRows;
    const bool one_more = Tile<A>::kMost > kRows && rest == 1 && target.count > kRows;
    const int64_t last = one_more ? kRows + 1 : rest <= kHalf ? rest : 0, whole = target.count - last;
    if (whole > 0) multiply_rows<kRows, kVectors>(left, b, bias, target.part(0, whole));
    if (last == 0) return;
    Rows behind = left;
    behind.advance(whole / kRows);
    if (one_more) return multiply_rows<Tile<A>::kMost, kVectors>(behind, b, bias, target.part(whole, last));
    multiply_rows<kHalf, kVectors>(behind, b, bias, target.part(whole, last));
  };
  const Activation clamp = out.residual == nullptr && is_clamp(out.activation) ? out.activation : Activation::kNone;
  const A low = low_of<A>(clamp), high = high_of<A>(clamp);
  if (out.y_step == 1 && cols % kL == 0 && clamp == out.activation && out.residual == nullptr) {
    T* y = out.y + first_col / kL * out.y_vector_step;
    return multiply(rows, Target<T>{y, out.y_row, out.y_vector_step, count, cols / kL, low, high});
  }
  // By way of a copy of each tile.
  alignas(64) A c[round_up(kRows, kL) * kCols];
  int64_t c_rows[kRows];
  for (int r = 0; r < kRows; ++r) c_rows[r] = r * kCols;
  for (int64_t row = 0; row < count; row += kRows, rows.advance(1)) {
    const int64_t made = smaller<int64_t>(kRows, count - row);
    const Output<T> to = out.from_row(row);
    multiply(rows, Target<A>{c, c_rows, kL, made, kCols / kL, low, high});
    using E = typename Rows::Operand;
    to.y_step == 1 ? store_tile<E>(to, c, made, cols, first_col) : store_planes<E>(to, c, made, cols, first_col);
  }
}

// ---- Products ----

// Panels [panel_begin, panel_end) of B, which has `cols` columns and rows in whole blocks, times `count` rows of A:
// `packed` is the first of them.
template <class T, class Rows>
void multiply_panels(const Output<T>& out, const Rows& rows, int64_t count, const typename Rows::Operand* packed,
                     int64_t panel_size, const Acc<T>* bias, int64_t cols, int64_t panel_begin, int64_t panel_end) {
  constexpr int kCols = Tile<Acc<T>>::kCols;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel, packed += panel_size) {
    const int64_t j = panel * kCols;
    multiply_into(out, rows, count, packed, bias + j, j, smaller<int64_t>(cols - j, kCols));
  }
}

// The same, fetching each panel while the one before it is multiplied: a panel stays in the second-level cache while
// the rows, BlockedRows or for AMX StridedRows, pass by it. `after` is what will be multiplied next, or null.
template <class T, class Rows>
void multiply_passing(const Output<T>& out, Rows rows, int64_t count, const typename Rows::Operand* packed,
                      const Acc<T>* bias, int64_t cols, int64_t panel_begin, int64_t panel_end,
                      const typename Rows::Operand* after = nullptr) {
  using A = Acc<T>;
  using E = typename Rows::Operand;
  const int64_t panel_size = panel_elements<A>(rows.depth), bytes = panel_size * static_cast<int64_t>(sizeof(E));
  const int64_t parts = divide_up(count, Tile<A>::kRows) * rows.parts();
  for (int64_t panel = panel_begin; panel < panel_end; ++panel, packed += panel_size) {
    const E* next = panel + 1 < panel_end ? packed + panel_size : after;
    rows.prefetch = next != nullptr ? Prefetch(next, bytes, parts) : Prefetch(rows.a);
    multiply_panels(out, rows, count, packed, panel_size, bias, cols, panel, panel + 1);
  }
}

}  // namespace
}  // namespace mbv1::cpu
