// Integer and bit operations.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "scheduler/scheduler.h"

namespace cudacpu {

template <class T>
inline T shift_left(T a, uint32_t n) {
  using U = std::make_unsigned_t<T>;
  return n >= sizeof(T) * 8 ? 0 : static_cast<T>(static_cast<U>(a) << n);
}
template <class T>
inline T shift_right(T a, uint32_t n) {
  if (n >= sizeof(T) * 8) return a < 0 ? static_cast<T>(-1) : 0;
  return static_cast<T>(a >> n);
}
template <class U>
inline uint32_t count_leading_zeros(U a) {
  return a ? __builtin_clzll(a) - (64 - sizeof(U) * 8) : sizeof(U) * 8;
}
template <class U>
inline U reverse_bits(U a) {
  U r = 0;
  for (unsigned i = 0; i < sizeof(U) * 8; ++i) r |= (a >> i & 1) << (sizeof(U) * 8 - 1 - i);
  return r;
}
template <class T>
inline uint32_t find_leading_bit(T value, bool shift_amount) {
  using U = std::make_unsigned_t<T>;
  const U a = value < 0 ? static_cast<U>(~value) : static_cast<U>(value);
  if (!a) return ~0u;
  const uint32_t position = 63 - __builtin_clzll(a);
  return shift_amount ? sizeof(U) * 8 - 1 - position : position;
}
inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t n, bool wrap) {
  if (!wrap && n >= 32) return low;
  n &= 31;
  return n ? high << n | low >> (32 - n) : high;
}
inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t n, bool wrap) {
  if (!wrap && n >= 32) return high;
  n &= 31;
  return n ? low >> n | high << (32 - n) : low;
}
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t source = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> 4 * i & 15;
    uint32_t byte = source >> 8 * (pick & 7) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}
// The modes of prmt, as selectors: which of the eight source bytes goes where.
template <class Place>
inline uint32_t byte_order(Place place) {
  uint32_t selector = 0;
  for (uint32_t i = 0; i < 4; ++i) selector |= (place(i) & 7) << 4 * i;
  return selector;
}
inline uint32_t forward_bytes(uint32_t n) {
  return byte_order([=](uint32_t i) { return (n & 3) + i; });
}
inline uint32_t backward_bytes(uint32_t n) {
  return byte_order([=](uint32_t i) { return (n & 3) - i; });
}
inline uint32_t replicated_byte(uint32_t n) {
  return byte_order([=](uint32_t) { return n & 3; });
}
inline uint32_t clamped_left(uint32_t n) {
  return byte_order([=](uint32_t i) { return std::max(i, n & 3); });
}
inline uint32_t clamped_right(uint32_t n) {
  return byte_order([=](uint32_t i) { return std::min(i, n & 3); });
}
inline uint32_t replicated_half(uint32_t n) {
  return byte_order([=](uint32_t i) { return (n & 1) * 2 + (i & 1); });
}
inline uint32_t bit_mask(uint32_t position, uint32_t length, bool wrap) {
  position = wrap ? position & 31 : std::min(position, 32u);
  length = wrap ? length & 31 : std::min(length, 32u);
  return static_cast<uint32_t>(((1ull << length) - 1) << position);
}
inline uint32_t logic3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
template <class T>
inline T extract_bits(T a, uint32_t position, uint32_t length) {
  constexpr uint32_t width = sizeof(T) * 8;
  position &= 255;
  length &= 255;
  if (!length) return 0;
  const T shifted = shift_right(a, position);
  if (length >= width) return shifted;
  return shift_right(shift_left(shifted, width - length), width - length);
}
template <class U>
inline U insert_bits(U a, U b, uint32_t position, uint32_t length) {
  constexpr uint32_t width = sizeof(U) * 8;
  position &= 255;
  length &= 255;
  if (position >= width || !length) return b;
  const U mask = (length >= width ? ~U(0) : (U(1) << length) - 1) << position;
  return (b & ~mask) | (a << position & mask);
}
template <class T>
inline T multiply_high(T a, T b) {
  return static_cast<T>((static_cast<__int128>(a) * static_cast<__int128>(b)) >> (sizeof(T) * 8));
}
template <>
inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}
template <class U>
inline U add_with_carry(U a, U b, bool carry, bool& carry_out) {
  const unsigned __int128 sum = static_cast<unsigned __int128>(a) + b + carry;
  carry_out = sum >> (sizeof(U) * 8) != 0;
  return static_cast<U>(sum);
}
template <class U>
inline U subtract_with_borrow(U a, U b, bool borrow, bool& borrow_out) {
  borrow_out = static_cast<unsigned __int128>(a) < static_cast<unsigned __int128>(b) + borrow;
  return static_cast<U>(a - b - borrow);
}
template <class T>
inline T divide(T a, T b, Site site = Site::here()) {
  if (!b) fail(kLaunchFailure, "integer division by zero (unspecified result on a GPU)", site);
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  return a / b;
}
template <class T>
inline T remainder(T a, T b, Site site = Site::here()) {
  if (!b) fail(kLaunchFailure, "integer remainder by zero (unspecified result on a GPU)", site);
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return 0;
  return a % b;
}
// mul24: the product of the low 24 bits, its low 32 bits or those from bit 16 on.
template <class T>
inline T multiply24(T a, T b, bool high) {
  using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
  const Wide product = Wide(extract_bits<T>(a, 0, 24)) * extract_bits<T>(b, 0, 24);
  return static_cast<T>(high ? product >> 16 : product);
}
template <class A, class B>
inline uint32_t dot_product2(uint32_t a, uint32_t b, uint32_t sum, bool high) {
  if (high) b >>= 16;
  for (int i = 0; i < 2; ++i)
    sum += static_cast<uint32_t>(static_cast<A>(a >> 16 * i) * static_cast<B>(b >> 8 * i));
  return sum;
}
template <class A, class B>
inline uint32_t dot_product4(uint32_t a, uint32_t b, uint32_t sum) {
  for (int i = 0; i < 4; ++i)
    sum += static_cast<uint32_t>(static_cast<A>(a >> 8 * i) * static_cast<B>(b >> 8 * i));
  return sum;
}
template <class T>
inline T sum_absolute_difference(T a, T b, T c) {
  return (a > b ? a - b : b - a) + c;
}

namespace op {
struct integer_add {
  template <class V>
  V operator()(V a, V b) const {
    return static_cast<V>(std::make_unsigned_t<V>(a) + std::make_unsigned_t<V>(b));
  }
};
struct integer_min {
  template <class V>
  V operator()(V a, V b) const {
    return std::min(a, b);
  }
};
struct integer_max {
  template <class V>
  V operator()(V a, V b) const {
    return std::max(a, b);
  }
};
struct bit_and {
  template <class V>
  V operator()(V a, V b) const {
    return a & b;
  }
};
struct bit_or {
  template <class V>
  V operator()(V a, V b) const {
    return a | b;
  }
};
struct bit_xor {
  template <class V>
  V operator()(V a, V b) const {
    return a ^ b;
  }
};
struct exchange {
  template <class V>
  V operator()(V, V b) const {
    return b;
  }
};
struct increment {
  template <class V>
  V operator()(V a, V b) const {
    return a >= b ? 0 : a + 1;
  }
};
struct decrement {
  template <class V>
  V operator()(V a, V b) const {
    return a == 0 || a > b ? b : a - 1;
  }
};
}  // namespace op

// u16x2 and s16x2.
template <class I, class Op>
inline uint32_t apply_pairs(Op op, uint32_t a, uint32_t b) {
  const uint16_t high = op(static_cast<I>(a >> 16), static_cast<I>(b >> 16));
  const uint16_t low = op(static_cast<I>(a), static_cast<I>(b));
  return uint32_t(high) << 16 | low;
}

inline uint32_t lanes_equal(uint32_t lane) { return 1u << lane; }
inline uint32_t lanes_below(uint32_t lane) { return (1u << lane) - 1; }
inline uint32_t lanes_up_to(uint32_t lane) { return lanes_below(lane) | lanes_equal(lane); }
inline uint32_t lanes_above(uint32_t lane) { return ~lanes_up_to(lane); }
inline uint32_t lanes_from(uint32_t lane) { return ~lanes_below(lane); }

}  // namespace cudacpu
