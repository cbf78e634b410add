// Depthwise convolution. NHWC is vectorised over channels (depthwise.h), NCHW over the width.
#pragma once

#include "dwconv2d_planes.h"

namespace mbv1::cpu {
namespace {

// ---- NHWC ----

// Blocks of channels that an item takes at once, where it copies their rows: as many as fit half a first-level cache,
// or, where a second-level cache does not hold the tensors, half of one, so that whole rows are read as they lie; and
// at least so many that what it takes of a pixel is whole cache lines.
constexpr int64_t kRowsBytes = 16 * 1024;
constexpr int64_t kFarRowsBytes = 256 * 1024;
constexpr int64_t kLeastBlocks = 4;

// Whether the input is read where it lies: its channels are neighbours, and the padding, which is nowhere, is
// narrower than a window.
template <class T>
bool in_place(const DwConv2dParams& p) {
  const Window& w = p.window;
  const int64_t pad_right = columns_spanned(p) - w.pad_left - p.in_w, pad = larger<int64_t>(w.pad_left, pad_right);
  return p.x_stride.c == 1 && p.channels >= kLanes<Acc<T>> && divide_up(pad, w.dilation_w) < w.kernel_w;
}

// Of a block of channels, the rows of a window, copied.
template <class T>
int64_t copied_bytes(const DwConv2dParams& p) {
  return rows_spanned(p.window, 1) * columns_spanned(p) * kLanes<Acc<T>> * static_cast<int64_t>(sizeof(T));
}

// Whether copying the rows of the input pays, where two output rows are not made at once but windows are of several
// rows: wide ones read every pixel many times, and pixels multiples of 4 KB apart share the sets of a first-level
// cache. A second-level cache has to hold the copies, and those of a dilated window are of too many rows.
template <class T>
bool gains_from_copies(const DwConv2dParams& p, const DwRuns<T, T, true>& runs) {
  const Window& w = p.window;
  return runs.rows_at_once(p.out_h, p.out_w) == 1 && w.kernel_h > 1 &&
         (w.kernel_w > 3 || p.x_stride.w * static_cast<int64_t>(sizeof(T)) % 4096 == 0) && w.dilation_h == 1 &&
         w.dilation_w == 1 && kLeastBlocks * copied_bytes<T>(p) <= 2 * kFarRowsBytes;
}

// Output rows [begin, end) of image n, channels [c_begin, c_end), a vector at least: channel c of a pixel to
// c * channel_step behind its first, which `place(oh)` gives as in depthwise_rows. The last block of channels may
// overlap the one before it.
template <class T, class D, class Place>
void depthwise_in_place(const DwConv2dParams& p, const DwRuns<T, D, true>& runs, const DwWeights<T>& weights,
                        int64_t n, int64_t begin, int64_t end, int64_t c_begin, int64_t c_end, int64_t channel_step,
                        const Place& place) {
  constexpr int kL = kLanes<Acc<T>>;
  const Window& w = p.window;
  const T* const image = static_cast<const T*>(p.x) + n * p.x_stride.n;
  const T* const x = image - w.pad_left * p.x_stride.w;
  const bool fetches = is_far<T>(p, kFarInPlaceBytes) && c_end - c_begin == p.channels && p.x_stride.w == p.channels;
  DwRow<T> row;
  row.row_size = p.x_stride.h, row.rows = p.in_h, row.pixel = p.x_stride.w;
  row.tap_step = weights.channel_stride;
  row.window = w, row.activation = p.activation;
  row.in_block = kL, row.out_block = kL * channel_step;
  const int64_t c_whole = c_begin + (c_end - c_begin) / kL * kL;
  for (int64_t oh = begin, rows = 1; oh < end; oh += rows) {
    rows = runs.rows_at_once(end - oh, p.out_w);
    const int64_t top = oh * w.stride_h - w.pad_top;
    const TapRange taps(top, p.in_h, window_rows(w, rows), w.dilation_h);
    row.begin = taps.begin, row.end = taps.end, row.first_slot = top + taps.begin * w.dilation_h;
    const DwPlace<D> to = place_of<D>(row, place, oh, rows);
    runs.cover(p.out_w, rows, [&](auto run, int64_t ow, int64_t step, int64_t count) {
      if (fetches && step == 1) row.fetch = fetch_of(p, row, image, top, ow, rows, to);
      row.columns_begin = w.pad_left - ow * w.stride_w, row.columns_end = row.columns_begin + p.in_w;
      const auto make = [&](int64_t c, int64_t blocks) {
        row.taps = weights.taps + c, row.bias = weights.bias + c, row.blocks = blocks;
        run(row, x + ow * w.stride_w * p.x_stride.w + c, to.y + c * channel_step, to.offsets + ow, step, count);
      };
      make(c_begin, (c_whole - c_begin) / kL);
      row.fetch.rows = 0;
      if (c_whole < c_end) make(c_end - kL, 1);
    });
  }
}

// Output rows that a thread gets, at least, before it shares them with another one.
constexpr int64_t kLeastRows = 3;

template <class T>
void dwconv2d_in_place(const DwConv2dParams& p, const DwRuns<T, T, true>& runs, const Threads& threads) {
  constexpr int kL = kLanes<Acc<T>>;
  // Rows of all images, and groups of channels where threads would get too few of those: the lines that neighbouring
  // groups write lie side by side, and what one thread fetches ahead is then taken from another one's cache.
  const int64_t rows = p.batch * p.out_h, whole = p.channels / kL;
  const int64_t groups = smaller(whole, divide_up(kLeastRows * threads.count, rows));
  parallel(threads, groups * rows, [&](int64_t begin, int64_t end) {
    const DwWeights<T> weights = pack_depthwise<T>(p);
    int64_t* offsets = workspace<int64_t>(Slot::kOffsets, p.out_w);
    for (int64_t ow = 0; ow < p.out_w; ++ow) offsets[ow] = ow * p.y_stride.w;
    for (int64_t item = begin, count; item < end; item += count) {
      const int64_t group = item / rows, n = item % rows / p.out_h, row = item % p.out_h;
      count = smaller(end - item, p.out_h - row);
      const int64_t c_begin = group * whole / groups * kL;
      const int64_t c_end = group + 1 < groups ? (group + 1) * whole / groups * kL : p.channels;
      T* image = static_cast<T*>(p.y) + n * p.y_stride.n;
      depthwise_in_place(p, runs, weights, n, row, row + count, c_begin, c_end, 1, [&](int64_t oh) {
        return DwPlace<T>{image + oh * p.y_stride.h, offsets, image + (oh + 1) * p.y_stride.h};
      });
    }
  });
}

// Copies the rows of groups of channels.
template <class T>
void dwconv2d_copied(const DwConv2dParams& p, const DwRuns<T, T, true>& runs, const Threads& threads) {
  constexpr int kL = kLanes<Acc<T>>;
  const bool is_in_place = in_place<T>(p);
  const int64_t blocks = p.channels / kL, tail_channels = p.channels % kL;
  const int64_t rows_bytes = is_far<T>(p, kFarBytes) ? kFarRowsBytes : kRowsBytes;
  const int64_t group = larger<int64_t>(1, smaller(blocks, larger(kLeastBlocks, rows_bytes / copied_bytes<T>(p))));
  const int64_t groups = larger<int64_t>(1, divide_up(blocks, group));
  // Bands of rows where images and channels do not make enough items.
  const Bands bands(p.out_h, divide_up(items_wanted(threads), p.batch * groups), 4, 2);
  parallel(threads, p.batch * groups * bands.count, [&](int64_t begin, int64_t end) {
    const DwWeights<T> weights = pack_depthwise<T>(p);
    int64_t* offsets = workspace<int64_t>(Slot::kOffsets, 2 * p.out_w);
    int64_t* tail_offsets = offsets + p.out_w;
    for (int64_t ow = 0; ow < p.out_w; ++ow) offsets[ow] = ow * p.y_stride.w, tail_offsets[ow] = ow * kL;
    T* tail = workspace<T>(Slot::kTile, p.out_w * kL);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (groups * bands.count), first = item % groups * group;
      const int64_t row = item / groups % bands.count * bands.rows, rows_end = smaller(row + bands.rows, p.out_h);
      const int64_t last = smaller(first + group, blocks);
      T* image = static_cast<T*>(p.y) + n * p.y_stride.n;
      const auto place = [&](int64_t oh) {
        T* y = image + oh * p.y_stride.h;
        return DwPlace<T>{y, offsets, y + p.y_stride.h};
      };
      if (first < last) {
        depthwise_rows(p, runs, weights, n, row, rows_end, first, last, kL, [&](int64_t oh) {
          const DwPlace<T> to = place(oh);
          return DwPlace<T>{to.y + first * kL, to.offsets, to.next + first * kL};
        });
      }
      if (last < blocks || tail_channels == 0) continue;
      if (is_in_place) {  // a vector that overlaps the last one
        depthwise_in_place(p, runs, weights, n, row, rows_end, p.channels - kL, p.channels, 1, place);
        continue;
      }
      for (int64_t oh = row; oh < rows_end; ++oh) {
        depthwise_rows(p, runs, weights, n, oh, oh + 1, blocks, blocks + 1, 0,
                       [&](int64_t) { return DwPlace<T>{tail, tail_offsets}; });
        T* y = image + oh * p.y_stride.h + blocks * kL;
        for (int64_t ow = 0; ow < p.out_w; ++ow) {
          for (int64_t c = 0; c < tail_channels; ++c) y[ow * p.y_stride.w + c] = tail[ow * kL + c];
        }
      }
    }
  });
}

template <class T>
void dwconv2d_nhwc(const DwConv2dParams& p, const Threads& threads) {
  const DwRuns<T, T, true> runs(p.window);
  if (in_place<T>(p) && !gains_from_copies<T>(p, runs)) return dwconv2d_in_place(p, runs, threads);
  dwconv2d_copied(p, runs, threads);
}

// ---- NCHW ----

// Pixels of a block of channels that are made at once, at least, where there are as many: their transposition takes
// whole vectors, and they stay in the first-level cache.
constexpr int64_t kPlanePixels = 112;

// Copies input rows [begin, end) of image n, channels of one block, into a map of that block whose padding is zero.
// Meanwhile it fetches what lies `ahead` of them, unless that is 0.
template <class T>
void stage_planes(const DwConv2dParams& p, int64_t n, int64_t block, int64_t begin, int64_t end, const Map<T>& map,
                  int64_t ahead) {
  constexpr int kL = kLanes<Acc<T>>;
  const int64_t left = smaller<int64_t>(p.window.pad_left, map.columns);
  const int64_t width = smaller(p.in_w, map.columns - left);  // what the windows reach
  if (p.x_stride.w != 1) {
    for (int64_t r = begin; r < end; ++r) stage_row(p, n, r, block, block + 1, map);
    return;
  }
  const int64_t channels = smaller<int64_t>(kL, p.channels - block * kL);
  const T* from = static_cast<const T*>(p.x) + n * p.x_stride.n + block * kL * p.x_stride.c;
  // Dense rows are one long row.
  const int64_t rows_at_once = p.x_stride.h == width ? end - begin : 1;
  for (int64_t r = begin; r < end; r += rows_at_once) {
    const RowsOf<T> planes{from + r * p.x_stride.h, p.x_stride.c, channels, (p.in_h - 1 - r) * p.x_stride.h + p.in_w};
    const int64_t count = rows_at_once * width;
    for (int64_t i = 0; i < count; i += kL) {
      if (ahead != 0) fetch_pixels<0>(planes.from + ahead, i, channels, planes.step);
      // The last vectors of a plane overlap those before them.
      if (i + kL > planes.readable && count >= kL) i = planes.readable - kL;
      int64_t row = r + i / width, column = i % width;
      T* to = map.at(0, row) + left * kL;
      transpose_columns(planes, i, count - i, [&](int64_t, auto v) MBV1_LAMBDA {
        __builtin_memcpy(to + column * kL, &v, sizeof v);
        if (++column == width) to = map.at(0, ++row) + left * kL, column = 0;
      });
    }
  }
}

// Output rows that are made at once.
inline int64_t plane_rows(const DwConv2dParams& p, int64_t rows) {
  return smaller(rows, divide_up(kPlanePixels, p.out_w));
}

// Whether the planes that follow are fetched: the processor's own prefetchers do as well with those that are made in
// several steps, as long as a third-level cache holds them.
template <class T>
bool fetches_planes(const DwConv2dParams& p, int64_t rows) {
  return is_far<T>(p, plane_rows(p, rows) < rows ? kFarOrderedBytes : kFarBytes);
}

// Output rows [begin, end) of image n, channels of one block, from x in any memory layout, to where `place(oh)` says
// for row oh and, relative to it, the rows behind it that are made at once: [first, last), of which `made(first,
// last)` hears.
template <class T, class D, class Place, class Made>
void depthwise_planes(const DwConv2dParams& p, const DwRuns<T, D>& runs, const DwWeights<T>& weights, int64_t n,
                      int64_t block, int64_t begin, int64_t end, const Place& place, const Made& made) {
  constexpr int kL = kLanes<Acc<T>>;
  const int64_t step = plane_rows(p, end - begin);
  Map<T> map{nullptr, rows_spanned(p.window, step), columns_spanned(p)};
  map.data = workspace<T>(Slot::kInput, map.block_size());
  clear_padding(map, 0, 1, 0, map.rows, p.window.pad_left, p.in_w);
  const int64_t first_row = larger<int64_t>(0, begin * p.window.stride_h - p.window.pad_top);
  const bool fetches = fetches_planes<T>(p, end - begin);
  int64_t staged = first_row;
  for (int64_t oh = begin; oh < end; oh += step) {
    const int64_t last = smaller(oh + step, end), top = oh * p.window.stride_h - p.window.pad_top;
    staged = larger(staged, top);
    const int64_t needed = smaller(p.in_h, top + rows_spanned(p.window, last - oh));
    // Next come the rows below, or those of the next block.
    const int64_t ahead =
        last < end ? (needed - staged) * p.x_stride.h : kL * p.x_stride.c - (staged - first_row) * p.x_stride.h;
    if (staged < needed) stage_planes(p, n, block, staged, needed, map, fetches ? ahead : 0);
    staged = larger(staged, needed);
    const DwPlace<D> to = place(oh);
    depthwise_band(p, runs, weights, map, block, block, block + 1, oh, last, to.y, 0, to.offsets);
    made(oh, last);
  }
}

// `count` pixels of `channels` channels, at most a vector of them, from from[pixel][kLanes] to planes `step` apart.
// Meanwhile it fetches what lies `ahead` of those, unless that is 0.
template <class T>
void store_pixels(const T* from, int64_t count, int64_t channels, T* to, int64_t step, int64_t ahead) {
  constexpr int kL = kLanes<Acc<T>>;
  for (int64_t i = 0; i < count; i += kL) {
    if (ahead != 0) fetch_pixels<1>(to + ahead, i, channels, step);
    if (i + kL > count && count >= kL) i = count - kL;  // overlaps the vectors before it
    const RowsOf<T> rows{from + i * kL, kL, smaller<int64_t>(kL, count - i), kL};
    transpose_columns(rows, 0, channels, [&](int64_t c, auto v) MBV1_LAMBDA {
      if (rows.rows == kL) {
        __builtin_memcpy(to + c * step + i, &v, sizeof v);
      } else {
        T values[kL];
        __builtin_memcpy(values, &v, sizeof v);
        copy_less<kL / 2>(values, rows.rows, to + c * step + i);
      }
    });
  }
}

template <class T>
void dwconv2d_nchw(const DwConv2dParams& p, const Threads& threads) {
  if constexpr (!std::is_same_v<T, double>) {
    if (by_planes<T>(p)) return dwconv2d_by_planes<T>(p, threads);
  }
  const DwRuns<T, T> runs(p.window);
  const int64_t blocks = blocks_of<Acc<T>>(p.channels);
  // Bands of rows where images and channels do not make enough items.
  const Bands bands(p.out_h, divide_up(items_wanted(threads), p.batch * blocks), 8, 2);
  const bool fetches = fetches_planes<T>(p, bands.rows);
  parallel(threads, p.batch * blocks * bands.count, [&](int64_t begin, int64_t end) {
    constexpr int kL = kLanes<Acc<T>>;
    const DwWeights<T> weights = pack_depthwise<T>(p);
    const int64_t pixels = plane_rows(p, bands.rows) * p.out_w;
    T* pixel_major = workspace<T>(Slot::kMaps, pixels * kL);
    int64_t* offsets = workspace<int64_t>(Slot::kOffsets, pixels);
    for (int64_t i = 0; i < pixels; ++i) offsets[i] = i * kL;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t block = item / bands.count % blocks, n = item / bands.count / blocks;
      const int64_t first = item % bands.count * bands.rows, rows_end = smaller(first + bands.rows, p.out_h);
      T* y = static_cast<T*>(p.y) + n * p.y_stride.n + block * kL * p.y_stride.c;
      depthwise_planes(
          p, runs, weights, n, block, first, rows_end, [&](int64_t) { return DwPlace<T>{pixel_major, offsets}; },
          [&](int64_t oh, int64_t last) {
            const int64_t count = (last - oh) * p.out_w;
            const int64_t ahead = last < rows_end ? count : kL * p.y_stride.c - (oh - first) * p.y_stride.h;
            store_pixels(pixel_major, count, smaller<int64_t>(kL, p.channels - block * kL), y + oh * p.y_stride.h,
                         p.y_stride.c, fetches ? ahead : 0);
          });
    }
  });
}

// An image that is one pixel wide, and stays it, as one that is one pixel high: the kernels make runs of columns.
inline DwConv2dParams lying(const DwConv2dParams& p) {
  if (p.in_w > 1 || p.out_w > 1) return p;
  DwConv2dParams q = p;
  q.in_h = p.in_w, q.in_w = p.in_h, q.out_h = p.out_w, q.out_w = p.out_h;
  q.x_stride.h = p.x_stride.w, q.x_stride.w = p.x_stride.h, q.y_stride.h = p.y_stride.w, q.y_stride.w = p.y_stride.h;
  q.weight_stride_h = p.weight_stride_w, q.weight_stride_w = p.weight_stride_h;
  const Window& w = p.window;
  q.window = {w.kernel_w, w.kernel_h, w.stride_w, w.stride_h, w.pad_left, w.pad_top, w.dilation_w, w.dilation_h};
  return q;
}

constexpr Kernel<DwConv2dParams> kDwConv2d[] = {
    {"dwconv2d_nhwc", [](const DwConv2dParams& p) { return p.y_stride.c == 1; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nhwc<decltype(type)>(lying(p), threads); });
     }},
    {"dwconv2d_nchw", [](const DwConv2dParams&) { return true; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nchw<decltype(type)>(lying(p), threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
