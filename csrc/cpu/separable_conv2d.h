// Depthwise-separable convolution: some rows of depthwise outputs are computed into the thread's scratch memory,
// where they stay in the second-level cache, and multiplied from there. The tensor between the two never exists.
#pragma once

#include "dwconv2d.h"
#include "pwconv2d.h"

namespace mbv1::cpu {
namespace {

// How the depthwise outputs of a band lie as the left factor of the product: in tiles, or for AMX in rows.
template <class E>
struct Middle {
  using A = Acc<E>;
  static constexpr int kL = kLanes<A>;
  int64_t depth, step = 0;  // as LeftFactor's

  explicit Middle(int64_t channels) : depth(round_up(channels, kL)) {
    if (kPairOf<E> == 2 && has_amx()) step = line_step<E>(depth);
  }

  int64_t elements(int64_t rows) const {
    return step == 0 ? tile_elements<A>(rows, depth) : round_up(rows, Tile<A>::kRows) * step;
  }
  // From a channel of a row, the first of a block, to the next block's.
  int64_t block_step() const { return step == 0 ? Tile<A>::kBlock : kL; }
  // Where output m lies: offsets[0 … count).
  void place(int64_t count, int64_t* offsets) const {
    constexpr int kRows = Tile<A>::kRows;
    const int64_t row = step == 0 ? kL : step;
    for (int64_t first = 0, tile = 0; first < count; first += kRows, tile += elements(kRows)) {
      for (int64_t r = 0; r < smaller<int64_t>(kRows, count - first); ++r) offsets[first + r] = tile + r * row;
    }
  }
  LeftFactor<E> factor(const E* a) const { return {a, depth, step, true}; }
};

// Rows of a band, at most: of `elements` each, `height` in all.
template <class E>
int64_t rows_fitting(int64_t height, int64_t elements) {
  return larger<int64_t>(1, smaller(height, kTileBytes / (elements * static_cast<int64_t>(sizeof(E)))));
}

// The next band of the rows that are left to a thread: as many as fit, but bands of about the same size.
inline int64_t next_band(int64_t left, int64_t fitting) { return divide_up(left, divide_up(left, fitting)); }

// Bands of output rows of one image, in planes from x to y: nothing is transposed.
template <class T>
void separable_planes(const SeparableConv2dParams& p, const Threads& threads) {
  const PlanesProduct<T> product(p.pw, threads);
  const auto depthwise = plane_kernel<T>(p.dw.window);
  const PlaneColumns columns(p.dw, kLanes<T>);
  const int64_t channels = p.dw.channels, width = p.pw.w, height = p.pw.h;
  // A band is of whole steps of the depthwise kernel, as many as fit.
  const int64_t steps = divide_up(height, kPlaneRows);
  const int64_t fitting = rows_fitting<T>(steps, channels * width * kPlaneRows);
  // The product reads whole vectors.
  const int64_t plane = channel_stride_of<T>(fitting * kPlaneRows * width + product.kCols);
  const int64_t at_once = product.pixels_at_once();
  parallel(threads, p.pw.batch * steps, [&](int64_t begin, int64_t end) {
    begin_planes<T>(columns);
    T* const middle = workspace<T>(Slot::kMaps, channels * plane);
    for (int64_t step = begin, count; step < end; step += count) {
      count = next_band(smaller(end - step, steps - step % steps), fitting);
      const int64_t n = step / steps, first = step % steps * kPlaneRows;
      const int64_t last = smaller(first + count * kPlaneRows, height);
      DwConv2dParams to_middle = p.dw;
      to_middle.y = middle - first * width, to_middle.y_stride = {0, plane, width, 1};
      for (int64_t c = 0; c < channels; ++c) depthwise(to_middle, columns, n, c, first, last);
      for (int64_t pixel = first * width, pixel_end; pixel < last * width; pixel = pixel_end) {
        pixel_end = smaller(pixel + at_once, last * width);
        product.multiply(n, pixel, pixel_end, middle + (pixel - first * width), plane, pixel_end, nullptr);
      }
    }
  });
}

template <class T>
bool by_planes(const SeparableConv2dParams& p) {
  DwConv2dParams dw = p.dw;
  dw.y_stride.w = 1;
  const int64_t step_bytes = dw.channels * dw.out_w * kPlaneRows * static_cast<int64_t>(sizeof(T));
  return makes_planes(p.pw) && by_planes<T>(dw) && dw.channels % PlanesProduct<T>::kUnroll == 0 &&
         step_bytes <= 2 * kTileBytes;
}

// Bands of output rows of one image: [tile][block][pixel][channel], the left factor of the product.
template <class T, class E>
void separable_conv2d(const SeparableConv2dParams& p, const Threads& threads) {
  if constexpr (std::is_same_v<T, float>) {
    if (by_planes<T>(p)) return separable_planes<T>(p, threads);
  }
  using A = Acc<T>;
  const int64_t channels = p.dw.channels, blocks = blocks_of<A>(channels), width = p.pw.w, height = p.pw.h;
  const DwRuns<T, E> runs(p.dw.window);
  const DwRuns<T, E, true> runs_in_place(p.dw.window);
  const bool reads_in_place = channels % kLanes<A> == 0 && in_place<T>(p.dw);
  const A* bias = gather_bias<T>(Slot::kBias, p.pw.bias, p.pw.bias_stride, p.pw.out_channels);
  const Middle<E> middle(channels);
  // Depthwise outputs of rows [first, last) of image n to the left factor.
  const auto depthwise = [&](const DwWeights<T>& dw_weights, int64_t n, int64_t first, int64_t last, E* left,
                             const int64_t* offsets) {
    const auto place = [&](int64_t oh) { return DwPlace<E>{left, offsets + (oh - first) * width}; };
    if (reads_in_place) {
      return depthwise_in_place(p.dw, runs_in_place, dw_weights, n, first, last, 0, channels,
                                middle.block_step() / kLanes<A>, place);
    }
    for (int64_t block = 0; block < blocks; ++block, left += middle.block_step()) {
      if (p.dw.x_stride.c == 1) {
        depthwise_rows(p.dw, runs_in_place, dw_weights, n, first, last, block, block + 1, 0, place);
      } else {
        depthwise_planes(p.dw, runs, dw_weights, n, block, first, last, place, [](int64_t, int64_t) {});
      }
    }
  };
  if (p.pw.batch == 1 && by_panels<E>(p.pw, threads)) {
    E* left = workspace<E>(Slot::kTile, middle.elements(height * width));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, height * width);
    middle.place(height * width, offsets);
    parallel(threads, height, [&](int64_t begin, int64_t end) {
      depthwise(pack_depthwise<T>(p.dw), 0, begin, end, left, offsets + begin * width);
    });
    return multiply_by_panels<T>(p.pw, threads, middle.factor(left), bias);
  }
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.pw.weight), weight_offset(p.pw),
                                    p.pw.weight_stride_o, channels, p.pw.out_channels);
  const int64_t fitting = rows_fitting<E>(height, channels * width);
  parallel(threads, p.pw.batch * height, [&](int64_t begin, int64_t end) {
    const DwWeights<T> dw_weights = pack_depthwise<T>(p.dw);
    E* left = workspace<E>(Slot::kTile, middle.elements(fitting * width));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, fitting * width);
    middle.place(fitting * width, offsets);
    for (int64_t row = begin, count; row < end; row += count) {
      const int64_t n = row / height, first = row % height;
      count = next_band(smaller(end - row, height - first), fitting);
      depthwise(dw_weights, n, first, first + count, left, offsets);
      middle.factor(left).multiply(output_pixels<T>(p.pw, row * width, count * width), count * width, packed, bias,
                                   p.pw.out_channels, 0, divide_up(p.pw.out_channels, Tile<A>::kCols));
    }
  });
}

inline void run_separable_conv2d(const SeparableConv2dParams& p, const Threads& threads) {
  with_dtype(p.pw.dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { separable_conv2d<decltype(type), decltype(operand)>(p, threads); });
  });
}

constexpr Kernel<SeparableConv2dParams> kSeparableConv2d[] = {
    {"separable_conv2d_nhwc", [](const SeparableConv2dParams& p) { return p.pw.y_stride.c == 1; },
     run_separable_conv2d},
    {"separable_conv2d_nchw", [](const SeparableConv2dParams&) { return true; }, run_separable_conv2d},
};

}  // namespace
}  // namespace mbv1::cpu
