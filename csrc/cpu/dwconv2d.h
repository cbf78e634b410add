// Depthwise convolution. NHWC is vectorised over channels (depthwise.h), NCHW over the width.
#pragma once

#include "depthwise.h"

namespace mbv1::cpu {
namespace {

// ---- NHWC ----

// Blocks of channels that an item takes at once: as many as keep its input rows in half a first-level cache.
constexpr int64_t kRowsBytes = 16 * 1024;

template <class T>
void dwconv2d_nhwc(const DwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kL = kLanes<A>;
  const DwWeights<T> weights = pack_depthwise<T>(p);
  const DwRuns<T, T> runs(p.window);
  const int64_t blocks = blocks_of<A>(p.channels);
  const int64_t block_bytes = rows_spanned(p.window, 1) * columns_spanned(p) * kL * static_cast<int64_t>(sizeof(T));
  const int64_t group = larger<int64_t>(1, smaller(blocks, kRowsBytes / block_bytes));
  const int64_t groups = divide_up(blocks, group);
  // Bands of rows where images and channels do not make enough items.
  const int64_t bands = smaller(divide_up(p.out_h, 4), divide_up(threads.count * kItemsPerThread, p.batch * groups));
  const int64_t band = divide_up(p.out_h, bands);
  parallel(threads, p.batch * groups * bands, [&](int64_t begin, int64_t end) {
    int64_t* offsets = workspace<int64_t>(Slot::kOffsets, p.out_w);
    T* tail = workspace<T>(Slot::kTile, p.out_w * kL);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (groups * bands), first = item / bands % groups * group, row = item % bands * band;
      const int64_t last = smaller(first + group, blocks), whole = smaller(last, p.channels / kL);
      const int64_t rows_end = smaller(row + band, p.out_h);
      T* image = static_cast<T*>(p.y) + n * p.y_stride.n;
      for (int64_t ow = 0; ow < p.out_w; ++ow) offsets[ow] = ow * p.y_stride.w;
      struct Place {
        T* y;
        const int64_t* offsets;
      };
      if (first < whole) {
        depthwise_rows(p, runs, weights, n, row, rows_end, first, whole, kL,
                       [&](int64_t oh) { return Place{image + oh * p.y_stride.h + first * kL, offsets}; });
      }
      if (whole < last) {  // channels that do not fill a vector
        for (int64_t ow = 0; ow < p.out_w; ++ow) offsets[ow] = ow * kL;
        for (int64_t oh = row; oh < rows_end; ++oh) {
          depthwise_rows(p, runs, weights, n, oh, oh + 1, whole, last, 0,
                         [&](int64_t) { return Place{tail, offsets}; });
          T* y = image + oh * p.y_stride.h + whole * kL;
          for (int64_t ow = 0; ow < p.out_w; ++ow) {
            for (int64_t c = 0; c < p.channels - whole * kL; ++c) y[ow * p.y_stride.w + c] = tail[ow * kL + c];
          }
        }
      }
    }
  });
}

// ---- NCHW ----

// Sums that are made side by side, each an independent chain of additions of about 4 cycles.
constexpr int kParallel = 4;

// Input rows of one plane, staged with their padding, so that every tap reads whole vectors without a check.
//
// A staged row has its columns in an order in which the outputs' inputs for one tap are neighbours: at stride 1 as
// they are, at stride 2 the even and then the odd ones, at larger strides one compacted copy a tap.
struct StagedRow {
  int64_t copies, copy_w, width;  // width = copies * copy_w
  int64_t stride, dilation;

  StagedRow(const Window& window, int64_t kernel_w, int64_t padded_out_w)
      : copies(window.stride_w <= 2 ? window.stride_w : kernel_w),
        copy_w(padded_out_w + (window.stride_w <= 2 ? (kernel_w - 1) * window.dilation_w / window.stride_w : 0)),
        width(copies * copy_w),
        stride(window.stride_w),
        dilation(window.dilation_w) {}

  // Where the inputs of tap j begin.
  int64_t tap(int64_t j) const {
    if (stride == 1) return j * dilation;
    return stride == 2 ? j * dilation % 2 * copy_w + j * dilation / 2 : j * copy_w;
  }
  // The column, counted from the left padding's first, of a copy's first element.
  int64_t origin(int64_t copy) const { return stride <= 2 ? copy : copy * dilation; }
};

// Copies one input row. `row` is the input's column 0, from where `readable` >= in_w elements can be read: vectors
// may load what follows the row, and the zeros of the right padding are written over it. Up to a vector is written
// behind the staged row, too.
template <class T>
void stage_plane_row(const DwConv2dParams& p, const StagedRow& staged, const T* row, int64_t readable, Acc<T>* to) {
  using A = Acc<T>;
  const int64_t stride = staged.stride, left = p.window.pad_left, copy_w = staged.copy_w;
  const bool dense = p.x_stride.w == 1;
  // Elements [0, whole) of every copy, but for their left padding, are made by vectors.
  int64_t whole = 0;
  if (dense && stride == 1) {
    int64_t q = smaller(copy_w, left);
    for (; q < copy_w && q - left + kLanes<A> <= readable && q - left < p.in_w; q += kLanes<A>) {
      store(to + q, load(row + q - left));
    }
    whole = q;
  } else if (dense && stride == 2) {
    int64_t q = smaller(copy_w, divide_up(left, 2));
    for (; q + kLanes<A> <= copy_w && 2 * (q + kLanes<A>)-left <= readable && 2 * q - left < p.in_w; q += kLanes<A>) {
      const auto a = load(row + 2 * q - left), b = load(row + 2 * q - left + kLanes<A>);
      store(to + q, even_lanes(a, b));
      store(to + copy_w + q, odd_lanes(a, b));
    }
    whole = q;
  }
  for (int64_t copy = 0; copy < staged.copies; ++copy, to += copy_w) {
    // Element q is input column q * stride + first; [lo, hi) are those that exist.
    const int64_t first = staged.origin(copy) - left;
    const int64_t lo = smaller(copy_w, first < 0 ? divide_up(-first, stride) : 0);
    const int64_t hi = larger(lo, smaller(copy_w, first < p.in_w ? divide_up(p.in_w - first, stride) : 0));
    const auto copy_one = [&](int64_t q) { to[q] = load_one(row + (q * stride + first) * p.x_stride.w); };
    for (int64_t q = 0; q < lo; ++q) to[q] = A(0);
    for (int64_t q = lo; q < smaller(hi, divide_up(left, stride)); ++q) copy_one(q);
    for (int64_t q = larger(lo, whole); q < hi; ++q) copy_one(q);
    for (int64_t q = hi; q < copy_w; ++q) to[q] = A(0);
  }
}

// Output rows [begin, end) of channel c of image n, to dst[(oh - begin) * out_w + ow].
template <class T, class D, int kK>
void depthwise_rows_nchw(const DwConv2dParams& p, const DwWeights<T>& weights, int64_t n, int64_t c, int64_t begin,
                         int64_t end, D* dst) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  const Window& window = p.window;
  const int64_t kernel_h = kK > 0 ? kK : window.kernel_h, kernel_w = kK > 0 ? kK : window.kernel_w;
  const int64_t vectors = divide_up(p.out_w, kLanes<A>);
  const StagedRow staged(window, kernel_w, vectors * kLanes<A>);

  const int64_t first_row = begin * window.stride_h - window.pad_top;
  const int64_t row_count = (end - begin - 1) * window.stride_h + (kernel_h - 1) * window.dilation_h + 1;
  A* rows = workspace<A>(Slot::kInput, row_count * staged.width + kLanes<A>);
  const T* plane = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  for (int64_t r = 0; r < row_count; ++r) {
    A* to = rows + r * staged.width;
    const int64_t ih = first_row + r;
    if (ih >= 0 && ih < p.in_h) {
      // All between this row and the end of the plane's last is the tensor's.
      stage_plane_row(p, staged, plane + ih * p.x_stride.h, (p.in_h - 1 - ih) * p.x_stride.h + p.in_w, to);
    } else {
      for (int64_t q = 0; q < staged.width; ++q) to[q] = A(0);
    }
  }

  const V bias = broadcast(weights.bias[c]);
  const int64_t tap_row = window.dilation_h * staged.width, out_row = window.stride_h * staged.width;
  const int64_t total = (end - begin) * vectors;
  D* const dst_end = dst + (end - begin) * p.out_w;
  int64_t row = 0, vector = 0;  // the next vector of outputs
  for (int64_t done = 0; done < total; done += kParallel) {
    const A* from[kParallel];
    D* to[kParallel];
    for (int u = 0; u < kParallel; ++u) {  // the last group repeats its last vector
      from[u] = rows + row * out_row + vector * kLanes<A>;
      to[u] = dst + row * p.out_w + vector * kLanes<A>;
      if (done + u + 1 < total && ++vector == vectors) vector = 0, ++row;
    }
    V sums[kParallel];
    for (V& sum : sums) sum = bias;
    for (int64_t i = 0; i < kernel_h; ++i) {
#pragma GCC unroll 7
      for (int64_t j = 0; j < kernel_w; ++j) {
        const A weight = weights.taps[(i * kernel_w + j) * weights.channel_stride + c];
        const int64_t offset = i * tap_row + staged.tap(j);
#pragma GCC unroll 4
        for (int u = 0; u < kParallel; ++u) sums[u] += weight * load(from[u] + offset);
      }
    }
    for (int u = 0; u < kParallel; ++u) {
      V sum = activate<A>(sums[u], p.activation);
      if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
      // What a vector writes beyond the end of its row, the next row's vector overwrites.
      store_part(to[u], sum, dst_end - to[u]);
    }
  }
}

// Calls body with the kernel's size as a type where it is one that the loops are unrolled for, else with 0.
template <class Body>
void with_kernel_size(const DwConv2dParams& p, const Body& body) {
  const Window& window = p.window;
  const int size = window.kernel_h == window.kernel_w ? window.kernel_h : 0;
  if (size == 3) return body(std::integral_constant<int, 3>{});
  if (size == 5) return body(std::integral_constant<int, 5>{});
  if (size == 7) return body(std::integral_constant<int, 7>{});
  return body(std::integral_constant<int, 0>{});
}

template <class T>
void dwconv2d_nchw(const DwConv2dParams& p, const Threads& threads) {
  const DwWeights<T> weights = pack_depthwise<T>(p);
  // Bands of output rows whose staged input stays in the first-level cache.
  const int64_t row_bytes = p.in_w * static_cast<int64_t>(sizeof(Acc<T>)) * p.window.stride_h;
  const int64_t band = smaller(p.out_h, larger<int64_t>(4, 16384 / row_bytes));
  const int64_t bands = divide_up(p.out_h, band);
  with_kernel_size(p, [&](auto size) {
    parallel(threads, p.batch * p.channels * bands, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item % bands * band, c = item / bands % p.channels, n = item / bands / p.channels;
        T* y = static_cast<T*>(p.y) + n * p.y_stride.n + c * p.y_stride.c + first * p.y_stride.h;
        depthwise_rows_nchw<T, T, decltype(size)::value>(p, weights, n, c, first, smaller(first + band, p.out_h), y);
      }
    });
  });
}

constexpr Kernel<DwConv2dParams> kDwConv2d[] = {
    {"dwconv2d_nhwc", [](const DwConv2dParams& p) { return p.y_stride.c == 1; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nhwc<decltype(type)>(p, threads); });
     }},
    {"dwconv2d_nchw", [](const DwConv2dParams&) { return true; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nchw<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
