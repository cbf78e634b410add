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

// Output pixels [begin, end) of row oh of image n, all channels, to dst[(ow - begin) * dst_step + channel]. D is T
// (a tensor's memory) or Acc<T> (a tile of separable_conv2d, which gets the values that a tensor would hold).
// kK is the kernel's size, or 0 for any.
template <class T, class D, int kK>
void depthwise_row_nhwc(const DwConv2dParams& p, const DwWeights<T>& weights, int64_t n, int64_t oh, int64_t begin,
                        int64_t end, D* dst, int64_t dst_step) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kPixels = 4;  // outputs that share a load of the weights
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

  for (int64_t c = 0; c < p.channels; c += kLanes<A>) {
    const int64_t lanes = smaller<int64_t>(p.channels - c, kLanes<A>);
    const A* taps = weights.taps + c;
    const V bias = weights.bias == nullptr ? V{} : load(weights.bias + c);
    const auto finish = [&](int64_t ow, V sum) {
      sum = activate<A>(sum, p.activation);
      if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
      store_part(dst + (ow - begin) * dst_step + c, sum, lanes);
    };
    const auto one = [&](int64_t ow) {
      const int64_t left = ow * window.stride_w - window.pad_left;
      const TapRange columns(left, p.in_w, kernel_w, window.dilation_w);
      V sum = bias;
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const T* row = image + (top + i * window.dilation_h) * p.x_stride.h + left * p.x_stride.w + c;
        for (int64_t j = columns.begin; j < columns.end; ++j) {
          sum += load(taps + (i * kernel_w + j) * weights.channel_stride) * load_part(row + j * tap_step, lanes);
        }
      }
      finish(ow, sum);
    };
    int64_t ow = begin;
    for (; ow < inner_begin; ++ow) one(ow);
    for (; lanes == kLanes<A> && ow + kPixels <= inner_end; ow += kPixels) {
      const int64_t left = ow * window.stride_w - window.pad_left;
      V sums[kPixels];
      for (V& sum : sums) sum = bias;
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const T* row = image + (top + i * window.dilation_h) * p.x_stride.h + left * p.x_stride.w + c;
#pragma GCC unroll 7
        for (int64_t j = 0; j < kernel_w; ++j) {
          const V weight = load(taps + (i * kernel_w + j) * weights.channel_stride);
#pragma GCC unroll 4
          for (int u = 0; u < kPixels; ++u) sums[u] += weight * load(row + j * tap_step + u * pixel_step);
        }
      }
      for (int u = 0; u < kPixels; ++u) finish(ow + u, sums[u]);
    }
    for (; ow < end; ++ow) one(ow);
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

// Output rows [begin, end) of channel c of image n, to dst[(oh - begin) * dst_row + ow].
//
// The input rows are first staged as Acc<T> with their padding, so that every tap reads a whole vector without a
// bounds check: at stride 1 one copy of the row serves all taps, at other strides each tap has its own, compacted.
template <class T, class D, int kK>
void depthwise_rows_nchw(const DwConv2dParams& p, const DwWeights<T>& weights, int64_t n, int64_t c, int64_t begin,
                         int64_t end, D* dst, int64_t dst_row) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kVectors = 4;
  const Window& window = p.window;
  const int64_t kernel_h = kK > 0 ? kK : window.kernel_h, kernel_w = kK > 0 ? kK : window.kernel_w;
  const bool unit = window.stride_w == 1;
  const int64_t copies = unit ? 1 : kernel_w, tap_step = unit ? window.dilation_w : 0;
  const int64_t padded_w = round_up(p.out_w, kLanes<A>);
  const int64_t copy_w = padded_w + (unit ? (kernel_w - 1) * tap_step : 0);
  const int64_t row_w = copies * copy_w, copy_step = unit ? tap_step : copy_w;

  const int64_t first_row = larger<int64_t>(0, begin * window.stride_h - window.pad_top);
  const int64_t last_row =
      smaller(p.in_h, (end - 1) * window.stride_h - window.pad_top + (kernel_h - 1) * window.dilation_h + 1);
  A* staged = workspace<A>(Slot::kInput, larger<int64_t>(last_row - first_row, 1) * row_w);
  const T* plane = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  for (int64_t ih = first_row; ih < last_row; ++ih) {
    const T* row = plane + ih * p.x_stride.h;
    for (int64_t copy = 0; copy < copies; ++copy) {
      A* to = staged + (ih - first_row) * row_w + copy * copy_w;
      // Element q holds input column q * stride + origin; [lo, hi) are those that exist.
      const int64_t origin = copy * window.dilation_w - window.pad_left;
      const int64_t lo = smaller(copy_w, origin < 0 ? divide_up(-origin, window.stride_w) : 0);
      const int64_t hi =
          larger(lo, smaller(copy_w, origin < p.in_w ? divide_up(p.in_w - origin, window.stride_w) : 0));
      for (int64_t q = 0; q < lo; ++q) to[q] = A(0);
      gather(row + (lo * window.stride_w + origin) * p.x_stride.w, window.stride_w * p.x_stride.w, hi - lo, to + lo);
      for (int64_t q = hi; q < copy_w; ++q) to[q] = A(0);
    }
  }

  const A bias = weights.bias == nullptr ? A(0) : weights.bias[c];
  for (int64_t oh = begin; oh < end; ++oh) {
    const int64_t top = oh * window.stride_h - window.pad_top;
    const TapRange rows(top, p.in_h, kernel_h, window.dilation_h);
    D* out = dst + (oh - begin) * dst_row;
    const auto sum_taps = [&](int64_t ow, auto vectors, V* sums) {
      for (int u = 0; u < vectors; ++u) sums[u] = broadcast(bias);
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const A* row = staged + (top + i * window.dilation_h - first_row) * row_w + ow;
#pragma GCC unroll 7
        for (int64_t j = 0; j < kernel_w; ++j) {
          const A weight = weights.taps[(i * kernel_w + j) * weights.channel_stride + c];
          for (int u = 0; u < vectors; ++u) sums[u] += weight * load(row + j * copy_step + u * kLanes<A>);
        }
      }
      for (int u = 0; u < vectors; ++u) {
        sums[u] = activate<A>(sums[u], p.activation);
        if constexpr (!std::is_same_v<T, D>) sums[u] = rounded<T>(sums[u]);
        store_part(out + ow + u * kLanes<A>, sums[u], p.out_w - ow - u * kLanes<A>);
      }
    };
    V sums[kVectors];
    int64_t ow = 0;
    constexpr std::integral_constant<int, kVectors> kMany{};
    constexpr std::integral_constant<int, 1> kOne{};
    for (; ow + kVectors * kLanes<A> <= padded_w; ow += kVectors * kLanes<A>) sum_taps(ow, kMany, sums);
    for (; ow < padded_w; ow += kLanes<A>) sum_taps(ow, kOne, sums);
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
  // Bands of output rows whose staged input stays in the first-level cache: about 16 KB.
  const int64_t row_bytes = (p.in_w + 1) * static_cast<int64_t>(sizeof(Acc<T>)) * p.window.stride_h;
  const int64_t band = smaller(p.out_h, larger<int64_t>(4, 16384 / row_bytes));
  const int64_t bands = divide_up(p.out_h, band);
  with_kernel_size(p, [&](auto size) {
    parallel(threads, p.batch * p.channels * bands, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item % bands * band, c = item / bands % p.channels, n = item / bands / p.channels;
        T* y = static_cast<T*>(p.y) + n * p.y_stride.n + c * p.y_stride.c + first * p.y_stride.h;
        depthwise_rows_nchw<T, T, decltype(size)::value>(p, weights, n, c, first, smaller(first + band, p.out_h), y,
                                                         p.y_stride.h);
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
