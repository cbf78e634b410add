// The weights of a layer of a chain, as the kernels of one instruction set read them: packed once, read in every
// call.
//
// A header, then parts that each begin a cache line:
//   separable block      depthwise taps [tap][channel], depthwise bias, panels of the pointwise weights, bias
//   dense convolution    panels of the weights [kernel row, kernel column, channel][output channel], bias
#pragma once

#include "separable_conv2d.h"
#include "stem_conv2d.h"
#include "strassen.h"

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

// Depth from which on a product gains from Strassen's algorithm.
constexpr int64_t kStrassenDepth = 128;

template <class E>
bool by_strassen(const ChainStage& s) {
  return s.strassen && s.separable && s.in_channels >= kStrassenDepth &&
         strassen_takes<E>(s.in_channels, s.out_channels);
}

template <class T, class E>
struct PackedStage {
  using A = Acc<T>;
  int64_t depth;
  Middle<E> middle;
  DwWeights<T> dw;
  E* panels;
  A* bias;
  bool strassen;
  int64_t panel_count, panel_size;  // or pairs of panels, of all products
  int64_t bytes;

  explicit PackedStage(const ChainStage& s) : depth(depth_of<E>(s)), middle(depth) {
    Parts parts{static_cast<char*>(const_cast<void*>(s.packed))};
    dw.channel_stride = channel_stride_of<T>(s.in_channels);
    dw.taps =
        s.separable ? parts.take<A>(int64_t{s.window.kernel_h} * s.window.kernel_w * dw.channel_stride) : nullptr;
    dw.bias = s.separable ? parts.take<A>(padded_bias<T>(s.in_channels)) : nullptr;
    strassen = by_strassen<E>(s);
    panel_count = divide_up(s.out_channels, Tile<A>::kCols), panel_size = panel_elements<A>(depth);
    if (strassen) panel_count /= 2, panel_size = pair_elements<A>(depth);
    panels = parts.take<E>(panel_count * panel_size);
    bias = parts.take<A>(padded_bias<T>(s.out_channels));
    bytes = parts.bytes;
  }

  // The left factor of a separable block's product: `rows` depthwise outputs, output m at offsets[m].
  int64_t left_elements(int64_t rows) const {
    return strassen ? quad_elements<A>(rows, depth) : middle.elements(rows);
  }
  int64_t block_step() const { return strassen ? Tile<A>::kBlock : middle.block_step(); }
  void place(int64_t rows, int64_t* offsets) const {
    strassen ? place_in_quads<A>(rows, depth, offsets) : middle.place(rows, offsets);
  }

  // Blocks of channels that are independent: block b and block b + blocks() are completed together.
  int64_t blocks() const { return blocks_of<A>(depth) / (strassen ? 2 : 1); }

  // To be called when the outputs of the blocks [begin, end) of each half are there.
  void complete(E* left, int64_t rows, int64_t begin, int64_t end) const {
    if constexpr (kPairOf<E> == 1) {
      if (strassen) sum_left_factors(left, rows, depth, begin, end);
    }
  }

  // The panels [begin, end) of the product, of whose columns `cols` are wanted.
  void multiply(const Output<T>& out, const E* left, int64_t rows, int64_t cols, int64_t begin, int64_t end,
                const E* after = nullptr) const {
    if constexpr (kPairOf<E> == 1) {
      if (strassen) return multiply_quads(out, left, rows, panels, depth, bias, cols, begin, end, after);
    }
    middle.factor(left).multiply(out, rows, panels + begin * panel_size, bias, cols, begin, end, after);
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
    if constexpr (kPairOf<E> == 1) {
      if (packed.strassen) {
        pack_pairs(threads, weight, weight_offset(w.pw), w.pw.weight_stride_o, s.in_channels, s.out_channels,
                   packed.panels);
      }
    }
    if (!packed.strassen) {
      pack_panels(threads, weight, weight_offset(w.pw), w.pw.weight_stride_o, s.in_channels, s.out_channels,
                  packed.panels);
    }
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
