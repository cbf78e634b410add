// The weights of a layer of a chain, as the kernels of one instruction set read them: packed once, read in every
// call.
//
// A header, then parts that each begin a cache line:
//   separable block      depthwise taps [tap][channel], depthwise bias, panels of the pointwise weights, bias
//   dense convolution    panels of the weights [kernel row, kernel column, channel][output channel], bias
#pragma once

#include "separable_conv2d.h"
#include "stem_conv2d.h"

namespace mbv1::cpu {
namespace {

// Hands out the parts of a packed layer one after another; from null, only their size.
struct Parts {
  char* base;
  int64_t bytes = round_up(sizeof(PackedHeader), kCacheLine);

  template <class V>
  V* take(int64_t count) {
    char* part = base == nullptr ? nullptr : base + bytes;
    bytes += round_up(count * static_cast<int64_t>(sizeof(V)), kCacheLine);
    return reinterpret_cast<V*>(part);
  }
};

// The inner dimension of a layer's matrix product.
template <class E>
int64_t depth_of(const ChainStage& s) {
  return s.separable ? s.in_channels : stem_depth<E>(s.window, s.in_channels);
}

template <class T, class E>
struct PackedStage {
  using A = Acc<T>;
  DwWeights<T> dw;
  E* panels;
  A* bias;
  int64_t panel_count;
  int64_t bytes;

  explicit PackedStage(const ChainStage& s) {
    Parts parts{static_cast<char*>(const_cast<void*>(s.packed))};
    dw.channel_stride = channel_stride_of<T>(s.in_channels);
    dw.taps =
        s.separable ? parts.take<A>(int64_t{s.window.kernel_h} * s.window.kernel_w * dw.channel_stride) : nullptr;
    dw.bias = s.separable ? parts.take<A>(padded_bias<T>(s.in_channels)) : nullptr;
    panel_count = divide_up(s.out_channels, Tile<A>::kCols);
    panels = parts.take<E>(panel_count * panel_elements<A>(depth_of<E>(s)));
    bias = parts.take<A>(padded_bias<T>(s.out_channels));
    bytes = parts.bytes;
  }
};

template <class T, class E>
void pack_stage(const ChainStage& s, const SeparableConv2dParams& w, const Threads& threads) {
  using A = Acc<T>;
  const PackedStage<T, E> packed(s);
  const T* weight = static_cast<const T*>(w.pw.weight);
  if (s.separable) {
    fill_taps<T>(w.dw, const_cast<A*>(packed.dw.taps));
    fill_bias<T>(w.dw.bias, w.dw.bias_stride, s.in_channels, padded_bias<T>(s.in_channels),
                 const_cast<A*>(packed.dw.bias));
    pack_panels(threads, weight, weight_offset(w.pw), w.pw.weight_stride_o, s.in_channels, s.out_channels,
                packed.panels);
  } else {
    StemConv2dParams stem{};
    stem.in_channels = s.in_channels, stem.window = s.window;
    stem.weight_stride_c = w.pw.weight_stride_k;
    stem.weight_stride_h = w.dw.weight_stride_h, stem.weight_stride_w = w.dw.weight_stride_w;
    pack_panels(threads, weight, weight_offset<E>(stem), w.pw.weight_stride_o, depth_of<E>(s), s.out_channels,
                packed.panels);
  }
  fill_bias<T>(w.pw.bias, w.pw.bias_stride, s.out_channels, padded_bias<T>(s.out_channels), packed.bias);
}

}  // namespace
}  // namespace mbv1::cpu
