// The depthwise kernel under dwconv2d (NHWC), separable_conv2d and chain: runs of neighbouring output pixels of one
// block of kLanes channels, from a feature map in the layout that the kernels have among themselves.
#pragma once

#include "gemm.h"
#include "transpose.h"

namespace mbv1::cpu {
namespace {

// The kernel rows whose input rows exist, for an output row whose window starts at input row `start`.
struct TapRange {
  int64_t begin, end;
  TapRange(int64_t start, int64_t size, int64_t kernel, int64_t dilation)
      : begin(start < 0 ? divide_up(-start, dilation) : 0),
        end(start < size ? smaller(kernel, divide_up(size - start, dilation)) : 0) {}
};

// Rows of a feature map: [block of channels][row][column][lane]. Columns include the padding on the left and right,
// which is zero, and so are the lanes behind the last channel. Row r lies at r % rows, so that a map may be a window
// that moves down.
template <class T>
struct Map {
  T* data;
  int64_t rows, columns;

  static constexpr int kL = kLanes<Acc<T>>;
  int64_t row_size() const { return columns * kL; }
  int64_t block_size() const { return rows * row_size(); }
  T* at(int64_t block, int64_t row) const { return data + block * block_size() + row % rows * row_size(); }
};

// Columns that the windows of an output row span, and rows for `count` output rows.
inline int64_t columns_spanned(const DwConv2dParams& p) {
  return (p.out_w - 1) * p.window.stride_w + (p.window.kernel_w - 1) * int64_t{p.window.dilation_w} + 1;
}
inline int64_t rows_spanned(const Window& window, int64_t count) {
  return (count - 1) * window.stride_h + (window.kernel_h - 1) * int64_t{window.dilation_h} + 1;
}

// Weights and bias in the type of the sums: taps[tap][channel_stride], channels padded with zeros.
template <class T>
struct DwWeights {
  const Acc<T>* taps;
  const Acc<T>* bias;
  int64_t channel_stride;
};

template <class T>
void fill_taps(const DwConv2dParams& p, int64_t channel_stride, Acc<T>* taps) {
  constexpr int kL = kLanes<Acc<T>>;
  const int64_t kernel_w = p.window.kernel_w, count = p.window.kernel_h * kernel_w;
  if (p.weight_stride_w == 1 && p.weight_stride_h == kernel_w) {  // a matrix [channel][tap]
    const T* weight = static_cast<const T*>(p.weight);
    for (int64_t c = 0; c < channel_stride; c += kL) {
      const int64_t rows = smaller<int64_t>(kL, p.channels - c), behind = (p.channels - c - rows) * p.weight_stride_c;
      transpose_rows<T>({weight + c * p.weight_stride_c, p.weight_stride_c, rows, behind + count}, count, taps + c,
                        channel_stride);
    }
    return;
  }
  for (int64_t tap = 0; tap < count; ++tap) {
    const int64_t offset = tap / kernel_w * p.weight_stride_h + tap % kernel_w * p.weight_stride_w;
    Acc<T>* row = taps + tap * channel_stride;
    gather(static_cast<const T*>(p.weight) + offset, p.weight_stride_c, p.channels, row);
    for (int64_t c = p.channels; c < channel_stride; ++c) row[c] = Acc<T>(0);
  }
}

// In the calling thread's workspace.
template <class T>
DwWeights<T> pack_depthwise(const DwConv2dParams& p) {
  const int64_t channel_stride = round_up(p.channels, kLanes<Acc<T>>);
  Acc<T>* taps = workspace<Acc<T>>(Slot::kDwWeights, p.window.kernel_h * p.window.kernel_w * channel_stride);
  fill_taps<T>(p, channel_stride, taps);
  return {taps, gather_bias<T>(Slot::kDwBias, p.bias, p.bias_stride, p.channels), channel_stride};
}

// One block of channels of one output row.
template <class T>
struct DwRow {
  int64_t row_size, rows;              // of the input
  int64_t first_slot, begin, end;      // kernel rows [begin, end), the first at row `first_slot` of the input
  int64_t pixel;                       // from one column to the next,
  int64_t columns_begin, columns_end;  // and the columns that exist, counted from the first one of the run
  const Acc<T>* taps;                  // of the block
  const Acc<T>* bias;
  int64_t tap_step;
  Window window;
  Activation activation;
  bool bf16_products = has_bf16_products();
};

// Sums that are made side by side: with the weights of a kernel row they fill 32 or 16 registers.
constexpr int kLongRun = kVectorBytes == 64 ? 14 : 7;
constexpr int kShortRun = kVectorBytes == 64 ? 7 : 3;
// Taps of any kernel row that are taken at once.
constexpr int kAnyTaps = 4;

// kK neighbouring taps, whose columns lie `pixel` apart, for sums at stride kS. A column is loaded once, if it
// exists.
template <int kK, int kS, int kRun, class T, class V, class Exists>
MBV1_INLINE void add_taps(const T* x, int64_t pixel, const Acc<T>* taps, int64_t tap_step, const Exists& exists,
                          V (&sums)[kRun]) {
  V weights[kK];
  repeat<kK>([&](auto j) MBV1_LAMBDA { weights[j] = load(taps + j * tap_step); });
  repeat<(kRun - 1) * kS + kK>([&](auto column) MBV1_LAMBDA {
    if (!exists(column)) return;
    const V value = in_register(load(x + column * pixel));
    repeat<kK>([&](auto j) MBV1_LAMBDA {
      constexpr int kFrom = column - j;
      if constexpr (kFrom >= 0 && kFrom % kS == 0 && kFrom / kS < kRun) sums[kFrom / kS] += weights[j] * value;
    });
  });
}

// kRun outputs `step` apart, whose first window begins at x, to y[offsets[0]], y[offsets[step]] … D is T, or what the
// product takes as its left factor, which gets the values that a tensor would hold. kK is the kernel's width, and kS
// the stride in columns of the window, which lie dilation_w apart; or kK is 0 for any of both. kMap: the input is a
// map, and undilated. Else columns may be missing, where kK > 0 fewer than that on either side.
template <class T, class D, int kK, int kS, bool kMap, int kRun>
__attribute__((noinline)) void depthwise_run(const DwRow<T>& p, const T* x, D* y, const int64_t* offsets,
                                             int64_t step) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  V sums[kRun];
  repeat<kRun>([&](auto r) MBV1_LAMBDA { sums[r] = load(p.bias); });
  // From tap to tap, and from output to output.
  const int64_t dilation = p.window.dilation_w, stride = step * p.window.stride_w;
  const int64_t pixel = kMap ? kLanes<A> : p.pixel * dilation;
  const bool dense = kK > 0 || stride == dilation;
  const int64_t begin = dense ? divide_up(p.columns_begin, dilation) : p.columns_begin;
  const int64_t end = dense ? divide_up(p.columns_end, dilation) : p.columns_end;
  int64_t slot = p.first_slot;
  for (int64_t i = p.begin; i < p.end; ++i) {
    const T* row = x + slot * p.row_size;
    const A* taps = p.taps + i * p.window.kernel_w * p.tap_step;
    if constexpr (kK > 0) {
      const auto exists = [&](auto column) MBV1_LAMBDA {
        if constexpr (kMap || (column >= kK - 1 && column <= (kRun - 1) * kS)) return true;
        return column >= begin && column < end;
      };
      add_taps<kK, kS>(row, pixel, taps, p.tap_step, exists, sums);
    } else {
      int64_t j = 0;
      for (; kRun > 1 && dense && j + kAnyTaps <= p.window.kernel_w; j += kAnyTaps) {
        const auto exists = [&](auto column) MBV1_LAMBDA { return j + column >= begin && j + column < end; };
        add_taps<kAnyTaps, 1>(row + j * pixel, pixel, taps + j * p.tap_step, p.tap_step, exists, sums);
      }
      for (; j < p.window.kernel_w; ++j) {
        const auto add = [&](const auto& exists) MBV1_LAMBDA {
          add_taps<1, 1>(row + j * pixel, p.pixel * stride, taps + j * p.tap_step, p.tap_step, exists, sums);
        };
        const int64_t first = dense ? j : j * dilation, next = dense ? 1 : stride;
        if (first >= begin && first + (kRun - 1) * next < end) {
          add([](auto) MBV1_LAMBDA { return true; });
        } else {
          add([&](auto r) MBV1_LAMBDA { return first + r * next >= begin && first + r * next < end; });
        }
      }
    }
    slot += p.window.dilation_h;
    while (slot >= p.rows) slot -= p.rows;
  }
  constexpr bool kHasInstruction = kVectorBytes == 64 && std::is_same_v<D, BFloat16>;  // to round by
  if ((std::is_same_v<T, A> || (kHasInstruction && p.bf16_products)) && is_clamp(p.activation)) {
    const A low = low_of<A>(p.activation), high = high_of<A>(p.activation);
    repeat<kRun>([&](auto r) MBV1_LAMBDA {
      V sum = sums[r] < low ? broadcast(low) : sums[r];
      sum = sum > high ? broadcast(high) : sum;
      store_product<D>(y + offsets[r * step], sum, kLanes<A>);
    });
  } else {
    V copies[kRun];  // an array that is indexed at run time lies in memory, which the sums should not
    repeat<kRun>([&](auto r) MBV1_LAMBDA { copies[r] = sums[r]; });
#pragma GCC unroll 1
    for (int r = 0; r < kRun; ++r) {
      V sum = activate<A>(copies[r], p.activation);
      if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
      store(y + offsets[r * step], sum);
    }
  }
}

// The kernels for a window, which read a tensor where it lies, or a map.
template <class T, class D, bool kInPlace = false>
class DwRuns {
 public:
  explicit DwRuns(const Window& w) {
    int64_t stride = w.stride_w, common = w.dilation_w;
    for (int64_t rest = stride % common; rest > 0; rest = stride % common) stride = common, common = rest;
    phases_ = w.dilation_w / common, stride = w.stride_w / common;
    if constexpr (!std::is_same_v<T, double>) {
      if (w.kernel_w == 3) set<3>(stride, w.dilation_w);
      if (w.kernel_w == 5) set<5>(stride, w.dilation_w);
      if (w.kernel_w == 7) set<7>(stride, w.dilation_w);
    }
  }

  // Calls body(run, ow, step) for runs that cover [0, width). Outputs whose windows' columns are the same ones lie
  // `step` apart. The last run of a kind may overlap the one before it, and makes the same values again.
  template <class Body>
  void cover(int64_t width, const Body& body) const {
    const bool few = phases_ > 1 && width < phases_ * kShortRun;
    const int64_t step = few ? 1 : phases_;
    for (int64_t first = 0; first < smaller(step, width); ++first) {
      cover(few ? any_ : runs_, divide_up(width - first, step),
            [&](auto run, int64_t i) { body(run, first + i * step, step); });
    }
  }

 private:
  using Run = void (*)(const DwRow<T>&, const T* x, D*, const int64_t* offsets, int64_t step);
  struct Runs {
    Run of_many, of_few, of_one;
  };

  template <int kK, int kS, bool kMap>
  static constexpr Runs kRuns{depthwise_run<T, D, kK, kS, kMap, kLongRun>,
                              depthwise_run<T, D, kK, kS, kMap, kShortRun>, depthwise_run<T, D, kK, kS, kMap, 1>};

  template <int kK>
  void set(int64_t stride, int64_t dilation) {
    const bool map = !kInPlace && dilation == 1;
    if (stride == 1) runs_ = map ? kRuns<kK, 1, true> : kRuns<kK, 1, false>;
    if (stride == 2) runs_ = map ? kRuns<kK, 2, true> : kRuns<kK, 2, false>;
  }

  template <class Body>
  static void cover(const Runs& runs, int64_t width, const Body& body) {
    int64_t i = 0;
    for (; width - i >= kLongRun; i += kLongRun) body(runs.of_many, i);
    if (width - i > kShortRun && width >= kLongRun) return body(runs.of_many, width - kLongRun);
    for (; width - i >= kShortRun; i += kShortRun) body(runs.of_few, i);
    if (i < width && width >= kShortRun) return body(runs.of_few, width - kShortRun);
    for (; i < width; ++i) body(runs.of_one, i);
  }

  // Of a dilated window, output columns q, q + phases, q + 2 phases … are those of an undilated window over every
  // dilation_w-th input column.
  int64_t phases_;
  Runs any_ = kRuns<0, 0, false>, runs_ = any_;
};

// All columns of the output rows [begin, end), for the blocks [block_begin, block_end) of a map whose first block is
// `first_block`: row oh of a block to y[(block - block_begin) * block_step + offsets[(oh - begin) * out_w + ow]].
template <class T, class D>
void depthwise_band(const DwConv2dParams& p, const DwRuns<T, D>& runs, const DwWeights<T>& weights, const Map<T>& map,
                    int64_t first_block, int64_t block_begin, int64_t block_end, int64_t begin, int64_t end, D* y,
                    int64_t block_step, const int64_t* offsets) {
  constexpr int kL = kLanes<Acc<T>>;
  DwRow<T> row;
  row.row_size = map.row_size(), row.rows = map.rows;
  row.pixel = kL, row.columns_begin = 0, row.columns_end = map.columns;
  row.tap_step = weights.channel_stride;
  row.window = p.window, row.activation = p.activation;
  // Row by row within a block: the rows that two windows share are still in the first-level cache.
  for (int64_t block = block_begin; block < block_end; ++block, y += block_step) {
    const T* x = map.data + (block - first_block) * map.block_size();
    row.taps = weights.taps + block * kL, row.bias = weights.bias + block * kL;
    const int64_t* place = offsets;
    for (int64_t oh = begin; oh < end; ++oh, place += p.out_w) {
      const int64_t top = oh * p.window.stride_h - p.window.pad_top;
      const TapRange taps(top, p.in_h, p.window.kernel_h, p.window.dilation_h);
      row.begin = taps.begin, row.end = taps.end;
      row.first_slot = taps.begin < taps.end ? (top + taps.begin * p.window.dilation_h) % map.rows : 0;
      runs.cover(p.out_w, [&](auto run, int64_t ow, int64_t step) {
        run(row, x + ow * p.window.stride_w * kL, y, place + ow, step);
      });
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
  for (int64_t block = block_begin; block < block_end; ++block) {
    T* row = to + (block - block_begin) * map.block_size();
    for (int64_t i = 0; i < left * kL; ++i) row[i] = T{};
    for (int64_t i = right * kL; i < map.columns * kL; ++i) row[i] = T{};
    if (block < whole) continue;
    const T* pixel = from + (block - block_begin) * kL * p.x_stride.c;
    const int64_t count = smaller<int64_t>(kL, p.channels - block * kL);
    for (int64_t i = left; i < right; ++i, pixel += p.x_stride.w) {
      for (int64_t k = 0; k < count; ++k) row[i * kL + k] = pixel[k * p.x_stride.c];
      for (int64_t k = count; k < kL; ++k) row[i * kL + k] = T{};
    }
  }
}

// Where an output row goes: pixel ow to y[offsets[ow]].
template <class D>
struct DwPlace {
  D* y;
  const int64_t* offsets;
};

// Output rows [begin, end) of image n, blocks [block_begin, block_end), from x in any memory layout: each input row
// is copied once, into a map that holds the rows of one window. `place(oh)` gives the DwPlace of the first block.
template <class T, class D, class Place>
void depthwise_rows(const DwConv2dParams& p, const DwRuns<T, D>& runs, const DwWeights<T>& weights, int64_t n,
                    int64_t begin, int64_t end, int64_t block_begin, int64_t block_end, int64_t block_step,
                    const Place& place) {
  Map<T> map{nullptr, rows_spanned(p.window, 1), columns_spanned(p)};
  map.data = workspace<T>(Slot::kInput, (block_end - block_begin) * map.block_size());
  int64_t staged = larger<int64_t>(0, begin * p.window.stride_h - p.window.pad_top);
  for (int64_t oh = begin; oh < end; ++oh) {
    const int64_t top = oh * p.window.stride_h - p.window.pad_top;
    staged = larger(staged, top);
    for (const int64_t last = smaller(p.in_h, top + map.rows); staged < last; ++staged) {
      stage_row(p, n, staged, block_begin, block_end, map);
    }
    const DwPlace<D> to = place(oh);
    depthwise_band(p, runs, weights, map, block_begin, block_begin, block_end, oh, oh + 1, to.y, block_step,
                   to.offsets);
  }
}

}  // namespace
}  // namespace mbv1::cpu
