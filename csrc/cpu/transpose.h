// Transposition in registers: squares of kLanes x kLanes elements, between layouts whose neighbours in memory are
// channels and layouts whose neighbours are pixels.
#pragma once

#include "simd.h"

namespace mbv1::cpu {
namespace {

// kLanes elements as they lie in memory. A part is what one shuffle instruction moves elements within: 128 bits.
template <class T>
struct Raw {
  static constexpr int kLanes = cpu::kLanes<Acc<T>>;
  static constexpr int kPart = smaller<int>(kLanes, 16 / sizeof(T));
  using Element = std::conditional_t<sizeof(T) == 2, uint16_t, T>;
  using Lanes = std::make_integer_sequence<int, kLanes>;
  typedef Element Type __attribute__((vector_size(kLanes * sizeof(T))));
};

// Within every part: groups of kGroup elements of a and b in turn, first halves to a, second halves to b.
template <class R, int kGroup, class V, int... kLane>
MBV1_INLINE void interleave(V& a, V& b, std::integer_sequence<int, kLane...>) {
  constexpr auto from = [](int lane, int half) {
    const int part = lane / R::kPart * R::kPart, group = lane % R::kPart / kGroup;
    return group % 2 * R::kLanes + part + half * R::kPart / 2 + group / 2 * kGroup + lane % kGroup;
  };
  const V first = __builtin_shufflevector(a, b, from(kLane, 0)...);
  b = __builtin_shufflevector(a, b, from(kLane, 1)...);
  a = first;
}

// The even parts of a and of b to a, the odd ones to b.
template <class R, class V, int... kLane>
MBV1_INLINE void split_parts(V& a, V& b, std::integer_sequence<int, kLane...>) {
  constexpr auto from = [](int lane, int odd) {
    return (2 * (lane / R::kPart) + odd) * R::kPart + lane % R::kPart;  // those of b follow those of a
  };
  const V even = __builtin_shufflevector(a, b, from(kLane, 0)...);
  b = __builtin_shufflevector(a, b, from(kLane, 1)...);
  a = even;
}

// Steps between vectors kStep, 2 kStep, 4 kStep … apart. Afterwards row_of<R>(j) holds column j.
template <class R, int kStep, class V>
MBV1_INLINE void transpose_steps(V (&rows)[R::kLanes]) {
  if constexpr (kStep < R::kLanes) {
    repeat<R::kLanes>([&](auto i) MBV1_LAMBDA {
      if constexpr ((i & kStep) == 0) {
        if constexpr (kStep < R::kPart) {
          interleave<R, kStep>(rows[i], rows[i + kStep], typename R::Lanes{});
        } else {
          split_parts<R>(rows[i], rows[i + kStep], typename R::Lanes{});
        }
      }
    });
    transpose_steps<R, 2 * kStep>(rows);
  }
}

template <class R>
constexpr int row_of(int column) {
  int row = column / R::kPart * R::kPart;
  for (int bit = 1, mirrored = R::kPart / 2; bit < R::kPart; bit *= 2, mirrored /= 2) {
    if (column & bit) row += mirrored;
  }
  return row;
}

// Rows of a matrix, at most kLanes: element (i, j) at from[i * step + j]. `readable` elements of the last row may be
// read, and all that lies before them.
template <class T>
struct RowsOf {
  const T* from;
  int64_t step, rows, readable;
};

// Columns [first, first + kLanes), zero where they cannot be read: a matrix that can be read as a whole.
template <class T>
__attribute__((noinline)) void copy_square(const RowsOf<T>& m, int64_t first, T* square) {
  constexpr int kL = Raw<T>::kLanes;
  for (int64_t i = 0; i < kL * kL; ++i) square[i] = T{};
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < smaller<int64_t>(kL, m.readable - first); ++j) {
      __builtin_memcpy(square + i * kL + j, m.from + i * m.step + first + j, sizeof(T));
    }
  }
}

// Columns [first, first + count), count <= kLanes, of a matrix: store_column(j, v) with column first + j in the lanes
// of v, which are zero behind the last row.
template <class T, class Store>
MBV1_INLINE void transpose_columns(const RowsOf<T>& m, int64_t first, int64_t count, const Store& store_column) {
  using R = Raw<T>;
  T square[R::kLanes * R::kLanes];
  const T* from = m.from + first;
  int64_t step = m.step;
  if (first + R::kLanes > m.readable) {
    copy_square(m, first, square);
    from = square, step = R::kLanes;
  }
  typename R::Type rows[R::kLanes];
  if (m.rows >= R::kLanes) {
    repeat<R::kLanes>([&](auto i) MBV1_LAMBDA { __builtin_memcpy(&rows[i], from + i * step, sizeof rows[i]); });
  } else {
    repeat<R::kLanes>([&](auto i) MBV1_LAMBDA {
      rows[i] = typename R::Type{};
      if (i < m.rows) __builtin_memcpy(&rows[i], from + i * step, sizeof rows[i]);
    });
  }
  transpose_steps<R, 1>(rows);
  if (count >= R::kLanes) {
    repeat<R::kLanes>([&](auto j) MBV1_LAMBDA { store_column(int64_t{j}, rows[row_of<R>(j)]); });
  } else {
    repeat<R::kLanes>([&](auto j) MBV1_LAMBDA {
      if (j < count) store_column(int64_t{j}, rows[row_of<R>(j)]);
    });
  }
}

// kLanes elements of type T as they lie in memory, converted to D.
template <class T, class D, class V>
MBV1_INLINE void store_raw(D* to, V v) {
  if constexpr (std::is_same_v<T, D>) {
    __builtin_memcpy(to, &v, sizeof v);
  } else {
    T values[Raw<T>::kLanes];
    __builtin_memcpy(values, &v, sizeof v);
    store(to, load(values));
  }
}

// Columns [0, cols): column j to to[j * to_step … + kLanes), in type D.
template <class T, class D>
void transpose_rows(const RowsOf<T>& m, int64_t cols, D* to, int64_t to_step) {
  for (int64_t first = 0; first < cols; first += Raw<T>::kLanes) {
    transpose_columns(m, first, cols - first,
                      [&](int64_t j, auto v) MBV1_LAMBDA { store_raw<T>(to + (first + j) * to_step, v); });
  }
}

}  // namespace
}  // namespace mbv1::cpu
