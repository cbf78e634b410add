// The first convolution: an implicit matrix product whose inner dimension is (kernel row, kernel column, channel).
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// The inner dimension is a run of (kernel column, channel) for each kernel row. Where the product takes pairs, a run
// of odd length ends with a pair whose first weight is zero: what it multiplies is masked (WindowPairs).
template <class E>
int64_t stem_depth(const Window& w, int64_t channels) {
  return w.kernel_h * round_up(w.kernel_w * channels, kPairOf<E>);
}

// Where weight [o][c][i][j] of an inner index lies from weight [o][0][0][0]; negative for the zero.
template <class E>
auto weight_offset(const StemConv2dParams& p) {
  return [&p, run = p.window.kernel_w * p.in_channels](int64_t k) {
    const int64_t padded = round_up(run, kPairOf<E>), row = k / padded;
    int64_t at = k % padded;
    if (padded > run && at == run - 1) return int64_t{-1};
    at = smaller(at, run - 1);
    return at % p.in_channels * p.weight_stride_c + row * p.weight_stride_h + at / p.in_channels * p.weight_stride_w;
  };
}

// The windows of an output row as pairs: kernel row i of window r is a[i * row_step + r * step … + run).
template <class E, class Step>
struct WindowPairs {
  using Operand = E;
  const E* a;
  int64_t kernel_rows, row_step, run;
  Step step;

  MBV1_INLINE void advance(int64_t tiles) { a += tiles * Tile<Acc<E>>::kRows * step; }

  template <class Multiply>
  MBV1_INLINE void for_each(const Multiply& multiply) const {
    const E* row = a;
    for (int64_t i = 0; i < kernel_rows; ++i, row += row_step) {
      for (int64_t k = 0; k + 2 <= run; k += 2) multiply(row + k, step);
      if (run % 2 == 1) multiply(row + run - 2, step, OddElement{});
    }
  }
};

// Input rows as the product reads them: where they lie, if they are of the type of its factors, and in pairs if they
// lie as pairs do; else, and where windows overhang the image, copied to [row][column][channel] with their padding.
template <class T, class E>
class StemRows {
  using A = Acc<T>;
  static constexpr bool kPairs = kPairOf<E> == 2;
  static constexpr int kRows = Tile<A>::kRows;

 public:
  // For `rows` output rows at once, in the calling thread's workspace.
  StemRows(const StemConv2dParams& params, int64_t rows) : p(params), w(params.window) {
    const int64_t run = w.kernel_w * p.in_channels;
    if constexpr (std::is_same_v<T, E>) {
      in_place = !kPairs || (run > 1 && p.x_stride.c == 1 && p.x_stride.w == p.in_channels);
    }
    row_size = columns_of(p.out_w) * p.in_channels, pixel_step = w.stride_w * p.in_channels;
    inner = inner_run();
    // A tile may reach beyond the last output of the last row, and the pair of a run of one before the first.
    const int64_t slack = kRows * pixel_step, copied = in_place ? 1 : rows;
    data = workspace<E>(Slot::kInput, 1 + ((copied - 1) * w.stride_h + w.kernel_h) * row_size + slack) + 1;
#if MBV1_VECTOR_BYTES == 64
    if (kPairs && has_amx()) {
      depth = round_up(stem_depth<E>(w, p.in_channels), kLanes<A>), windows_step = line_step<E>(depth);
      const int64_t elements = round_up(p.out_w, kRows) * windows_step;
      windows = workspace<E>(Slot::kTile, elements);
      __builtin_memset(windows, 0, elements * sizeof(E));
    }
#endif
    if constexpr (!kPairs) {
      depth = stem_depth<E>(w, p.in_channels);
      offsets = workspace<int64_t>(Slot::kTileOffsets, 2 * depth), offsets_in_x = offsets + depth;
      int64_t k = 0;
      for (int64_t i = 0; i < w.kernel_h; ++i) {
        for (int64_t j = 0; j < w.kernel_w; ++j) {
          for (int64_t c = 0; c < p.in_channels; ++c, ++k) {
            offsets[k] = i * row_size + j * p.in_channels + c;
            offsets_in_x[k] = i * p.x_stride.h + j * p.x_stride.w + c * p.x_stride.c;
          }
        }
      }
    }
  }

  // Output rows [begin, end) of image n, whose pixels are the rows of `out`.
  void multiply(int64_t n, int64_t begin, int64_t end, const Output<T>& out, const E* packed, const A* bias,
                int64_t cols) const {
    const int64_t panels = divide_up(p.out_channels, Tile<A>::kCols);
    const int64_t panel_size = panel_elements<A>(stem_depth<E>(w, p.in_channels));
    if (!in_place) stage(n, begin, end, 0, p.out_w);
    for (int64_t oh = begin; oh < end; ++oh) {
      // Output columns [first, last), whose windows begin at a: in the image, or in the copy.
      const auto multiply_windows = [&](int64_t first, int64_t last, const E* a, bool in_x) {
        const auto multiply_steps = [&](auto step) {
          const auto multiply_rows = [&](const auto& rows) {
            multiply_panels(out.from_row((oh - begin) * p.out_w + first), rows, last - first, packed, panel_size,
                            bias, cols, 0, panels);
          };
          if constexpr (kPairs) {
            const int64_t row_step = in_x ? p.x_stride.h : row_size;
            multiply_rows(WindowPairs<E, decltype(step)>{a, w.kernel_h, row_step, w.kernel_w * p.in_channels, step});
          } else {
            multiply_rows(IndexedRows<E, decltype(step)>{a, in_x ? offsets_in_x : offsets, depth, step});
          }
        };
        const int64_t step = in_x ? w.stride_w * p.x_stride.w : pixel_step;
        if (windows != nullptr) return copy_windows(first, last, a, in_x ? p.x_stride.h : row_size, step);
        // Windows of three channels at stride 2 are the usual ones.
        step == 6 ? multiply_steps(std::integral_constant<int64_t, 6>{}) : multiply_steps(step);
      };
      const auto multiply_copied = [&] {
        if constexpr (kPairs) {
          if (windows == nullptr) return;
          const StridedRows<E> rows{windows, depth, windows_step};
          multiply_panels(out.from_row((oh - begin) * p.out_w), rows, p.out_w, packed, panel_size, bias, cols, 0,
                          panels);
        }
      };
      if (!in_place) {
        multiply_windows(0, p.out_w, data + (oh - begin) * w.stride_h * row_size, false);
        multiply_copied();
        continue;
      }
      const auto multiply_copies = [&](int64_t first, int64_t last) {
        if (first >= last) return;
        stage(n, oh, oh + 1, first, last);
        multiply_windows(first, last, data, false);
      };
      const int64_t top = oh * w.stride_h - w.pad_top;
      const Run inside = top >= 0 && top + w.kernel_h <= p.in_h ? inner : Run{p.out_w, p.out_w};
      fetch_behind(n, top + w.kernel_h);
      multiply_copies(0, inside.begin);
      if constexpr (std::is_same_v<T, E>) {
        if (inside.begin < inside.end) {
          const int64_t left = inside.begin * w.stride_w - w.pad_left;
          const T* window = static_cast<const T*>(p.x) + n * p.x_stride.n + top * p.x_stride.h + left * p.x_stride.w;
          multiply_windows(inside.begin, inside.end, window, true);
        }
      }
      multiply_copies(inside.end, p.out_w);
      multiply_copied();
    }
  }

 private:
  // The input rows from `row` on that the next output row is the first to read. They come from memory, and are read
  // too slowly, in too many places, for the processor's own prefetchers.
  void fetch_behind(int64_t n, int64_t row) const {
    if (p.x_stride.w > p.in_channels) return;  // neither NHWC nor NCHW
    const int64_t bytes = p.in_w * p.x_stride.w * static_cast<int64_t>(sizeof(T));
    for (int64_t h = larger<int64_t>(0, row); h < smaller(p.in_h, row + w.stride_h); ++h) {
      const T* from = static_cast<const T*>(p.x) + n * p.x_stride.n + h * p.x_stride.h;
      for (int64_t c = 0; c < (p.x_stride.c == 1 ? 1 : p.in_channels); ++c) fetch(from + c * p.x_stride.c, bytes);
    }
  }

  // The windows of output columns [first, last), which begin at a, to rows that AMX reads.
  void copy_windows(int64_t first, int64_t last, const E* a, int64_t row_step, int64_t step) const {
#if MBV1_VECTOR_BYTES == 64
    if constexpr (kPairs) {
      const int64_t run = w.kernel_w * p.in_channels, padded = round_up(run, 2);
      const AmxPairs pairs(run);
      for (int64_t ow = first; ow < last; ++ow, a += step) {
        for (int64_t i = 0; i < w.kernel_h; ++i) {
          pairs.copy(a + i * row_step, windows + ow * windows_step + i * padded);
        }
      }
    }
#endif
  }

  // Output columns [begin, end).
  struct Run {
    int64_t begin, end;
  };

  // Whole tiles whose windows are all of columns that exist, up to the last such output.
  Run inner_run() const {
    const int64_t last = p.in_w + w.pad_left - w.kernel_w, from = divide_up(w.pad_left, w.stride_w);
    const int64_t end = last < 0 ? 0 : smaller(p.out_w, last / w.stride_w + 1);
    const int64_t tiles = larger<int64_t>(0, end - from) / kRows;
    return tiles == 0 ? Run{p.out_w, p.out_w} : Run{end - tiles * kRows, end};
  }

  // Input columns that the windows of so many outputs span.
  int64_t columns_of(int64_t outputs) const { return (outputs - 1) * w.stride_w + w.kernel_w; }

  // Copies what output rows [begin, end), columns [ow_begin, ow_end) of image n read.
  void stage(int64_t n, int64_t begin, int64_t end, int64_t ow_begin, int64_t ow_end) const {
    const int64_t top = begin * w.stride_h - w.pad_top, first = ow_begin * w.stride_w - w.pad_left;
    const int64_t channels = p.in_channels, columns = columns_of(ow_end - ow_begin);
    const int64_t left = smaller(larger<int64_t>(0, -first), columns);
    const int64_t right = larger(left, smaller(p.in_w - first, columns));
    for (int64_t i = 0; i < (end - begin - 1) * w.stride_h + w.kernel_h; ++i) {
      E* to = data + i * row_size;
      const bool exists = top + i >= 0 && top + i < p.in_h;
      const T* from =
          static_cast<const T*>(p.x) + n * p.x_stride.n + (top + i) * p.x_stride.h + (first + left) * p.x_stride.w;
      for (int64_t e = 0; e < (exists ? left : columns) * channels; ++e) to[e] = E{};
      if (!exists) continue;
      if (p.x_stride.c == 1 && p.x_stride.w == channels) {
        gather(from, 1, (right - left) * channels, to + left * channels);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          const T* value = from + c * p.x_stride.c;
          for (int64_t v = left; v < right; ++v, value += p.x_stride.w) copy_one(value, to + v * channels + c);
        }
      }
      for (int64_t e = right * channels; e < columns * channels; ++e) to[e] = E{};
    }
  }

  static void copy_one(const T* from, E* to) {
    if constexpr (kPairs) {
      *to = *from;
    } else {
      *to = load_one(from);
    }
  }

  const StemConv2dParams& p;
  const Window& w;
  bool in_place = false;
  E* data;
  int64_t depth, row_size, pixel_step;
  E* windows = nullptr;  // of an output row, copied for AMX: window r at windows[r * windows_step]
  int64_t windows_step = 0;
  int64_t *offsets, *offsets_in_x;  // of inner index k from an output's first input
  Run inner;
};

template <class T, class E>
void stem_conv2d(const StemConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.weight), weight_offset<E>(p), p.weight_stride_o,
                                    stem_depth<E>(p.window, p.in_channels), p.out_channels);
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  parallel(threads, p.batch * p.out_h, [&](int64_t begin, int64_t end) {
    const StemRows<T, E> rows(p, 1);
    int64_t* y_row = workspace<int64_t>(Slot::kOffsets, p.out_w);
    for (int64_t ow = 0; ow < p.out_w; ++ow) y_row[ow] = ow * p.y_stride.w;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / p.out_h, oh = item % p.out_h;
      T* y = static_cast<T*>(p.y) + n * p.y_stride.n + oh * p.y_stride.h;
      const Output<T> out{y, y_row, p.out_w, kLanes<A> * p.y_stride.c, p.y_stride.c, p.activation};
      rows.multiply(n, oh, oh + 1, out, packed, bias, p.out_channels);
    }
  });
}

inline void run_stem_conv2d(const StemConv2dParams& p, const Threads& threads) {
  with_dtype(p.dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { stem_conv2d<decltype(type), decltype(operand)>(p, threads); });
  });
}

constexpr Kernel<StemConv2dParams> kStemConv2d[] = {
    {"stem_conv2d_nhwc", [](const StemConv2dParams& p) { return p.y_stride.c == 1; }, run_stem_conv2d},
    {"stem_conv2d_nchw", [](const StemConv2dParams&) { return true; }, run_stem_conv2d},
};

}  // namespace
}  // namespace mbv1::cpu
