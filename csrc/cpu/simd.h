// Vectors of the instruction set that the including isa_*.cpp compiles for, by the compilers' vector extensions.
//
// Everything here and in the kernel headers has internal linkage, and nothing from the standard library is
// instantiated: an inline function emitted with AVX instructions must never be the copy that the linker keeps.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels.h"

#define MBV1_INLINE inline __attribute__((always_inline))
#define MBV1_LAMBDA __attribute__((always_inline))

namespace mbv1::cpu {
namespace {

// Set beside the target: the compilers do not all define __AVX2__ and the like for a target pragma.
constexpr int kVectorBytes = MBV1_VECTOR_BYTES;

// Storage of the 16-bit types; the kernels convert on load and store and compute in float.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
// What sums are made in.
template <class T>
using Acc = typename AccOf<T>::type;

template <class A>
struct Vec {
  static constexpr int kLanes = kVectorBytes / sizeof(A);
  typedef A Type __attribute__((vector_size(kVectorBytes)));
};
typedef uint32_t U32Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t I32Vec __attribute__((vector_size(kVectorBytes)));
typedef uint16_t U16Vec __attribute__((vector_size(kVectorBytes / 2)));
using F32Vec = Vec<float>::Type;
using F64Vec = Vec<double>::Type;

template <class A>
constexpr int kLanes = Vec<A>::kLanes;

template <class I>
constexpr I smaller(I a, I b) {
  return a < b ? a : b;
}
template <class I>
constexpr I larger(I a, I b) {
  return a > b ? a : b;
}
constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

template <class A>
A* workspace(Slot slot, int64_t count) {
  return static_cast<A*>(workspace_bytes(slot, static_cast<size_t>(count) * sizeof(A)));
}

template <class A>
MBV1_INLINE typename Vec<A>::Type broadcast(A value) {
  return value - typename Vec<A>::Type{};  // of a number minus zero, no instruction is left but the broadcast
}

MBV1_INLINE F32Vec widen(U16Vec bits, const BFloat16*) {
#if defined(__x86_64__) && MBV1_VECTOR_BYTES >= 32
  U32Vec wide;  // which GCC would make of two halves
  asm("vpmovzxwd %1, %0" : "=v"(wide) : "v"(bits));
#else
  const U32Vec wide = __builtin_convertvector(bits, U32Vec);
#endif
  return (F32Vec)(wide << 16);
}

// Round to nearest even; NaN stays NaN.
MBV1_INLINE U16Vec narrow(F32Vec v, const BFloat16*) {
  const U32Vec bits = (U32Vec)v;
  const U32Vec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32Vec nan = (U32Vec)((bits & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), U16Vec);
}

#if defined(__x86_64__) && MBV1_VECTOR_BYTES >= 32
// F16C, which every processor with AVX2 has.
MBV1_INLINE F32Vec widen(U16Vec bits, const Half*) {
  F32Vec v;
  asm("vcvtph2ps %1, %0" : "=v"(v) : "v"(bits));
  return v;
}

MBV1_INLINE U16Vec narrow(F32Vec v, const Half*) {
  U16Vec bits;
  asm("vcvtps2ph $0, %1, %0" : "=v"(bits) : "v"(v));  // to nearest even
  return bits;
}
#else
// Shifts the 5-bit exponent into place and multiplies by 2^112 to rebias it, which also normalises subnormals.
MBV1_INLINE F32Vec widen(U16Vec bits, const Half*) {
  const U32Vec wide = __builtin_convertvector(bits, U32Vec);
  const U32Vec magnitude = (wide & 0x7fffu) << 13;
  const U32Vec scaled = (U32Vec)((F32Vec)magnitude * 0x1p112f);
  const U32Vec special = (U32Vec)(magnitude >= 0x0f800000u) & 0x7f800000u;  // infinity and NaN
  return (F32Vec)(scaled | special | ((wide & 0x8000u) << 16));
}

MBV1_INLINE U16Vec narrow(F32Vec v, const Half*) {
  const U32Vec bits = (U32Vec)v;
  const U32Vec magnitude = bits & 0x7fffffffu;
  const U32Vec normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // One unit in the last place of 0.5f is 2^-24, the spacing of half's subnormals: the addition rounds to it.
  const U32Vec subnormal = (U32Vec)((F32Vec)magnitude + 0.5f) - 0x3f000000u;
  const U32Vec special = 0x7c00u | ((U32Vec)(magnitude > 0x7f800000u) & 0x0200u);
  const U32Vec is_subnormal = (U32Vec)(magnitude < 0x38800000u);  // below 2^-14
  const U32Vec is_special = (U32Vec)(magnitude >= 0x47800000u);   // 2^16 and above, infinity, NaN
  const U32Vec finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  const U32Vec result = (special & is_special) | (finite & ~is_special);
  return __builtin_convertvector(result | ((bits >> 16) & 0x8000u), U16Vec);
}
#endif

// kLanes elements from unaligned memory, in the type that sums are made in.
template <class T>
MBV1_INLINE typename Vec<Acc<T>>::Type load(const T* p) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    typename Vec<T>::Type v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  } else {
    U16Vec bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return widen(bits, p);
  }
}

template <class T>
MBV1_INLINE void store(T* p, typename Vec<Acc<T>>::Type v) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    __builtin_memcpy(p, &v, sizeof v);
  } else {
    const U16Vec bits = narrow(v, p);
    __builtin_memcpy(p, &bits, sizeof bits);
  }
}

template <class T>
MBV1_INLINE void copy_vector(const T* from, T* to) {
  typedef unsigned char Bytes __attribute__((vector_size(kLanes<Acc<T>> * sizeof(T))));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  __builtin_memcpy(to, &bytes, sizeof bytes);
}

// Fewer than 2 kPart elements, in parts of kPart, kPart / 2 … 1.
template <int64_t kPart, class T>
MBV1_INLINE void copy_less(const T* from, int64_t count, T* to) {
  if constexpr (kPart > 0) {
    const int64_t part = count & kPart;
    if (part != 0) __builtin_memcpy(to, from, kPart * sizeof(T));
    copy_less<kPart / 2>(from + part, count, to + part);
  }
}

// The first `count` elements, the other lanes zero.
template <class T>
MBV1_INLINE typename Vec<Acc<T>>::Type load_part(const T* p, int64_t count) {
  if (count >= kLanes<Acc<T>>) return load(p);
  T padded[kLanes<Acc<T>>] = {};
  copy_less<kLanes<Acc<T>> / 2>(p, count, padded);
  return load(padded);
}

template <class T>
MBV1_INLINE void store_part(T* p, typename Vec<Acc<T>>::Type v, int64_t count) {
  if (count >= kLanes<Acc<T>>) return store(p, v);
  T padded[kLanes<Acc<T>>];
  store(padded, v);
  copy_less<kLanes<Acc<T>> / 2>(padded, count, p);
}

// Keeps a value that several operations use in a register, where the compiler would load it again for each.
template <class V>
MBV1_INLINE V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// The same of an address: what is computed from it is computed behind this.
template <class T>
MBV1_INLINE const T* in_register(const T* p) {
  asm("" : "+r"(p));
  return p;
}

// Every second lane of a and then of b.
template <class V>
MBV1_INLINE V even_lanes(V a, V b) {
  if constexpr (sizeof(V) / sizeof(a[0]) == 2) return __builtin_shufflevector(a, b, 0, 2);
  if constexpr (sizeof(V) / sizeof(a[0]) == 4) return __builtin_shufflevector(a, b, 0, 2, 4, 6);
  if constexpr (sizeof(V) / sizeof(a[0]) == 8) return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  if constexpr (sizeof(V) / sizeof(a[0]) == 16) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  }
}
template <class V>
MBV1_INLINE V odd_lanes(V a, V b) {
  if constexpr (sizeof(V) / sizeof(a[0]) == 2) return __builtin_shufflevector(a, b, 1, 3);
  if constexpr (sizeof(V) / sizeof(a[0]) == 4) return __builtin_shufflevector(a, b, 1, 3, 5, 7);
  if constexpr (sizeof(V) / sizeof(a[0]) == 8) return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  if constexpr (sizeof(V) / sizeof(a[0]) == 16) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
}

template <class T>
MBV1_INLINE Acc<T> load_one(const T* p) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    return *p;
  } else {
    return widen(U16Vec{p->bits}, p)[0];
  }
}

template <class T>
MBV1_INLINE void store_one(T* p, Acc<T> value) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    *p = value;
  } else {
    store_part(p, broadcast<float>(value), 1);
  }
}

// The value that a tensor of type T would hold.
template <class T>
MBV1_INLINE typename Vec<Acc<T>>::Type rounded(typename Vec<Acc<T>>::Type v) {
  if constexpr (std::is_same_v<T, Acc<T>>) {
    return v;
  } else {
    return widen(narrow(v, static_cast<T*>(nullptr)), static_cast<T*>(nullptr));
  }
}

// Calls body with the integral constants 0, 1, … kCount - 1, unrolled.
template <int kCount, int kFrom = 0, class Body>
MBV1_INLINE void repeat(const Body& body) {
  if constexpr (kFrom < kCount) {
    body(std::integral_constant<int, kFrom>{});
    repeat<kCount, kFrom + 1>(body);
  }
}

// Runs body(begin, end) over [0, items) on the caller's threads.
template <class Body>
void parallel(const Threads& threads, int64_t items, const Body& body) {
  threads.parallel_for(
      items,
      [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
      &body);
}

// Work items that a thread should get, so that none waits long for the last.
constexpr int64_t kItemsPerThread = 4;
inline int64_t items_wanted(const Threads& threads) {
  return threads.count == 1 ? 1 : threads.count * kItemsPerThread;
}

// Calls body with a value of the element type: the one place where a run-time dtype becomes a type.
template <class Body>
void with_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kFloat16:
      return body(Half{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat64:
      return body(double{});
  }
  __builtin_unreachable();  // the bindings' checks let no other value through
}

}  // namespace
}  // namespace mbv1::cpu
