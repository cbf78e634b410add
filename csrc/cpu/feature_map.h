// Feature maps in the layout that the kernels have among themselves.
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// Rows of a feature map: [block of channels][row][column][lane], or [row][block][column][lane]. Columns include the
// padding on the left and right, which is zero, and so are the lanes behind the last channel. Row r lies at r % rows,
// so that a map may be a window that moves down.
template <class T>
struct Map {
  T* data;
  int64_t rows, columns;
  int64_t row_blocks = 1;  // that lie together in a row: all or one
  bool far = false;        // larger than what a second-level cache keeps

  static constexpr int kL = kLanes<Acc<T>>;
  int64_t line_size() const { return columns * kL; }
  int64_t row_size() const { return row_blocks * line_size(); }
  int64_t block_size() const { return row_blocks > 1 ? line_size() : rows * line_size(); }
  T* at(int64_t block, int64_t row) const { return data + block * block_size() + row % rows * row_size(); }

  // Rows [begin, end) of a block into the second-level cache.
  void fetch(int64_t block, int64_t begin, int64_t end) const {
    const int64_t bytes = line_size() * static_cast<int64_t>(sizeof(T));
    for (int64_t row = begin; row < end; ++row) cpu::fetch(at(block, row), bytes);
  }
};

// Columns that the windows of an output row span, and rows for `count` output rows.
inline int64_t columns_spanned(const DwConv2dParams& p) {
  return (p.out_w - 1) * p.window.stride_w + (p.window.kernel_w - 1) * int64_t{p.window.dilation_w} + 1;
}
inline int64_t rows_spanned(const Window& window, int64_t count) {
  return (count - 1) * window.stride_h + (window.kernel_h - 1) * int64_t{window.dilation_h} + 1;
}

// Zeros in the columns that are padding, of rows [begin, end) of a map's blocks [block, block_end): `left`, and those
// behind the `width` that follow. In stores that the compiler does not make a call of.
template <class T>
void clear_padding(const Map<T>& map, int64_t block, int64_t block_end, int64_t begin, int64_t end, int64_t left,
                   int64_t width) {
  constexpr int kL = kLanes<Acc<T>>;
  const auto zero = in_register(typename Vec<Acc<T>>::Type{});
  left = smaller(left, map.columns);
  for (; block < block_end; ++block) {
    T* columns = map.data + block * map.block_size() + begin * map.row_size();
    for (int64_t row = begin; row < end; ++row, columns += map.row_size()) {
      for (int64_t i = 0; i < left; ++i) __builtin_memcpy(columns + i * kL, &zero, kL * sizeof(T));
      for (int64_t i = left + width; i < map.columns; ++i) __builtin_memcpy(columns + i * kL, &zero, kL * sizeof(T));
    }
  }
}

// Copies input row r of image n, blocks [block_begin, block_end), into a map whose first block is block_begin.
template <class T>
void stage_row(const DwConv2dParams& p, int64_t n, int64_t r, int64_t block_begin, int64_t block_end,
               const Map<T>& map) {
  constexpr int kL = kLanes<Acc<T>>;
  const T* from = static_cast<const T*>(p.x) + n * p.x_stride.n + r * p.x_stride.h + block_begin * kL * p.x_stride.c;
  const int64_t left = smaller<int64_t>(p.window.pad_left, map.columns);
  const int64_t right = smaller(left + p.in_w, map.columns);  // the end of what exists
  const int64_t whole = p.x_stride.c == 1 ? smaller(block_end, p.channels / kL) : block_begin;
  T* const to = map.at(0, r);
  for (int64_t i = left; i < right; ++i) {
    const T* pixel = from + (i - left) * p.x_stride.w;
    T* column = to + i * kL;
    for (int64_t block = block_begin; block < whole; ++block, pixel += kL, column += map.block_size()) {
      copy_vector(pixel, column);
    }
  }
  for (int64_t block = whole; block < block_end; ++block) {
    T* row = to + (block - block_begin) * map.block_size();
    const T* pixel = from + (block - block_begin) * kL * p.x_stride.c;
    const int64_t count = smaller<int64_t>(kL, p.channels - block * kL);
    for (int64_t i = left; i < right; ++i, pixel += p.x_stride.w) {
      for (int64_t k = 0; k < count; ++k) row[i * kL + k] = pixel[k * p.x_stride.c];
      for (int64_t k = count; k < kL; ++k) row[i * kL + k] = T{};
    }
  }
}

}  // namespace
}  // namespace mbv1::cpu
