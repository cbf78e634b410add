// Atomic updates; T is an integer type or a number format.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "device/access.h"
#include "device/floats.h"

namespace cudacpu {

template <class T, bool Integer = std::is_integral_v<T>>
struct AtomicTraits {
  using Bits = std::make_unsigned_t<T>;
  template <class Op>
  static Bits combine(Op op, Bits a, Bits b) {
    return static_cast<Bits>(op(static_cast<T>(a), static_cast<T>(b)));
  }
};
template <class T>
struct AtomicTraits<T, false> {
  using Bits = typename T::Bits;
  template <class Op>
  static Bits combine(Op op, Bits a, Bits b) {
    return apply<T>(op, a, b);
  }
};

template <class Bits, class Function>
inline Bits atomic_update(Bits* p, Function function) {
  Bits old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, function(old), false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
  return old;
}

template <class T, class Op>
inline auto atomic(Op op, uint64_t address, typename AtomicTraits<T>::Bits value, Site site = Site::here()) {
  using Bits = typename AtomicTraits<T>::Bits;
  Bits* p = static_cast<Bits*>(checked<sizeof(Bits)>(address, "atomic", site, Access::kAtomic));
  return atomic_update(p, [=](Bits old) { return AtomicTraits<T>::combine(op, old, value); });
}

template <class T>
inline auto atomic_compare_and_swap(uint64_t address, typename AtomicTraits<T>::Bits expected,
                                    typename AtomicTraits<T>::Bits value, Site site = Site::here()) {
  using Bits = typename AtomicTraits<T>::Bits;
  Bits* p = static_cast<Bits*>(checked<sizeof(Bits)>(address, "atomic", site, Access::kAtomic));
  spin(site);  // usually part of a lock
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  return expected;
}

}  // namespace cudacpu
