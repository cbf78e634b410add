// What is applied to the sums of a kernel before they are stored.
#pragma once

#include "simd.h"

namespace mbv1::cpu {
namespace {

// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2, and exp(r) by its Taylor series to r^7 (relative
// error below 1e-8). Clamped so that 2^n stays a normal float, and infinite above; NaN passes through.
MBV1_INLINE F32Vec exponential(F32Vec x) {
  const auto overflow = x > 88.0f;
  x = overflow ? broadcast(88.0f) : x;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits of the mantissa
  const F32Vec shifted = x * 0x1.715476p+0f + kRound;
  const F32Vec n = shifted - kRound;
  const F32Vec r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // ln 2 in two parts
  F32Vec e = broadcast(1.0f / 5040);
  for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) e = e * r + c;
  const U32Vec exponent = ((U32Vec)shifted << 23) + (127u << 23);  // unsigned: of NaN it may wrap
  return overflow ? broadcast(__builtin_inff()) : e * (F32Vec)exponent;
}

MBV1_INLINE F64Vec exponential(F64Vec x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// Comparisons are written so that NaN comes out as NaN, as in torch.
template <class A>
MBV1_INLINE typename Vec<A>::Type activate(typename Vec<A>::Type v, Activation activation) {
  const typename Vec<A>::Type zero = {};
  const typename Vec<A>::Type six = zero + A(6);
  switch (activation) {
    case Activation::kNone:
      return v;
    case Activation::kRelu:
      return v < zero ? zero : v;
    case Activation::kRelu6:
      v = v < zero ? zero : v;
      return v > six ? six : v;
    case Activation::kHardswish: {
      typename Vec<A>::Type gate = v + A(3);
      gate = gate < zero ? zero : gate;
      gate = gate > six ? six : gate;
      return v * gate / six;
    }
    case Activation::kSilu:
      return v / (exponential(-v) + A(1));
  }
  return v;
}

// The activations that are a clamp to [low, high].
constexpr bool is_clamp(Activation a) { return a != Activation::kHardswish && a != Activation::kSilu; }
template <class A>
constexpr A low_of(Activation a) {
  return a == Activation::kRelu || a == Activation::kRelu6 ? A(0) : -std::numeric_limits<A>::infinity();
}
template <class A>
constexpr A high_of(Activation a) {
  return a == Activation::kRelu6 ? A(6) : std::numeric_limits<A>::infinity();
}

// Calls body(activate) with the function of one vector that an activation is.
template <class A, class Body>
MBV1_INLINE void with_activation(Activation activation, const Body& body) {
  using V = typename Vec<A>::Type;
  if (!is_clamp(activation)) return body([=](V v) MBV1_LAMBDA { return activate<A>(v, activation); });
  const V low = broadcast(low_of<A>(activation)), high = broadcast(high_of<A>(activation));
  const auto from_below = [=](V v) MBV1_LAMBDA { return v < low ? low : v; };
  if (high_of<A>(activation) == std::numeric_limits<A>::infinity()) return body(from_below);
  body([=](V v) MBV1_LAMBDA {
    const V sum = from_below(v);
    return sum > high ? high : sum;
  });
}

}  // namespace
}  // namespace mbv1::cpu
