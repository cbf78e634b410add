// Floating-point operations on number formats and pairs of them.
#pragma once
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>

#include "device/formats.h"

namespace cudacpu {

template <class T, class Op, class... Registers>
inline typename T::Bits apply(Op op, Registers... raw) {
  if constexpr (is_packed<T>) {
    using E = typename T::Element;
    const uint32_t high = apply<E>(op, static_cast<uint16_t>(raw >> 16)...);
    return high << 16 | apply<E>(op, static_cast<uint16_t>(raw)...);
  } else {
    return T::encode(op(T::decode(static_cast<typename T::Bits>(raw))...));
  }
}

template <class V>
inline V minimum(V a, V b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class V>
inline V maximum(V a, V b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
template <class V>
inline bool unordered(V a, V b) {
  return a != a || b != b;
}
template <class V>
inline V saturate(V x) {
  return x > 0 ? (x < 1 ? x : V(1)) : V(0);
}
template <class V>
inline V relu(V x) {
  return x > 0 || x != x ? x : V(0);
}

// Bit 0: the condition for the low halves, bit 1: for the high halves.
template <class Half, class Condition>
inline uint32_t compare_pairs(Condition condition, uint32_t a, uint32_t b) {
  const uint32_t low = condition(Half::decode(a), Half::decode(b));
  return low | condition(Half::decode(a >> 16), Half::decode(b >> 16)) << 1;
}
inline uint32_t pair_select(uint32_t conditions, uint32_t value) {
  return (conditions & 1 ? value : 0) | (conditions & 2 ? value << 16 : 0);
}

namespace op {
#define CUDACPU_UNARY(name, expression)  \
  struct name {                          \
    template <class V>                   \
    V operator()(V a) const {            \
      return static_cast<V>(expression); \
    }                                    \
  };
#define CUDACPU_BINARY(name, expression) \
  struct name {                          \
    template <class V>                   \
    V operator()(V a, V b) const {       \
      return static_cast<V>(expression); \
    }                                    \
  };
CUDACPU_BINARY(add, a + b)
CUDACPU_BINARY(sub, a - b)
CUDACPU_BINARY(mul, (a * b))
CUDACPU_BINARY(div, a / b)
CUDACPU_BINARY(min, minimum(a, b))
CUDACPU_BINARY(max, maximum(a, b))
CUDACPU_BINARY(min_nan, unordered(a, b) ? V(NAN) : minimum(a, b))
CUDACPU_BINARY(max_nan, unordered(a, b) ? V(NAN) : maximum(a, b))
CUDACPU_UNARY(sqrt, std::sqrt(a))
CUDACPU_UNARY(rsqrt, 1 / std::sqrt(static_cast<double>(a)))
CUDACPU_UNARY(rcp, 1 / a)
CUDACPU_UNARY(ex2, std::exp2(a))
CUDACPU_UNARY(lg2, std::log2(a))
CUDACPU_UNARY(sin, std::sin(a))
CUDACPU_UNARY(cos, std::cos(a))
CUDACPU_UNARY(tanh, std::tanh(a))
CUDACPU_UNARY(sat, saturate(a))
CUDACPU_UNARY(relu, cudacpu::relu(a))
CUDACPU_UNARY(rzi, std::trunc(a))
CUDACPU_UNARY(rni, std::nearbyint(a))
CUDACPU_UNARY(rmi, std::floor(a))
CUDACPU_UNARY(rpi, std::ceil(a))
#undef CUDACPU_UNARY
#undef CUDACPU_BINARY
}  // namespace op

// 16-bit formats: the product of two is exact in double, which leaves one rounding that matters.
template <class T>
inline typename T::Bits fused_multiply_add(typename T::Bits a, typename T::Bits b, typename T::Bits c) {
  if constexpr (is_packed<T>) {
    using E = typename T::Element;
    const uint32_t high = fused_multiply_add<E>(a >> 16, b >> 16, c >> 16);
    return high << 16 | fused_multiply_add<E>(a, b, c);
  } else if constexpr (sizeof(typename T::Bits) == 2) {
    return T::encode(static_cast<double>(T::decode(a)) * T::decode(b) + T::decode(c));
  } else {
    return T::encode(std::fma(T::decode(a), T::decode(b), T::decode(c)));
  }
}

template <class T>
constexpr typename T::Bits sign_mask() {
  if constexpr (is_packed<T>)
    return 0x80008000u;
  else
    return typename T::Bits(1) << (sizeof(typename T::Bits) * 8 - 1);
}
template <class T>
inline typename T::Bits absolute(typename T::Bits a) {
  return a & ~sign_mask<T>();
}
template <class T>
inline typename T::Bits negate(typename T::Bits a) {
  return a ^ sign_mask<T>();
}

// Runs an operation in another rounding mode. Neither operands nor result may be known to the
// compiler, or it would compute in round-to-nearest at compile time.
template <class V>
inline V opaque(V value) {
  asm volatile("" : "+x"(value));
  return value;
}

template <class T, class Op, class... Registers>
__attribute__((noinline)) inline typename T::Bits apply_rounded(int mode, Op op, Registers... raw) {
  fesetround(mode);
  const auto result = opaque(op(opaque(T::decode(static_cast<typename T::Bits>(raw)))...));
  fesetround(FE_TONEAREST);
  return T::encode(result);
}

struct FusedMultiplyAdd {
  float operator()(float a, float b, float c) const { return __builtin_fmaf(a, b, c); }
  double operator()(double a, double b, double c) const { return __builtin_fma(a, b, c); }
};

template <class To, class From>
__attribute__((noinline)) inline typename To::Bits convert_rounded(int mode, From from) {
  volatile From source = from;
  fesetround(mode);
  const auto result = opaque(static_cast<typename To::Value>(source));
  fesetround(FE_TONEAREST);
  return To::encode(result);
}

// To 16 bits: the nearest value, moved to its neighbour if it lies on the wrong side.
template <class Half>
inline uint16_t encode_directed(int mode, double value) {
  const uint16_t nearest = Half::encode(value);
  const double rounded = Half::decode(nearest);
  const bool negative = nearest >> 15;
  if (mode == FE_TOWARDZERO) mode = negative ? FE_UPWARD : FE_DOWNWARD;
  if (mode == FE_DOWNWARD && rounded > value) return negative ? nearest + 1 : nearest - 1;
  if (mode == FE_UPWARD && rounded < value) return negative ? nearest - 1 : nearest + 1;
  return nearest;
}
template <class Half>
inline uint32_t pack_directed(int mode, uint32_t high_f32, uint32_t low_f32) {
  const uint32_t high = encode_directed<Half>(mode, F32::decode(high_f32));
  return high << 16 | encode_directed<Half>(mode, F32::decode(low_f32));
}

// ---- conversions to integers ----

template <class I, class V>
inline I to_integer(V x) {
  if (x != x) return 0;
  if (static_cast<double>(x) >= static_cast<double>(std::numeric_limits<I>::max()))
    return std::numeric_limits<I>::max();
  if (static_cast<double>(x) <= static_cast<double>(std::numeric_limits<I>::min()))
    return std::numeric_limits<I>::min();
  return static_cast<I>(x);
}

template <class To, class From>
inline To saturate_integer(From from) {
  const __int128 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
  return static_cast<To>(std::min<__int128>(std::max<__int128>(from, low), high));
}

}  // namespace cudacpu
