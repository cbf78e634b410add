// One level of Strassen's algorithm (Gaussian Elimination is not Optimal, 1969) for the products of a chain: of half
// the rows, half the depth and half the columns seven products, not eight.
//
//   M1 = (A11 + A22) (B11 + B22)    M2 = (A21 + A22) B11    M3 = A11 (B12 - B22)    M4 = A22 (B21 - B11)
//   M5 = (A11 + A12) B22    M6 = (A21 - A11) (B11 + B12)    M7 = (A12 - A22) (B21 + B22)
//   C11 = M1 + M4 - M5 + M7    C12 = M3 + M5    C21 = M2 + M4    C22 = M1 - M2 + M3 + M6
//
// A tile of C is made in all four quarters at once, product after product with the sums in registers, so that no
// product is ever a matrix in memory. The sums of B's quarters are made when the weights are packed, those of A's
// once for all columns.
//
// Its rounding errors are bounded by the norms of A and B, not value by value: in the largest one by three times the
// bound of the usual product (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 23.2.2).
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// In the order in which they are made, in which their factors lie in memory, too.
enum Product { kM2, kM4, kM7, kM1, kM6, kM3, kM5, kProducts };
// Where the quarters of A lie until sums replace two of them: a row's halves are neighbours.
constexpr Product kA11 = kM3, kA12 = kM5, kA21 = kM2, kA22 = kM4;

// Whether a matrix of weights has quarters, in whole blocks and panels. Pairs of BFloat16 would lose digits as sums.
template <class E>
constexpr bool strassen_takes(int64_t depth, int64_t cols) {
  return kPairOf<E> == 1 && depth % (2 * kLanes<Acc<E>>) == 0 && cols % (2 * Tile<Acc<E>>::kCols) == 0;
}

// The rows of A in quads of tiles, as even in height as can be: each has some of the upper half and as many of the
// lower one, which is a row shorter where their number is odd.
template <class A>
struct Quads {
  int64_t upper, count;    // rows, quads
  int64_t height, higher;  // rows of a quad; the first `higher` have one more

  explicit Quads(int64_t rows)
      : upper(divide_up(rows, 2)),
        count(divide_up(upper, Tile<A>::kRows)),
        height(upper / count),
        higher(upper % count) {}

  int64_t first(int64_t quad) const { return quad * height + smaller(quad, higher); }
  int64_t rows(int64_t quad) const { return height + (quad < higher); }
};

// Elements of a product's left factor of a quad, and of all that lie in quads.
template <class A>
constexpr int64_t factor_elements(int64_t depth) {
  return tile_elements<A>(1, depth / 2);
}
template <class A>
int64_t quad_elements(int64_t rows, int64_t depth) {
  return Quads<A>(rows).count * kProducts * factor_elements<A>(depth);
}

// Where row m lies in the quads, [product][block][row][lane]: offsets[0 … count).
template <class A>
void place_in_quads(int64_t count, int64_t depth, int64_t* offsets) {
  const Quads<A> quads(count);
  const int64_t size = factor_elements<A>(depth);
  for (int64_t q = 0; q < quads.count; ++q) {
    for (int64_t r = 0; r < quads.rows(q); ++r) {
      const int64_t m = quads.first(q) + r, offset = q * kProducts * size + r * kLanes<A>;
      offsets[m] = offset + kA11 * size;
      if (quads.upper + m < count) offsets[quads.upper + m] = offset + kA21 * size;
    }
  }
}

// The left factors of `rows` rows that lie in their places: of each quarter, blocks [begin, end).
template <class A>
void sum_left_factors(A* a, int64_t rows, int64_t depth, int64_t begin, int64_t end) {
  constexpr int kL = kLanes<A>;
  const Quads<A> quads(rows);
  const int64_t size = factor_elements<A>(depth);
  for (int64_t q = 0; q < quads.count; ++q, a += kProducts * size) {
    const int64_t elements = quads.rows(q) * kL;
    for (int64_t block = begin; block < end; ++block) {
      A* const row = a + block * Tile<A>::kBlock;
      if (rows % 2 != 0 && q + 1 == quads.count) {
        for (Product p : {kA21, kA22}) __builtin_memset(row + p * size + elements - kL, 0, kL * sizeof(A));
      }
      for (int64_t i = 0; i < elements; i += kL) {
        A* const to = row + i;
        const auto a11 = load(to + kA11 * size), a12 = load(to + kA12 * size);
        const auto a21 = load(to + kA21 * size), a22 = load(to + kA22 * size);
        store(to + kM1 * size, a11 + a22), store(to + kM2 * size, a21 + a22), store(to + kM5 * size, a11 + a12);
        store(to + kM6 * size, a21 - a11), store(to + kM7 * size, a12 - a22);
      }
    }
  }
}

// Elements of a pair of panels, the left and the right half's, as right factors of all products.
template <class A>
constexpr int64_t pair_elements(int64_t depth) {
  return kProducts * panel_elements<A>(depth / 2);
}

// Right factors [pair][product][k][column] of a weight matrix [depth][cols].
template <class T>
void pack_pairs(const Threads& threads, const T* from, const EvenRows& k_offset, int64_t j_step, int64_t depth,
                int64_t cols, Acc<T>* packed) {
  using A = Acc<T>;
  const int64_t size = panel_elements<A>(depth / 2), below = k_offset(depth / 2);
  parallel(threads, cols / 2 / Tile<A>::kCols, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      A* const b = packed + pair * kProducts * size;
      const int64_t left = pair * Tile<A>::kCols, right = left + cols / 2;
      const auto pack_quarter = [&](int64_t row, int64_t column, Product place) {
        pack_panel(from + row, k_offset, j_step, depth / 2, cols, column, b + place * size);
      };
      pack_quarter(0, left, kM2), pack_quarter(0, right, kM3);
      pack_quarter(below, left, kM4), pack_quarter(below, right, kM5);
      for (A* to = b; to < b + size; ++to) {
        const A b11 = to[kM2 * size], b12 = to[kM3 * size], b21 = to[kM4 * size], b22 = to[kM5 * size];
        to[kM1 * size] = b11 + b22, to[kM3 * size] = b12 - b22, to[kM4 * size] = b21 - b11;
        to[kM6 * size] = b11 + b12, to[kM7 * size] = b21 + b22;
      }
    }
  });
}

template <class A>
using QuadRows = BlockedRows<A, 2>;

// Where a quad's quarters of C go, by way of which memory, and what is added to them.
template <class A>
struct QuadTarget {
  A* y;                          // left half of the columns
  const int64_t *upper, *lower;  // offsets of rows
  int64_t upper_rows, lower_rows;
  int64_t right, vector_step;  // to the right half, and to the next vector
  const A *left_bias, *right_bias;
  A low, high;
  bool far;  // as Map::far
  A* kept;   // 3 kRows kCols elements
};

// The product of kR rows of both halves and a pair of panels.
template <int kR, class A>
__attribute__((noinline)) void multiply_quad(QuadRows<A> rows, const A* b, const QuadTarget<A>& to) {
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>, kVectors = Tile<A>::kVectors, kTile = kR * kVectors * kL;
  V sums[kR][kVectors] = {};
  A *const c11 = to.kept, *const c12 = c11 + kTile, *const c22 = c12 + kTile;
  // body(sum, its place in a kept tile)
  const auto each = [&](const auto& body) MBV1_LAMBDA {
#pragma GCC unroll 14
    for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) body(sums[r][v], (r * kVectors + v) * kL);
    }
  };
  const auto clear = [&]() MBV1_LAMBDA { each([](V& sum, int) MBV1_LAMBDA { sum = V{}; }); };
  // A quarter of C is value(sum, place).
  const auto finish = [&](bool lower, bool right, const auto& value) MBV1_LAMBDA {
    A* const y = to.y + (right ? to.right : 0);
    const int64_t* offsets = lower ? to.lower : to.upper;
    const A* bias = right ? to.right_bias : to.left_bias;
    const V low = broadcast(to.low), high = broadcast(to.high);
    const int64_t count = lower ? to.lower_rows : to.upper_rows;
    const auto with = [&](auto bounded) MBV1_LAMBDA {
#pragma GCC unroll 14
      for (int r = 0; r < kR; ++r) {
        if (r >= count) return;
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          V sum = value(sums[r][v], (r * kVectors + v) * kL) + load(bias + v * kL);
          sum = sum < low ? low : sum;  // NaN stays NaN
          if constexpr (bounded) sum = sum > high ? high : sum;
          store(y + offsets[r] + v * to.vector_step, sum);
        }
      }
    };
    to.high < std::numeric_limits<A>::infinity() ? with(std::true_type{}) : with(std::false_type{});
  };
  // Asks for a quarter of C, to be written.
  const auto fetch_quarter = [&](bool lower, bool right) MBV1_LAMBDA {
    const int64_t* offsets = lower ? to.lower : to.upper;
    for (int64_t r = 0; r < (lower ? to.lower_rows : to.upper_rows); ++r) {
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(to.y + (right ? to.right : 0) + offsets[r] + v * to.vector_step, 1);
      }
    }
  };
  // One loop for all products: of seven loops GCC makes some that keep sums in memory.
  for (int product = 0; product < kProducts; ++product, rows.advance(1)) {
    if (to.far) {
      if (product == kM2) fetch_quarter(true, false);
      if (product == kM6) fetch_quarter(true, true);
      if (product == kM3) fetch_quarter(false, true), fetch_quarter(false, false);
    }
    b = add_tile(rows, b, sums);
    switch (product) {
      case kM2:
        each([&](V& sum, int i) MBV1_LAMBDA { store(c22 + i, sum); });
        clear();
        break;
      case kM4:
        finish(true, false, [&](V sum, int i) MBV1_LAMBDA { return load(c22 + i) + sum; });
        break;
      case kM7:  // and M4
        each([&](V& sum, int i) MBV1_LAMBDA { store(c11 + i, sum); });
        clear();
        break;
      case kM1:
        each([&](V& sum, int i) MBV1_LAMBDA { store(c11 + i, load(c11 + i) + sum); });
        break;
      case kM6:  // and M1
        each([&](V& sum, int i) MBV1_LAMBDA { store(c22 + i, sum - load(c22 + i)); });
        clear();
        break;
      case kM3:
        finish(true, true, [&](V sum, int i) MBV1_LAMBDA { return load(c22 + i) + sum; });
        each([&](V& sum, int i) MBV1_LAMBDA { store(c12 + i, sum); });
        clear();
        break;
      case kM5:
        finish(false, true, [&](V sum, int i) MBV1_LAMBDA { return load(c12 + i) + sum; });
        finish(false, false, [&](V sum, int i) MBV1_LAMBDA { return load(c11 + i) - sum; });
    }
  }
}

// Pairs of panels [pair_begin, pair_end), of `packed` with `cols` columns, times the `count` rows in quads at `a`, to
// an output whose channels of a vector are neighbours. `after` is what will be multiplied next, or null.
template <class T, class A>
void multiply_quads(const Output<T>& out, const A* a, int64_t count, const A* packed, int64_t depth, const A* bias,
                    int64_t cols, int64_t pair_begin, int64_t pair_end, const A* after) {
  constexpr int kL = kLanes<A>, kCols = Tile<A>::kCols, kRows = Tile<A>::kRows, kLeast = Tile<A>::kHalf;
  const Quads<A> quads(count);
  const int64_t size = factor_elements<A>(depth), blocks = kProducts * blocks_of<A>(depth / 2);
  const int64_t pair_size = pair_elements<A>(depth), bytes = pair_size * static_cast<int64_t>(sizeof(A));
  alignas(64) A kept[3 * kRows * kCols];
  for (int64_t pair = pair_begin; pair < pair_end; ++pair) {
    const A* const b = packed + pair * pair_size;
    const A* next = pair + 1 < pair_end ? b + pair_size : after;
    Prefetch prefetch = next != nullptr ? Prefetch(next, bytes, quads.count * blocks, 2) : Prefetch(a);
    const int64_t left = pair * kCols, right = left + cols / 2;
    for (int64_t q = 0; q < quads.count; ++q, prefetch.from += blocks * prefetch.step) {
      const int64_t upper = quads.first(q), lower = quads.upper + upper;
      const int64_t rows = quads.rows(q), lower_rows = smaller(rows, count - lower);
      const auto multiply = [&](const QuadTarget<A>& to) {
        repeat<kRows - kLeast + 1>([&](auto i) {
          constexpr int kR = kLeast + i;
          if (larger<int64_t>(rows, kLeast) == kR) {
            multiply_quad<kR>(QuadRows<A>{a + q * kProducts * size, depth / 2, size, prefetch}, b, to);
          }
        });
      };
      if constexpr (std::is_same_v<T, A>) {
        if (is_clamp(out.activation) && out.residual == nullptr) {
          multiply({out.y + left / kL * out.y_vector_step, out.y_row + upper, out.y_row + lower, rows, lower_rows,
                    cols / 2 / kL * out.y_vector_step, out.y_vector_step, bias + left, bias + right,
                    low_of<A>(out.activation), high_of<A>(out.activation), out.far, kept});
          continue;
        }
      }
      // By way of a copy of each quarter.
      alignas(64) A c[2][2][kRows * kCols];
      int64_t c_rows[2 * kRows];
      for (int r = 0; r < 2 * kRows; ++r) c_rows[r] = r * kCols;
      multiply({c[0][0], c_rows, c_rows + kRows, rows, lower_rows, 2 * kRows * kCols, kL, bias + left, bias + right,
                low_of<A>(Activation::kNone), high_of<A>(Activation::kNone), false, kept});
      for (int half : {0, 1}) {
        const int64_t column = half == 0 ? left : right;
        store_tile<A>(out.from_row(upper), c[half][0], rows, kCols, column);
        store_tile<A>(out.from_row(lower), c[half][1], lower_rows, kCols, column);
      }
    }
  }
}

}  // namespace
}  // namespace mbv1::cpu
