// Number formats: Bits is the register image, Value what arithmetic is done in.
#pragma once
#include <cmath>
#include <cstdint>

namespace cudacpu {

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

struct F32 {
  using Bits = uint32_t;
  using Value = float;
  static Value decode(Bits bits) { return bit_cast<float>(bits); }
  template <class V>
  static Bits encode(V value) {
    return bit_cast<Bits>(static_cast<float>(value));
  }
};

// .ftz: subnormal inputs and results become zeros of the same sign.
struct F32Ftz : F32 {
  static Bits flush(Bits bits) { return bits & 0x7f800000u ? bits : bits & 0x80000000u; }
  static Value decode(Bits bits) { return F32::decode(flush(bits)); }
  template <class V>
  static Bits encode(V value) {
    return flush(F32::encode(value));
  }
};

struct F64 {
  using Bits = uint64_t;
  using Value = double;
  static Value decode(Bits bits) { return bit_cast<double>(bits); }
  template <class V>
  static Bits encode(V value) {
    return bit_cast<Bits>(static_cast<double>(value));
  }
};

struct F16 {
  using Bits = uint16_t;
  using Value = float;
  static Value decode(Bits bits) { return bit_cast<_Float16>(bits); }
  template <class V>
  static Bits encode(V value) {
    return bit_cast<Bits>(static_cast<_Float16>(value));
  }
};

struct BF16 {
  using Bits = uint16_t;
  using Value = float;
  static Value decode(Bits bits) { return bit_cast<float>(uint32_t(bits) << 16); }
  static Bits encode(float value) {
    if (value != value) return 0x7fff;
    const uint32_t bits = bit_cast<uint32_t>(value);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
  // Via a float rounded to odd, so that the two roundings amount to one.
  static Bits encode(double value) {
    float f = static_cast<float>(value);
    if (std::isfinite(value) && static_cast<double>(f) != value) {
      uint32_t bits = bit_cast<uint32_t>(f);
      if (!(bits & 1) && std::fabs(static_cast<double>(f)) > std::fabs(value)) --bits;
      f = bit_cast<float>(bits | 1);
    }
    return encode(f);
  }
  template <class V>
  static Bits encode(V value) {
    return encode(static_cast<double>(value));
  }
};

struct TF32 : F32 {
  static Value decode(Bits bits) { return F32::decode(bits & 0xffffe000u); }
  static bool special(Bits bits) { return (bits & 0x7f800000u) == 0x7f800000u; }
  static Bits keep_special(Bits bits) { return bits & 0x7fffffu ? 0x7fffffffu : bits; }
  // To the nearest; ties away from zero (rna) or to even (rn).
  static Bits round_away(Bits bits) {
    return special(bits) ? keep_special(bits) : (bits + 0x1000u) & 0xffffe000u;
  }
  static Bits round_even(Bits bits) {
    return special(bits) ? keep_special(bits) : (bits + 0xfffu + (bits >> 13 & 1)) & 0xffffe000u;
  }
};

template <class Half>
struct Packed2 {
  using Bits = uint32_t;
  using Element = Half;
};
using F16x2 = Packed2<F16>;
using BF16x2 = Packed2<BF16>;

template <class T>
constexpr bool is_packed = false;
template <class Half>
constexpr bool is_packed<Packed2<Half>> = true;

template <class Half>
inline uint32_t pack(uint32_t high_f32, uint32_t low_f32) {
  return uint32_t(Half::encode(F32::decode(high_f32))) << 16 | Half::encode(F32::decode(low_f32));
}

}  // namespace cudacpu
