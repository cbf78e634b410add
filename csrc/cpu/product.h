// What products multiply and store: operands of the type of the sums, or pairs of BFloat16 where the processor takes
// them.
#pragma once

#include "simd.h"

namespace mbv1::cpu {
namespace {

// Elements that one operand of multiply_add takes side by side: pairs of BFloat16.
template <class E>
constexpr int kPairOf = sizeof(E) == 2 ? 2 : 1;

// A row of B for multiply_add.
template <class E>
MBV1_INLINE typename Vec<Acc<E>>::Type load_operand(const E* p) {
  typename Vec<Acc<E>>::Type v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// One factor, or pair of them, in every lane.
template <class E>
MBV1_INLINE typename Vec<Acc<E>>::Type broadcast_operand(const E* p) {
  if constexpr (kPairOf<E> == 1) {
    return broadcast(*p);
  } else {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return (F32Vec)(pair - I32Vec{});
  }
}

// The second element of a pair, with zero before it.
struct OddElement {};
template <class E>
MBV1_INLINE typename Vec<Acc<E>>::Type broadcast_operand(const E* p, OddElement) {
  const auto pair = in_register(broadcast_operand(p));
  return (F32Vec)((U32Vec)pair & 0xffff0000u);
}

template <class E>
MBV1_INLINE typename Vec<Acc<E>>::Type multiply_add(typename Vec<Acc<E>>::Type sum, typename Vec<Acc<E>>::Type a,
                                                    typename Vec<Acc<E>>::Type b) {
  if constexpr (kPairOf<E> == 1) {
#if MBV1_VECTOR_BYTES >= 32
    // Of the expression GCC makes instructions that load an operand again and again, and copies of sums. That costs a
    // tenth of the time, and a fifth where another hyperthread takes half of the core.
    if constexpr (std::is_same_v<E, float>) {
      asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    } else {
      asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
    return sum;
#else
    return sum + a * b;
#endif
  } else {
#if MBV1_VECTOR_BYTES == 64
    // AVX512-BF16, which only some of the processors have that run the other kernels of this instruction set.
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
    return sum;
  }
}

// The same with b in memory, for want of a register.
template <class E>
MBV1_INLINE typename Vec<Acc<E>>::Type multiply_add_from(typename Vec<Acc<E>>::Type sum, typename Vec<Acc<E>>::Type a,
                                                         const E* b) {
#if MBV1_VECTOR_BYTES == 32
  const auto& memory = *reinterpret_cast<const char (*)[kVectorBytes]>(b);
  if constexpr (std::is_same_v<E, float>) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "m"(memory));
  } else {
    asm("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(a), "m"(memory));
  }
  return sum;
#else
  return multiply_add<E>(sum, a, load_operand(b));
#endif
}

// What a product of factors E stores: as `store_part`, by AVX512-BF16 where its factors need that anyway.
template <class E, class T>
MBV1_INLINE void store_product(T* p, typename Vec<Acc<T>>::Type v, int64_t count) {
#if MBV1_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, BFloat16> && std::is_same_v<E, BFloat16>) {
    U16Vec bits;
    asm("vcvtneps2bf16 %1, %0" : "=v"(bits) : "v"(v));
    if (count >= kLanes<float>) {
      __builtin_memcpy(p, &bits, sizeof bits);
    } else {
      T values[kLanes<float>];
      __builtin_memcpy(values, &bits, sizeof bits);
      copy_less<kLanes<float> / 2>(values, count, p);
    }
    return;
  }
#endif
  store_part(p, v, count);
}

// Calls body with a value of the type in which a product takes its factors: BFloat16 for itself where the processor
// multiplies it, else the type of the sums.
template <class T, class Body>
void with_operand(T, const Body& body) {
  if constexpr (kVectorBytes == 64 && std::is_same_v<T, BFloat16>) {
    if (has_bf16_products()) return body(BFloat16{});
  }
  body(Acc<T>{});
}

}  // namespace
}  // namespace mbv1::cpu
