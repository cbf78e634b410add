// Output rows of 3x3 windows over a map, column by column: each column of the input is loaded once and goes to the
// sums of all windows that have it, while the weights stay in registers. For windows that are not made in two rows at
// once: dilated ones, and with instruction sets whose registers do not hold the sums of two rows (kTwoRows) all.
#pragma once

#include "depthwise_run.h"

namespace mbv1::cpu {
namespace {

// `count` outputs, `step` apart, of windows that have kTaps rows.
template <class T, class D, int kS, int kTaps>
void slide_rows(const DwRow<T>& p, const T* x, D* y, const int64_t* offsets, int64_t step, int64_t count) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kK = 3;
  const int64_t pixel = p.window.dilation_w * kLanes<A>;  // from one of the windows' columns to the next
  V weights[kTaps][kK];
  int64_t rows[kTaps], slot = p.first_slot;
  repeat<kTaps>([&](auto i) MBV1_LAMBDA {
    const A* taps = p.taps + (p.begin + i) * kK * p.tap_step;
    repeat<kK>([&](auto j) MBV1_LAMBDA { weights[i][j] = in_register(load(taps + j * p.tap_step)); });
    rows[i] = slot * p.row_size, slot = p.below(slot);
  });
  const V bias = in_register(load(p.bias));
  with_activation<A>(p.activation, [&](const auto& activated) MBV1_LAMBDA {
    for (int64_t row = 0; row < p.count; ++row) {
      const T* lines[kTaps];
      repeat<kTaps>([&](auto i) MBV1_LAMBDA { lines[i] = x + row * p.in_step + rows[i]; });
      const int64_t* place = offsets + row * p.out_step;
      V sums[kK] = {};  // sums[j] is of the window that has the column as its column j
      const auto add_column = [&](auto column, int64_t at) MBV1_LAMBDA {
        sums[2] = sums[1], sums[1] = sums[0], sums[0] = bias;
        repeat<kTaps>([&](auto i) MBV1_LAMBDA {
          const V value = in_register(load(lines[i] + at));
          repeat<smaller(kK, column + 1)>([&](auto j) MBV1_LAMBDA {
            if constexpr ((column - j) % kS == 0) sums[j] = multiply_add<A>(sums[j], weights[i][j], value);
          });
        });
      };
      constexpr int kFirst = kK - kS;  // columns before those that each end or begin a window
      repeat<kFirst>([&](auto column) MBV1_LAMBDA { add_column(column, column * pixel); });
      int64_t at = kFirst * pixel;
#pragma GCC unroll 1
      for (int64_t i = 0; i < count; ++i, at += kS * pixel, place += step) {
        repeat<kS>([&](auto j)
                       MBV1_LAMBDA { add_column(std::integral_constant<int, kFirst + j>{}, at + j * pixel); });
        V made = activated(sums[kK - 1]);
        if constexpr (!std::is_same_v<T, D>) made = rounded<T>(made);
        store(y + *place, made);
      }
    }
  });
}

// As depthwise_run of a map, dilated too, in runs of one output: `count` of them side by side.
template <class T, class D, int kS>
__attribute__((noinline)) void depthwise_slide(const DwRow<T>& p, const T* x, D* y, const int64_t* offsets,
                                               int64_t step, int64_t count) {
  if (p.end - p.begin == 3) return slide_rows<T, D, kS, 3>(p, x, y, offsets, step, count);
  if (p.end - p.begin == 2) return slide_rows<T, D, kS, 2>(p, x, y, offsets, step, count);
  depthwise_run<T, D, 3, kS, false, 1, 1>(p, x, y, offsets, step, count);
}

}  // namespace
}  // namespace mbv1::cpu
