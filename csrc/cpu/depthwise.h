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
  const T* x;                          // the block's first column
  int64_t row_size, rows;              // of the map
  int64_t first_slot, begin, end;      // kernel rows [begin, end), the first at row `first_slot` of the map
  int64_t pixel;                       // in place: from one column to the next,
  int64_t columns_begin, columns_end;  // and the columns of the run that exist
  const Acc<T>* taps;                  // of the block
  const Acc<T>* bias;
  int64_t tap_step;
  Window window;
  Activation activation;
};

// Sums that are made side by side: with the weights of a kernel row they fill 32 or 16 registers.
constexpr int kLongRun = kVectorBytes == 64 ? 14 : 7;
constexpr int kShortRun = kVectorBytes == 64 ? 7 : 3;

// Outputs ow to ow + kRun, to y[offsets[0 … kRun)]. D is T, or what the product takes as its left factor, which gets
// the values that a tensor would hold. kK and kS are kernel size and stride of undilated windows, or 0 for any: then
// every tap loads its inputs, else an input is loaded once for all taps of a kernel row. kInPlace reads an NHWC
// tensor where it lies, without its padding, which is narrower than the window; else x is a map.
template <class T, class D, int kK, int kS, bool kInPlace, int kRun>
__attribute__((noinline)) void depthwise_run(const DwRow<T>& p, int64_t ow, D* y, const int64_t* offsets) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>;
  V sums[kRun];
  repeat<kRun>([&](auto r) MBV1_LAMBDA { sums[r] = load(p.bias); });
  const int64_t pixel_size = kInPlace ? p.pixel : kL;
  const T* x = p.x + ow * p.window.stride_w * pixel_size;
  int64_t slot = p.first_slot;
  for (int64_t i = p.begin; i < p.end; ++i) {
    const T* row = x + slot * p.row_size;
    const A* taps = p.taps + i * p.window.kernel_w * p.tap_step;
    if constexpr (kK > 0) {
      V weights[kK];
      repeat<kK>([&](auto j) MBV1_LAMBDA { weights[j] = load(taps + j * p.tap_step); });
      constexpr int kColumns = (kRun - 1) * kS + kK;
      repeat<kColumns>([&](auto column) MBV1_LAMBDA {
        if constexpr (kInPlace && (column < kK - 1 || column > kColumns - kK)) {
          if (column < p.columns_begin || column >= p.columns_end) return;
        }
        const V pixel = in_register(load(row + column * pixel_size));
        repeat<kK>([&](auto j) MBV1_LAMBDA {
          constexpr int kFrom = column - j;
          if constexpr (kFrom >= 0 && kFrom % kS == 0 && kFrom / kS < kRun) sums[kFrom / kS] += weights[j] * pixel;
        });
      });
    } else {
      for (int64_t j = 0; j < p.window.kernel_w; ++j) {
        const V weight = load(taps + j * p.tap_step);
        const T* pixel = row + j * p.window.dilation_w * kL;
        repeat<kRun>([&](auto r) MBV1_LAMBDA { sums[r] += weight * load(pixel + r * p.window.stride_w * kL); });
      }
    }
    slot += p.window.dilation_h;
    while (slot >= p.rows) slot -= p.rows;
  }
  if (std::is_same_v<T, A> && is_clamp(p.activation)) {
    const A low = low_of<A>(p.activation), high = high_of<A>(p.activation);
    repeat<kRun>([&](auto r) MBV1_LAMBDA {
      V sum = sums[r] < low ? broadcast(low) : sums[r];
      sum = sum > high ? broadcast(high) : sum;
      store(y + offsets[r], sum);
    });
  } else {
    V copies[kRun];  // an array that is indexed at run time lies in memory, which the sums should not
    repeat<kRun>([&](auto r) MBV1_LAMBDA { copies[r] = sums[r]; });
#pragma GCC unroll 1
    for (int r = 0; r < kRun; ++r) {
      V sum = activate<A>(copies[r], p.activation);
      if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
      store(y + offsets[r], sum);
    }
  }
}

// The kernels for a window, by the length of their runs.
template <class T, class D, bool kInPlace = false>
struct DwRuns {
  using Run = void (*)(const DwRow<T>&, int64_t ow, D*, const int64_t* offsets);
  Run long_run = nullptr, short_run = nullptr, one = nullptr;

  explicit DwRuns(const Window& w) {
    if constexpr (!kInPlace) set<0, 0>();
    if constexpr (!std::is_same_v<T, double>) {
      if (w.kernel_h != w.kernel_w || w.dilation_w != 1 || w.stride_w > 2) return;
      if (w.kernel_w == 3) w.stride_w == 1 ? set<3, 1>() : set<3, 2>();
      if (w.kernel_w == 5) w.stride_w == 1 ? set<5, 1>() : set<5, 2>();
      if (w.kernel_w == 7) w.stride_w == 1 ? set<7, 1>() : set<7, 2>();
    }
  }

  // Calls body(run, ow) for runs that cover [0, width). The last one of a kind may overlap the one before it, and
  // makes the same values again.
  template <class Body>
  void cover(int64_t width, const Body& body) const {
    int64_t ow = 0;
    for (; width - ow >= kLongRun; ow += kLongRun) body(long_run, ow);
    if (width - ow > kShortRun && width >= kLongRun) return body(long_run, width - kLongRun);
    for (; width - ow >= kShortRun; ow += kShortRun) body(short_run, ow);
    if (ow < width && width >= kShortRun) return body(short_run, width - kShortRun);
    for (; ow < width; ++ow) body(one, ow);
  }

 private:
  template <int kK, int kS>
  void set() {
    long_run = depthwise_run<T, D, kK, kS, kInPlace, kLongRun>;
    short_run = depthwise_run<T, D, kK, kS, kInPlace, kShortRun>;
    one = depthwise_run<T, D, kK, kS, kInPlace, 1>;
  }
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
  row.tap_step = weights.channel_stride;
  row.window = p.window, row.activation = p.activation;
  // Row by row within a block: the rows that two windows share are still in the first-level cache.
  for (int64_t block = block_begin; block < block_end; ++block, y += block_step) {
    row.x = map.data + (block - first_block) * map.block_size();
    row.taps = weights.taps + block * kL, row.bias = weights.bias + block * kL;
    const int64_t* place = offsets;
    for (int64_t oh = begin; oh < end; ++oh, place += p.out_w) {
      const int64_t top = oh * p.window.stride_h - p.window.pad_top;
      const TapRange taps(top, p.in_h, p.window.kernel_h, p.window.dilation_h);
      row.begin = taps.begin, row.end = taps.end;
      row.first_slot = taps.begin < taps.end ? (top + taps.begin * p.window.dilation_h) % map.rows : 0;
      runs.cover(p.out_w, [&](auto run, int64_t ow) { run(row, ow, y, place + ow); });
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
