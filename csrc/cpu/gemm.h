// The matrix product under pwconv2d, separable_conv2d and stem_conv2d.
//
// C[i][j] = sum_k A[i][k] * B[k][j], where j runs along contiguous memory of the output: output channels in NHWC,
// pixels in NCHW. A is read element by element through one pointer a row, B in vectors from panels of Tile::kCols
// columns, [k][kCols], padded with zeros.
#pragma once

#include "simd.h"

namespace mbv1::cpu {
namespace {

// 12 (16 registers) or 28 (32 registers) accumulators, two vectors of B and one of A.
template <class A>
struct Tile {
  static constexpr int kRows = kVectorBytes == 64 ? 14 : 6;
  static constexpr int kVectors = 2;
  static constexpr int kCols = kVectors * kLanes<A>;
  static_assert(kRows * kVectors + kVectors + 1 <= (kVectorBytes == 64 ? 32 : 16), "accumulators must fit registers");
};

// c[kRows][kCols] = the product of kRows rows of A and one panel of B whose rows are `b_step` apart.
template <class A>
inline __attribute__((noinline)) void multiply_tile(const A* const* a, int64_t a_step, const A* b, int64_t b_step,
                                                    int64_t depth, A* c) {
  using V = typename Vec<A>::Type;
  constexpr int kRows = Tile<A>::kRows, kVectors = Tile<A>::kVectors;
  V sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    V columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) columns[v] = load(b + k * b_step + v * kLanes<A>);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
      const A factor = a[r][k * a_step];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(c + r * Tile<A>::kCols + v * kLanes<A>, sums[r][v]);
  }
}

// Where a tile of C goes and what is added to it on the way. Row i of the tile starts at y[i] and at residual[i].
template <class T>
struct Epilogue {
  T* y[Tile<Acc<T>>::kRows];
  const T* residual[Tile<Acc<T>>::kRows];  // unused where has_residual is false
  bool has_residual;
  int64_t residual_step;      // elements from one column to the next
  const Acc<T>* column_bias;  // kCols values, or null
  const Acc<T>* row_bias;     // kRows values, or null
  Activation activation;
};

template <class T>
void store_tile(const Epilogue<T>& e, const Acc<T>* c, int64_t rows, int64_t cols) {
  using A = Acc<T>;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < cols; j += kLanes<A>) {
      const int64_t count = smaller<int64_t>(cols - j, kLanes<A>);
      typename Vec<A>::Type v = load(c + r * Tile<A>::kCols + j);
      if (e.column_bias != nullptr) v += load(e.column_bias + j);
      if (e.row_bias != nullptr) v += e.row_bias[r];
      if (e.has_residual) {
        if (e.residual_step == 1) {
          v += load_part(e.residual[r] + j, count);
        } else {
          for (int64_t i = 0; i < count; ++i) v[i] += load_one(e.residual[r] + (j + i) * e.residual_step);
        }
      }
      store_part(e.y[r] + j, activate<A>(v, e.activation), count);
    }
  }
}

// `count` elements `step` apart, converted and contiguous.
template <class T>
void gather(const T* from, int64_t step, int64_t count, Acc<T>* to) {
  constexpr int64_t kStep = kLanes<Acc<T>>;
  if (step == 1 && count >= kStep) {
    for (int64_t i = 0; i + kStep <= count; i += kStep) store(to + i, load(from + i));
    store(to + count - kStep, load(from + count - kStep));  // overlaps, where the last vector is not whole
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = load_one(from + i * step);
  }
}

// bias[0..count) in the type of the sums, padded with zeros to whole tiles of columns; null stays null.
template <class T>
const Acc<T>* gather_bias(Slot slot, const void* bias, int64_t step, int64_t count) {
  if (bias == nullptr) return nullptr;
  using A = Acc<T>;
  const int64_t padded = round_up(count, Tile<A>::kCols) + Tile<A>::kRows;
  A* values = workspace<A>(slot, padded);
  gather(static_cast<const T*>(bias), step, count, values);
  for (int64_t i = count; i < padded; ++i) values[i] = A(0);
  return values;
}

// One panel: columns [first, first + kCols) of the matrix whose element (k, j) is from[k_offset(k) + j * j_step].
template <class T, class Offset>
void pack_panel(const T* from, const Offset& k_offset, int64_t j_step, int64_t depth, int64_t cols, int64_t first,
                Acc<T>* to) {
  constexpr int kCols = Tile<Acc<T>>::kCols;
  const int64_t count = smaller<int64_t>(cols - first, kCols);
  for (int64_t k = 0; k < depth; ++k, to += kCols) {
    gather(from + k_offset(k) + first * j_step, j_step, count, to);
    for (int64_t j = count; j < kCols; ++j) to[j] = Acc<T>(0);
  }
}

// All panels of a weight matrix [depth][cols], packed in parallel into the calling thread's workspace.
template <class T, class Offset>
const Acc<T>* pack_weights(const Threads& threads, const void* from, const Offset& k_offset, int64_t j_step,
                           int64_t depth, int64_t cols) {
  constexpr int kCols = Tile<Acc<T>>::kCols;
  const int64_t panels = divide_up(cols, kCols);
  Acc<T>* packed = workspace<Acc<T>>(Slot::kWeights, panels * depth * kCols);
  parallel(threads, panels, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(static_cast<const T*>(from), k_offset, j_step, depth, cols, panel * kCols,
                 packed + panel * depth * kCols);
    }
  });
  return packed;
}

// A weight matrix [rows][depth] as A: one pointer a row, `step` elements from k to k + 1.
template <class T>
struct WeightRows {
  const Acc<T>* data;
  int64_t row_stride;
  int64_t step;
};

// In place where the type allows it, else converted into the calling thread's workspace.
template <class T>
WeightRows<T> weight_rows(const Threads& threads, const void* from, int64_t row_stride, int64_t step, int64_t rows,
                          int64_t depth) {
  const T* source = static_cast<const T*>(from);
  if constexpr (std::is_same_v<T, Acc<T>>) {
    return {source, row_stride, step};
  } else {
    Acc<T>* converted = workspace<Acc<T>>(Slot::kWeights, rows * depth);
    parallel(threads, rows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        gather(source + row * row_stride, step, depth, converted + row * depth);
      }
    });
    return {converted, depth, 1};
  }
}

// Pixel `index` of an (N, H, W) grid.
struct Pixel {
  int64_t n, h, w;
  Pixel(int64_t index, int64_t height, int64_t width)
      : n(index / (height * width)), h(index / width % height), w(index % width) {}
  int64_t offset(const Strides4& s) const { return n * s.n + h * s.h + w * s.w; }
};

// NHWC: rows are pixels [first, first + rows) of all images, columns all output channels. `a` has kRows pointers,
// `packed` all weight panels, `column_bias` is padded by gather_bias.
template <class T>
void multiply_pixels(const PwConv2dParams& p, const Acc<T>* const* a, int64_t a_step, const Acc<T>* packed,
                     const Acc<T>* column_bias, int64_t first, int64_t rows, int64_t panel_begin, int64_t panel_end) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  alignas(64) A c[Tile<A>::kRows * kCols];
  int64_t y_offset[Tile<A>::kRows], residual_offset[Tile<A>::kRows];
  for (int64_t r = 0; r < rows; ++r) {
    const Pixel pixel(first + r, p.h, p.w);
    y_offset[r] = pixel.offset(p.y_stride);
    residual_offset[r] = pixel.offset(p.residual_stride);
  }
  Epilogue<T> e{};
  e.has_residual = p.residual != nullptr;
  e.residual_step = p.residual_stride.c;
  e.activation = p.activation;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const int64_t j = panel * kCols;
    multiply_tile(a, a_step, packed + panel * p.in_channels * kCols, kCols, p.in_channels, c);
    e.column_bias = column_bias == nullptr ? nullptr : column_bias + j;
    for (int64_t r = 0; r < rows; ++r) {
      e.y[r] = static_cast<T*>(p.y) + y_offset[r] + j;
      if (e.has_residual) {
        e.residual[r] = static_cast<const T*>(p.residual) + residual_offset[r] + j * p.residual_stride.c;
      }
    }
    store_tile(e, c, rows, smaller<int64_t>(p.out_channels - j, kCols));
  }
}

// NCHW: rows are all output channels, columns `cols` consecutive pixels of image n from `first` on, whose B panel
// has rows `b_step` apart. `row_bias` is padded by gather_bias.
template <class T>
void multiply_channels(const PwConv2dParams& p, const WeightRows<T>& weights, const Acc<T>* row_bias, const Acc<T>* b,
                       int64_t b_step, int64_t n, int64_t first, int64_t cols) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  alignas(64) A c[kRows * Tile<A>::kCols];
  const A* rows[kRows];
  Epilogue<T> e{};
  e.has_residual = p.residual != nullptr;
  e.activation = p.activation;
  // The columns of the residual are evenly spaced unless a tile crosses the end of a strided row.
  const bool even = p.residual_stride.h == p.w * p.residual_stride.w || p.h == 1;
  e.residual_step = even ? p.residual_stride.w : 1;
  T gathered[kRows * Tile<A>::kCols];
  for (int64_t o = 0; o < p.out_channels; o += kRows) {
    const int64_t count = smaller<int64_t>(p.out_channels - o, kRows);
    for (int64_t r = 0; r < kRows; ++r) rows[r] = weights.data + (o + smaller(r, count - 1)) * weights.row_stride;
    multiply_tile(rows, weights.step, b, b_step, p.in_channels, c);
    e.row_bias = row_bias == nullptr ? nullptr : row_bias + o;
    for (int64_t r = 0; r < count; ++r) {
      e.y[r] = static_cast<T*>(p.y) + n * p.y_stride.n + (o + r) * p.y_stride.c + first;
      if (!e.has_residual) continue;
      const T* plane = static_cast<const T*>(p.residual) + n * p.residual_stride.n + (o + r) * p.residual_stride.c;
      if (even) {
        e.residual[r] = plane + first * p.residual_stride.w;
      } else {
        for (int64_t j = 0; j < cols; ++j) {
          const Pixel pixel(first + j, p.h, p.w);
          gathered[r * Tile<A>::kCols + j] = plane[pixel.h * p.residual_stride.h + pixel.w * p.residual_stride.w];
        }
        e.residual[r] = gathered + r * Tile<A>::kCols;
      }
    }
    store_tile(e, c, count, cols);
  }
}

}  // namespace
}  // namespace mbv1::cpu
