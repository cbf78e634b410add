// Depthwise outputs for dwconv2d, separable_conv2d and chain: the runs (depthwise_run.h) that cover a row, from a
// feature map (feature_map.h) or a tensor where it lies.
#pragma once

#include "depthwise_slide.h"
#include "feature_map.h"
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

// Bands of output rows, as many as are wanted, but of `least` rows and of a multiple of `at_once`.
struct Bands {
  int64_t rows, count;
  Bands(int64_t height, int64_t wanted, int64_t least, int64_t at_once)
      : rows(round_up(divide_up(height, smaller(divide_up(height, least), wanted)), at_once)),
        count(divide_up(height, rows)) {}
};

// Weights and bias in the type of the sums: taps[tap][channel_stride], channels padded with zeros.
template <class T>
struct DwWeights {
  const Acc<T>* taps;
  const Acc<T>* bias;
  int64_t channel_stride;
};

template <class T>
int64_t channel_stride_of(int64_t channels) {
  return line_step<Acc<T>>(channels);
}

template <class T>
void fill_taps(const DwConv2dParams& p, Acc<T>* taps) {
  constexpr int kL = kLanes<Acc<T>>;
  const int64_t channel_stride = channel_stride_of<T>(p.channels);
  const int64_t kernel_w = p.window.kernel_w, count = p.window.kernel_h * kernel_w;
  for (int64_t tap = 0; tap < count; ++tap) {
    for (int64_t c = p.channels; c < channel_stride; ++c) taps[tap * channel_stride + c] = Acc<T>(0);
  }
  if (p.weight_stride_w == 1 && p.weight_stride_h == kernel_w) {  // a matrix [channel][tap]
    const T* weight = static_cast<const T*>(p.weight);
    for (int64_t c = 0; c < p.channels; c += kL) {
      const int64_t rows = smaller<int64_t>(kL, p.channels - c), behind = (p.channels - c - rows) * p.weight_stride_c;
      transpose_rows<T>({weight + c * p.weight_stride_c, p.weight_stride_c, rows, behind + count}, count, taps + c,
                        channel_stride);
    }
    return;
  }
  for (int64_t tap = 0; tap < count; ++tap) {
    const int64_t offset = tap / kernel_w * p.weight_stride_h + tap % kernel_w * p.weight_stride_w;
    gather(static_cast<const T*>(p.weight) + offset, p.weight_stride_c, p.channels, taps + tap * channel_stride);
  }
}

// In the workspace of the calling thread: to each its own, which costs less than reading another core's cache.
template <class T>
DwWeights<T> pack_depthwise(const DwConv2dParams& p) {
  const int64_t channel_stride = channel_stride_of<T>(p.channels);
  Acc<T>* taps = workspace<Acc<T>>(Slot::kDwWeights, p.window.kernel_h * p.window.kernel_w * channel_stride);
  fill_taps<T>(p, taps);
  return {taps, gather_bias<T>(Slot::kDwBias, p.bias, p.bias_stride, p.channels), channel_stride};
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
      if (w.kernel_h > kMostRows) return;
      if (w.kernel_w == 3) set<3>(w, stride);
      if (w.kernel_w == 5) set<5>(w, stride);
      if (w.kernel_w == 7) set<7>(w, stride);
    }
  }

  // Output rows of `width` columns that are made at once, 1 or 2, where there are `left`.
  int64_t rows_at_once(int64_t left, int64_t width) const {
    return left > 1 && pairs_.of_many != nullptr && width >= pairs_.few ? 2 : 1;
  }

  // Calls body(run, ow, step, count) for runs in `rows` output rows, `count` of a kind one behind the other, that
  // cover [0, width). Outputs whose windows' columns are the same ones lie `step` apart. The last run of a kind may
  // overlap the one before it, and makes the same values again.
  template <class Body>
  void cover(int64_t width, int64_t rows, const Body& body) const {
    if (rows == 2) return cover_pairs(width, body);
    const bool few = phases_ > 1 && width < phases_ * runs_.few;
    const int64_t step = few ? 1 : phases_;
    for (int64_t first = 0; first < smaller(step, width); ++first) {
      cover_row(few ? any_ : runs_, divide_up(width - first, step),
                [&](auto run, int64_t i, int64_t count) { body(run, first + i * step, step, count); });
    }
  }

 private:
  using Run = void (*)(const DwRow<T>&, const T* x, D*, const int64_t* offsets, int64_t step, int64_t count);
  struct Runs {
    Run of_many, of_few, of_one;
    int64_t many, few;
  };

  // With windows that are made two rows at once a single row is left over at most.
  template <int kK, int kS, bool kMap, int kMany = (kK > 0 && kTwoRows) ? kShortRun : kLongRun>
  static constexpr Runs kRuns{depthwise_run<T, D, kK, kS, kMap, 1, kMany>,
                              depthwise_run<T, D, kK, kS, kMap, 1, kShortRun>,
                              depthwise_run<T, D, kK, kS, kMap, 1, 1>, kMany, kShortRun};
  template <int kK, int kS, bool kMap, int kFew = kK == 3 ? kNarrowRun : kShortRun>
  static constexpr Runs kPairs{depthwise_run<T, D, kK, kS, kMap, 2, kShortRun>,
                               depthwise_run<T, D, kK, kS, kMap, 2, kFew>, nullptr, kShortRun, kFew};

  template <int kK>
  void set(const Window& w, int64_t stride) {
    if (stride == 1) set<kK, 1>(w);
    if (stride == 2) set<kK, 2>(w);
  }
  template <int kK, int kS>
  void set(const Window& w) {
    const bool map = !kInPlace && w.dilation_w == 1, dilated = w.dilation_h > 1 || w.dilation_w > 1;
    runs_ = map ? kRuns<kK, kS, true> : kRuns<kK, kS, false>;
    // 16-bit types, which are widened, are faster in runs where registers hold long ones.
    if constexpr (kK == 3 && !kInPlace && (!kTwoRows || std::is_same_v<T, Acc<T>>)) {
      constexpr Run kWholeRow = depthwise_slide<T, D, kS>;
      if (w.kernel_h == 3 && (!kTwoRows || dilated)) runs_ = {kWholeRow, kWholeRow, kWholeRow, 1, 1};
    }
    if constexpr (kTwoRows) {
      const bool overlap = w.stride_h == kS && w.kernel_h >= kS;
      if (overlap && !dilated) pairs_ = map ? kPairs<kK, kS, true> : kPairs<kK, kS, false>;
    }
  }

  template <class Body>
  static void cover_row(const Runs& runs, int64_t width, const Body& body) {
    int64_t i = 0;
    const auto cover_whole = [&](auto run, int64_t length) {
      const int64_t count = (width - i) / length;
      if (count > 0) body(run, i, count);
      i += count * length;
    };
    cover_whole(runs.of_many, runs.many);
    if (width - i > runs.few && width >= runs.many) return body(runs.of_many, width - runs.many, 1);
    cover_whole(runs.of_few, runs.few);
    if (i < width && width >= runs.few) return body(runs.of_few, width - runs.few, 1);
    cover_whole(runs.of_one, 1);
  }

  // Runs of the one or of the other length, whichever makes fewer values twice.
  template <class Body>
  void cover_pairs(int64_t width, const Body& body) const {
    const int64_t many = divide_up(width, pairs_.many) * pairs_.many, few = divide_up(width, pairs_.few) * pairs_.few;
    const bool narrow = width < pairs_.many || few < many;
    const Run run = narrow ? pairs_.of_few : pairs_.of_many;
    const int64_t length = narrow ? pairs_.few : pairs_.many;
    body(run, 0, 1, width / length);
    if (width % length > 0) body(run, width - length, 1, 1);
  }

  // Of a dilated window, output columns q, q + phases, q + 2 phases … are those of an undilated window over every
  // dilation_w-th input column.
  int64_t phases_;
  Runs any_ = kRuns<0, 0, false>, runs_ = any_, pairs_{};
};

// A row whose input lies in a map, and the weights of one block.
template <class T>
DwRow<T> row_of_map(const DwConv2dParams& p, const Map<T>& map, const DwWeights<T>& weights, int64_t block) {
  constexpr int kL = kLanes<Acc<T>>;
  DwRow<T> row;
  row.row_size = map.row_size(), row.rows = map.rows;
  row.pixel = kL, row.columns_begin = 0, row.columns_end = map.columns;
  row.taps = weights.taps + block * kL, row.bias = weights.bias + block * kL, row.tap_step = weights.channel_stride;
  row.window = p.window, row.activation = p.activation;
  return row;
}

// Rows of the windows of `rows` output rows: of more than one only where windows are undilated.
inline int64_t window_rows(const Window& window, int64_t rows) {
  return window.kernel_h + (rows - 1) * window.stride_h;
}

// The rows that the windows of `rows` output rows at row `top` of the input have, where it lies in a map.
template <class T>
void set_taps(DwRow<T>& row, const DwConv2dParams& p, int64_t top, int64_t rows) {
  const TapRange taps(top, p.in_h, window_rows(p.window, rows), p.window.dilation_h);
  row.begin = taps.begin, row.end = taps.end;
  row.first_slot = taps.begin < taps.end ? (top + taps.begin * p.window.dilation_h) % row.rows : 0;
}

// All columns of the output rows [begin, end), for the blocks [block_begin, block_end) of a map whose first block is
// `first_block`: row oh of a block to y[(block - block_begin) * block_step + offsets[(oh - begin) * out_w + ow]].
template <class T, class D>
void depthwise_band(const DwConv2dParams& p, const DwRuns<T, D>& runs, const DwWeights<T>& weights, const Map<T>& map,
                    int64_t first_block, int64_t block_begin, int64_t block_end, int64_t begin, int64_t end, D* y,
                    int64_t block_step, const int64_t* offsets) {
  constexpr int kL = kLanes<Acc<T>>;
  DwRow<T> row = row_of_map(p, map, weights, block_begin);
  row.place_step = p.out_w;
  // Row by row within a block: the rows that two windows share are still in the first-level cache.
  for (int64_t block = block_begin; block < block_end; ++block, y += block_step) {
    const T* x = map.data + (block - first_block) * map.block_size();
    row.taps = weights.taps + block * kL, row.bias = weights.bias + block * kL;
    const int64_t* place = offsets;
    for (int64_t oh = begin, made = 0; oh < end; oh += made, place += made * p.out_w) {
      const int64_t rows = runs.rows_at_once(end - oh, p.out_w), in_step = rows * p.window.stride_h;
      const int64_t span = rows_spanned(p.window, rows);
      const int64_t top = oh * p.window.stride_h - p.window.pad_top, bottom = top + span;
      set_taps(row, p, top, rows);
      row.count = 1, row.in_step = in_step * row.row_size, row.out_step = rows * p.out_w;
      if (map.far && block + 1 < block_end) {  // the rows of the next block that no output row before this one read
        map.fetch(block + 1 - first_block, larger<int64_t>(0, oh == begin ? top : bottom - in_step),
                  smaller(bottom, p.in_h));
      } else if (top >= 0 && bottom <= p.in_h && row.first_slot + span <= map.rows) {
        const int64_t below = smaller(p.in_h - bottom, map.rows - row.first_slot - span);
        row.count = smaller((end - oh) / rows, below / in_step + 1);
      }
      made = row.count * rows;
      runs.cover(p.out_w, rows, [&](auto run, int64_t ow, int64_t step, int64_t count) {
        run(row, x + ow * p.window.stride_w * kL, y, place + ow, step, count);
      });
    }
  }
}

// Input and output that a second-level cache does not hold. What holds them is slow: memory, or a third-level cache
// that has other tensors and other cores.
constexpr int64_t kFarBytes = 1024 * 1024;
// The least that is fetched where the input is copied in the order in which it lies: the processor's own prefetchers
// do as well, as long as a third-level cache holds it.
constexpr int64_t kFarOrderedBytes = 5 * 1024 * 1024;
// The least that is fetched where the input is read as it lies: with long vectors, that of which the second-level
// cache holds less than half (where other cores use the third-level cache, fetching halves the time), else a core's
// share of the third-level cache.
constexpr int64_t kFarInPlaceBytes = (kVectorBytes == 64 ? 2560 : 10240) * 1024;

template <class T>
bool is_far(const DwConv2dParams& p, int64_t bytes) {
  const int64_t pixels = p.batch * (p.in_h * p.in_w + p.out_h * p.out_w);
  return pixels * p.channels * static_cast<int64_t>(sizeof(T)) >= bytes;
}

// Where an output row goes: pixel ow to y[offsets[ow]], and the next one, if it is worth fetching, to
// next[offsets[ow]].
template <class D>
struct DwPlace {
  D* y;
  const int64_t* offsets;
  D* next = nullptr;
};

// Where output row oh goes, or rows oh and oh + 1, as `place(oh)` gives it for each; sets the row's steps.
template <class D, class T, class Place>
DwPlace<D> place_of(DwRow<T>& row, const Place& place, int64_t oh, int64_t rows) {
  DwPlace<D> to = place(oh);
  if (rows == 2) {
    const DwPlace<D> second = place(oh + 1);
    row.y_step = second.y - to.y, row.place_step = second.offsets - to.offsets, to.next = second.next;
  }
  return to;
}

// What the runs of whole pixels from column `ow` on fetch, where pixels lie one behind the other: the rows of the
// image that the next `rows` output rows are the first to read, and those. The processor's own prefetchers see runs
// of pixels end and others begin. Behind the last rows lies the next image.
template <class T, class D>
DwFetch fetch_of(const DwConv2dParams& p, const DwRow<T>& row, const T* image, int64_t top, int64_t ow, int64_t rows,
                 const DwPlace<D>& to) {
  const Window& w = p.window;
  const T* const below = image + (top + rows_spanned(w, rows)) * p.x_stride.h + ow * w.stride_w * p.x_stride.w;
  constexpr int64_t kBytes = sizeof(T);
  return {rows * w.stride_h,
          p.x_stride.h * kBytes,
          row.y_step * kBytes,
          p.channels * kBytes,
          reinterpret_cast<const char*>(below),
          to.next != nullptr ? reinterpret_cast<const char*>(to.next + to.offsets[ow]) : nullptr};
}

// Output rows [begin, end) of image n, blocks [block_begin, block_end), from x in any memory layout: each input row
// is copied once, into a map that holds the rows that are read at once. `place(oh)` gives the DwPlace of the first
// block.
template <class T, class D, class Place>
void depthwise_rows(const DwConv2dParams& p, const DwRuns<T, D, true>& runs, const DwWeights<T>& weights, int64_t n,
                    int64_t begin, int64_t end, int64_t block_begin, int64_t block_end, int64_t block_step,
                    const Place& place) {
  constexpr int kL = kLanes<Acc<T>>;
  const int64_t blocks = block_end - block_begin;
  const T* const image = static_cast<const T*>(p.x) + n * p.x_stride.n;
  Map<T> map{nullptr, rows_spanned(p.window, runs.rows_at_once(end - begin, p.out_w)), columns_spanned(p)};
  map.data = workspace<T>(Slot::kInput, blocks * map.block_size());
  clear_padding(map, 0, blocks, 0, map.rows, p.window.pad_left, p.in_w);
  DwRow<T> row = row_of_map(p, map, weights, block_begin);
  row.blocks = blocks, row.in_block = map.block_size(), row.out_block = block_step;
  const bool fetches =
      is_far<T>(p, kFarOrderedBytes) && blocks * kL == p.channels && p.x_stride.c == 1 && p.x_stride.w == p.channels;
  int64_t staged = larger<int64_t>(0, begin * p.window.stride_h - p.window.pad_top);
  for (int64_t oh = begin, rows = 1; oh < end; oh += rows) {
    rows = runs.rows_at_once(end - oh, p.out_w);
    const int64_t top = oh * p.window.stride_h - p.window.pad_top;
    staged = larger(staged, top);
    for (const int64_t last = smaller(p.in_h, top + rows_spanned(p.window, rows)); staged < last; ++staged) {
      stage_row(p, n, staged, block_begin, block_end, map);
    }
    set_taps(row, p, top, rows);
    const DwPlace<D> to = place_of<D>(row, place, oh, rows);
    runs.cover(p.out_w, rows, [&](auto run, int64_t ow, int64_t step, int64_t count) {
      row.columns_begin = -ow * p.window.stride_w, row.columns_end = map.columns + row.columns_begin;
      if (fetches && step == 1) row.fetch = fetch_of(p, row, image, top, ow, rows, to);
      run(row, map.data + ow * p.window.stride_w * kL, to.y, to.offsets + ow, step, count);
    });
  }
}

}  // namespace
}  // namespace mbv1::cpu
