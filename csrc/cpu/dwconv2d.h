// Depthwise convolution. NHWC is vectorised over channels, NCHW over the width.
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// The kernel rows whose input rows exist, for an output row whose window starts at input row `start`.
struct TapRange {
  int64_t begin, end;
  TapRange(int64_t start, int64_t size, int64_t kernel, int64_t dilation)
      : begin(start < 0 ? divide_up(-start, dilation) : 0),
        end(start < size ? smaller(kernel, divide_up(size - start, dilation)) : 0) {}
};

// Weights and bias in the type of the sums, in the calling thread's workspace: taps[tap][channel_stride].
template <class T>
struct DwWeights {
  const Acc<T>* taps;
  const Acc<T>* bias;  // or null
  int64_t channel_stride;
};

template <class T>
DwWeights<T> pack_depthwise(const DwConv2dParams& p) {
  const int64_t kernel_w = p.window.kernel_w, count = p.window.kernel_h * kernel_w;
  const int64_t channel_stride = round_up(p.channels, kLanes<Acc<T>>);
  Acc<T>* taps = workspace<Acc<T>>(Slot::kDwWeights, count * channel_stride);
  for (int64_t tap = 0; tap < count; ++tap) {
    const int64_t offset = tap / kernel_w * p.weight_stride_h + tap % kernel_w * p.weight_stride_w;
    Acc<T>* row = taps + tap * channel_stride;
    gather(static_cast<const T*>(p.weight) + offset, p.weight_stride_c, p.channels, row);
    for (int64_t c = p.channels; c < channel_stride; ++c) row[c] = Acc<T>(0);
  }
  return {taps, gather_bias<T>(Slot::kDwBias, p.bias, p.bias_stride, p.channels), channel_stride};
}

// Sums that are made side by side, each an independent chain of additions of about 4 cycles.
constexpr int kParallel = 4;

// Output pixels [begin, end) of row oh of image n, all channels, to dst[(ow - begin) * dst_step + channel]. D is T
// (a tensor's memory) or Acc<T> (a tile of separable_conv2d, which gets the values that a tensor would hold).
// kK is the kernel's size, or 0 for any.
template <class T, class D, int kK>
void depthwise_row_nhwc(const DwConv2dParams& p, const DwWeights<T>& weights, int64_t n, int64_t oh, int64_t begin,
                        int64_t end, D* dst, int64_t dst_step) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  const Window& window = p.window;
  const int64_t kernel_w = kK > 0 ? kK : window.kernel_w;
  const int64_t top = oh * window.stride_h - window.pad_top;
  const TapRange rows(top, p.in_h, kK > 0 ? kK : window.kernel_h, window.dilation_h);
  const T* image = static_cast<const T*>(p.x) + n * p.x_stride.n;
  const int64_t tap_step = window.dilation_w * p.x_stride.w, pixel_step = window.stride_w * p.x_stride.w;

  // Outputs [inner_begin, inner_end) have their whole window inside the row.
  const int64_t span = (kernel_w - 1) * window.dilation_w, last = p.in_w - 1 - span + window.pad_left;
  const int64_t inner_begin = smaller(larger(begin, divide_up(window.pad_left, window.stride_w)), end);
  const int64_t inner_end = larger(inner_begin, smaller(end, last < 0 ? 0 : last / window.stride_w + 1));

  const auto finish = [&](int64_t ow, int64_t c, V sum) {
    sum = activate<A>(sum, p.activation);
    if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
    store_part(dst + (ow - begin) * dst_step + c, sum, p.channels - c);
  };
  const auto bias_at = [&](int64_t c) { return weights.bias == nullptr ? V{} : load(weights.bias + c); };
  const auto row_at = [&](int64_t i, int64_t left) {
    return image + (top + i * window.dilation_h) * p.x_stride.h + left * p.x_stride.w;
  };
  // One output, whose window may leave the row, for `vectors` vectors of channels from c on.
  const auto one = [&](int64_t ow, int64_t c, auto vectors) {
    const int64_t left = ow * window.stride_w - window.pad_left;
    const TapRange columns(left, p.in_w, kernel_w, window.dilation_w);
    V sums[vectors];
    for (int v = 0; v < vectors; ++v) sums[v] = bias_at(c + v * kLanes<A>);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* row = row_at(i, left) + c;
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const A* taps = weights.taps + (i * kernel_w + j) * weights.channel_stride + c;
        for (int v = 0; v < vectors; ++v) {
          const T* x = row + j * tap_step + v * kLanes<A>;
          sums[v] += load(taps + v * kLanes<A>) * (vectors > 1 ? load(x) : load_part(x, p.channels - c));
        }
      }
    }
    for (int v = 0; v < vectors; ++v) finish(ow, c + v * kLanes<A>, sums[v]);
  };
  // kParallel outputs whose windows are inside the row, for one whole vector of channels: they share the weights.
  const auto inner = [&](int64_t ow, int64_t c) {
    const int64_t left = ow * window.stride_w - window.pad_left;
    V sums[kParallel];
    for (V& sum : sums) sum = bias_at(c);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* row = row_at(i, left) + c;
#pragma GCC unroll 7
      for (int64_t j = 0; j < kernel_w; ++j) {
        const V weight = load(weights.taps + (i * kernel_w + j) * weights.channel_stride + c);
#pragma GCC unroll 4
        for (int u = 0; u < kParallel; ++u) sums[u] += weight * load(row + j * tap_step + u * pixel_step);
      }
    }
    for (int u = 0; u < kParallel; ++u) finish(ow + u, c, sums[u]);
  };

  const int64_t inner_whole = inner_begin + (inner_end - inner_begin) / kParallel * kParallel;
  const auto channels = [&](int64_t c, auto vectors) {
    for (int64_t ow = begin; ow < inner_begin; ++ow) one(ow, c, vectors);
    for (int64_t v = 0; v < vectors; ++v) {
      for (int64_t ow = inner_begin; ow < inner_whole; ow += kParallel) inner(ow, c + v * kLanes<A>);
    }
    for (int64_t ow = inner_whole; ow < end; ++ow) one(ow, c, vectors);
  };
  int64_t c = 0;
  for (; c + kParallel * kLanes<A> <= p.channels; c += kParallel * kLanes<A>) {
    channels(c, std::integral_constant<int, kParallel>{});
  }
  for (; c < p.channels; c += kLanes<A>) {
    constexpr std::integral_constant<int, 1> kOne{};
    if (c + kLanes<A> <= p.channels) {
      channels(c, kOne);
    } else {
      for (int64_t ow = begin; ow < end; ++ow) one(ow, c, kOne);
    }
  }
}

// The same for channels that are not neighbours in memory, one value at a time.
template <class T, class D>
void depthwise_row_any(const DwConv2dParams& p, const DwWeights<T>& weights, int64_t n, int64_t oh, int64_t begin,
                       int64_t end, D* dst, int64_t dst_step) {
  using A = Acc<T>;
  const Window& window = p.window;
  const int64_t top = oh * window.stride_h - window.pad_top;
  const TapRange rows(top, p.in_h, window.kernel_h, window.dilation_h);
  for (int64_t ow = begin; ow < end; ++ow) {
    const int64_t left = ow * window.stride_w - window.pad_left;
    const TapRange columns(left, p.in_w, window.kernel_w, window.dilation_w);
    for (int64_t c = 0; c < p.channels; ++c) {
      const T* plane = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
      A sum = weights.bias == nullptr ? A(0) : weights.bias[c];
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const T* row = plane + (top + i * window.dilation_h) * p.x_stride.h + left * p.x_stride.w;
        for (int64_t j = columns.begin; j < columns.end; ++j) {
          sum += weights.taps[(i * window.kernel_w + j) * weights.channel_stride + c] *
                 load_one(row + j * window.dilation_w * p.x_stride.w);
        }
      }
      auto value = activate<A>(broadcast(sum), p.activation);
      if constexpr (!std::is_same_v<T, D>) value = rounded<T>(value);
      store_one(dst + (ow - begin) * dst_step + c, value[0]);
    }
  }
}

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
void stage_row(const DwConv2dParams& p, const StagedRow& staged, const T* row, int64_t readable, Acc<T>* to) {
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
      stage_row(p, staged, plane + ih * p.x_stride.h, (p.in_h - 1 - ih) * p.x_stride.h + p.in_w, to);
    } else {
      for (int64_t q = 0; q < staged.width; ++q) to[q] = A(0);
    }
  }

  const V bias = broadcast(weights.bias == nullptr ? A(0) : weights.bias[c]);
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

// Calls body with a function that computes output pixels of a row for all channels: depthwise_row_nhwc for this
// kernel size, or depthwise_row_any.
template <class T, class D, class Body>
void with_depthwise_row(const DwConv2dParams& p, const Body& body) {
  if (p.x_stride.c != 1) return body(depthwise_row_any<T, D>);
  with_kernel_size(p, [&](auto size) { body(depthwise_row_nhwc<T, D, decltype(size)::value>); });
}

template <class T>
void dwconv2d_nhwc(const DwConv2dParams& p, const Threads& threads) {
  const DwWeights<T> weights = pack_depthwise<T>(p);
  with_depthwise_row<T, T>(p, [&](auto depthwise_row) {
    parallel(threads, p.batch * p.out_h, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t n = item / p.out_h, oh = item % p.out_h;
        T* y = static_cast<T*>(p.y) + n * p.y_stride.n + oh * p.y_stride.h;
        depthwise_row(p, weights, n, oh, 0, p.out_w, y, p.y_stride.w);
      }
    });
  });
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
    {"dwconv2d_nhwc", [](const DwConv2dParams& p) { return p.x_stride.c == 1 && p.y_stride.c == 1; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nhwc<decltype(type)>(p, threads); });
     }},
    {"dwconv2d_nchw", [](const DwConv2dParams& p) { return p.y_stride.w == 1; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nchw<decltype(type)>(p, threads); });
     }},
    // Channels-last memory whose channels are a strided slice.
    {"dwconv2d_any", [](const DwConv2dParams&) { return true; },
     [](const DwConv2dParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { dwconv2d_nhwc<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
