// Depthwise convolution of planes, whose columns are neighbours (NCHW), vectorised over the width: rows of the input
// are copied once, with their padding, and read from there at the distance of each tap.
#pragma once

#include "depthwise.h"

namespace mbv1::cpu {
namespace {

// The width and height of the windows, whose taps stay in registers, and output rows that are made at once, of a
// vector of columns each.
constexpr int kPlaneTaps = 3;
constexpr int kPlaneRows = 4;
// Rows of the input that those read.
template <int kS>
constexpr int kPlaneInputRows = (kPlaneRows - 1) * kS + kPlaneTaps;

// Fetches `channels` planes `step` apart into the second-level cache, along with a loop over their pixels i: a cache
// line of each at once.
template <int kForWriting, class T>
MBV1_INLINE void fetch_pixels(const T* planes, int64_t i, int64_t channels, int64_t step) {
  if (i % (kCacheLine / static_cast<int64_t>(sizeof(T))) != 0) return;
  for (int64_t c = 0; c < channels; ++c) __builtin_prefetch(planes + c * step + i, kForWriting, 2);
}

// Where the columns of a padded row lie: by their remainder modulo the stride, so that the windows' columns at one
// tap are neighbours, and so that the first that exists is aligned.
struct PlaneColumns {
  int64_t stride, part, first, row_size;

  PlaneColumns(const DwConv2dParams& p, int64_t lanes) : stride(p.window.stride_w) {
    first = round_up(divide_up(p.window.pad_left, stride), lanes) - p.window.pad_left / stride;
    const int64_t columns = larger<int64_t>(columns_spanned(p), p.window.pad_left + p.in_w);
    part = round_up(first + divide_up(columns, stride), lanes);
    row_size = part * stride;
  }

  int64_t of(int64_t column) const { return first + column % stride * part + column / stride; }
};

// Copies a row of the input, with neighbouring columns, in the type of the sums. Meanwhile it fetches what lies
// `ahead` of it, unless that is 0.
template <class T>
MBV1_INLINE void copy_plane_row(const DwConv2dParams& p, const PlaneColumns& columns, const T* from, Acc<T>* row,
                                int64_t ahead) {
  constexpr int64_t kL = kLanes<Acc<T>>;
  const int64_t pad = p.window.pad_left;
  int64_t i = 0;
  // The last vectors overlap those before them.
  if (columns.stride == 1 && p.in_w >= kL) {
    Acc<T>* const to = row + columns.of(pad);
    for (; i + kL <= p.in_w; i += kL) {
      if (ahead != 0) fetch_pixels<0>(from + ahead, i, 1, 0);
      store(to + i, load(from + i));
    }
    if (i < p.in_w) store(to + p.in_w - kL, load(from + p.in_w - kL));
    return;
  }
  if (columns.stride == 2 && p.in_w >= 2 * kL) {
    Acc<T>*const even = row + columns.of(pad), *const odd = row + columns.of(pad + 1);
    const auto copy = [&](int64_t i) MBV1_LAMBDA {
      if (ahead != 0) fetch_pixels<0>(from + ahead, i, 1, 0), fetch_pixels<0>(from + ahead, i + kL, 1, 0);
      const auto low = load(from + i), high = load(from + i + kL);
      store(even + i / 2, even_lanes(low, high)), store(odd + i / 2, odd_lanes(low, high));
    };
    for (; i + 2 * kL <= p.in_w; i += 2 * kL) copy(i);
    if (i + 1 < p.in_w) copy(p.in_w / 2 * 2 - 2 * kL);
    i = p.in_w / 2 * 2;
  }
  for (; i < p.in_w; ++i) row[columns.of(pad + i)] = load_one(from + i);
}

// Output rows [begin, end) of one plane.
template <class T, int kS>
__attribute__((noinline)) void dwconv2d_plane(const DwConv2dParams& p, const PlaneColumns& columns, int64_t n,
                                              int64_t c, int64_t begin, int64_t end) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>, kK = kPlaneTaps, kOut = kPlaneRows, kIn = kPlaneInputRows<kS>;
  const Window& w = p.window;
  const T* const x = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  T* const y = static_cast<T*>(p.y) + n * p.y_stride.n + c * p.y_stride.c;
  const T* const weight = static_cast<const T*>(p.weight) + c * p.weight_stride_c;
  V taps[kK * kK];
  repeat<kK * kK>([&](auto tap) MBV1_LAMBDA {
    taps[tap] = broadcast(load_one(weight + tap / kK * p.weight_stride_h + tap % kK * p.weight_stride_w));
  });
  const V bias = broadcast(p.bias == nullptr ? A(0) : load_one(static_cast<const T*>(p.bias) + c * p.bias_stride));
  int64_t at[kK];
  for (int j = 0; j < kK; ++j) at[j] = columns.of(int64_t{j} * w.dilation_w);
  // Rows that are read, one of padding, and one for output rows that there are not.
  A* const copies = workspace<A>(Slot::kInput, (kIn + 1) * columns.row_size);
  T* const behind = workspace<T>(Slot::kTile, p.out_w);
  const bool fetches = is_far<T>(p, kFarInPlaceBytes);
  const int64_t in_ahead = fetches ? kOut * kS * p.x_stride.h : 0, out_ahead = fetches ? kOut * p.y_stride.h : 0;
  int64_t copied = larger<int64_t>(0, begin * kS - w.pad_top);
  with_activation<A>(p.activation, [&](const auto& activated) MBV1_LAMBDA {
    for (int64_t oh = begin; oh < end; oh += kOut) {
      const int64_t top = oh * kS - w.pad_top;
      for (const int64_t last = smaller(p.in_h, top + kIn); copied < last; ++copied) {
        copy_plane_row(p, columns, x + copied * p.x_stride.h, copies + copied % kIn * columns.row_size, in_ahead);
      }
      const A* rows[kIn];
      for (int64_t i = 0, row = top; i < kIn; ++i, ++row) {
        rows[i] = copies + (row >= 0 && row < p.in_h ? row % kIn : kIn) * columns.row_size;
      }
      T* to[kOut];
      for (int r = 0; r < kOut; ++r) to[r] = oh + r < end ? y + (oh + r) * p.y_stride.h : behind;
      for (int64_t ow = 0; ow < p.out_w; ow += kL) {
        ow = smaller(ow, p.out_w - kL);  // the last vectors overlap those before them
        V sums[kOut];
        repeat<kOut>([&](auto r) MBV1_LAMBDA { sums[r] = bias; });
        repeat<kIn>([&](auto i) MBV1_LAMBDA {
          const A* const row = rows[i] + ow;
          repeat<kK>([&](auto j) MBV1_LAMBDA {
            const V value = in_register(load(row + at[j]));
            repeat<kOut>([&](auto r) MBV1_LAMBDA {
              constexpr int kTap = i - r * kS;
              if constexpr (kTap >= 0 && kTap < kK) sums[r] = multiply_add<A>(sums[r], taps[kTap * kK + j], value);
            });
          });
        });
        repeat<kOut>([&](auto r) MBV1_LAMBDA {
          if (out_ahead != 0) __builtin_prefetch(to[r] + ow + out_ahead, 1, 2);
          store(to[r] + ow, activated(sums[r]));
        });
      }
    }
  });
}

template <class T>
auto plane_kernel(const Window& w) {
  return w.stride_h == 1 ? dwconv2d_plane<T, 1> : dwconv2d_plane<T, 2>;
}

// Once in every thread before its first plane: the padding of the rows that it copies.
template <class T>
void begin_planes(const PlaneColumns& columns) {
  const int64_t elements = (kPlaneInputRows<2> + 1) * columns.row_size;
  Acc<T>* const copies = workspace<Acc<T>>(Slot::kInput, elements);
  for (int64_t i = 0; i < elements; ++i) copies[i] = Acc<T>(0);
}

// Whether there is a kernel for the windows, and rows are wide: what the last vector of each makes twice then costs
// less than transposing pixels, with shorter vectors sooner.
template <class T>
bool by_planes(const DwConv2dParams& p) {
  const Window& w = p.window;
  const int64_t wide = w.stride_h == 1 ? smaller<int64_t>(32, 3 * kLanes<Acc<T>>) : 32;
  return w.kernel_h == kPlaneTaps && w.kernel_w == kPlaneTaps && w.dilation_h == 1 && w.stride_h <= 2 &&
         p.x_stride.w == 1 && p.y_stride.w == 1 && p.out_w >= wide;
}

template <class T>
void dwconv2d_by_planes(const DwConv2dParams& p, const Threads& threads) {
  const auto make = plane_kernel<T>(p.window);
  const PlaneColumns columns(p, kLanes<Acc<T>>);
  const int64_t planes = p.batch * p.channels;
  // Bands of rows where planes do not make enough items.
  const Bands bands(p.out_h, divide_up(items_wanted(threads), planes), 8, kPlaneRows);
  parallel(threads, planes * bands.count, [&](int64_t begin, int64_t end) {
    begin_planes<T>(columns);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % bands.count * bands.rows, plane = item / bands.count;
      make(p, columns, plane / p.channels, plane % p.channels, first, smaller(first + bands.rows, p.out_h));
    }
  });
}

}  // namespace
}  // namespace mbv1::cpu
