// Checked loads and stores of global, shared and local memory, and of parameters.
#pragma once
#include <cstdint>

#include "scheduler/scheduler.h"

#ifndef CUDACPU_RACES
#define CUDACPU_RACES 0
#endif
#ifndef CUDACPU_COUNTS
#define CUDACPU_COUNTS 0
#endif

#if CUDACPU_COUNTS
#define COUNT(row) count_instructions(row)
#define AT(...) at(__VA_ARGS__)
#else
#define COUNT(row)
#define AT(...)
#endif

namespace cudacpu {

// Of the access that the calling OS thread makes next.
inline thread_local Position position;

template <class... Iterations>
inline void at(const void* function, uint32_t access, Iterations... iterations) {
  uint64_t hash = reinterpret_cast<uint64_t>(function);
  ((hash = (hash ^ iterations) * 0x9E3779B97F4A7C15ull, hash ^= hash >> 32), ...);
  position = {access, hash};
}

template <unsigned Bytes>
inline void* checked(uint64_t address, const char* access, Site site, [[maybe_unused]] Access kind) {
#if CUDACPU_SHADOW
  const bool ok = addressable(address, Bytes) && address % Bytes == 0;
#else
  const bool ok = address % Bytes == 0;
#endif
  if (__builtin_expect(!ok, 0)) fail_access(address, Bytes, access, site);
#if CUDACPU_RACES
  if (address >> 32 == 0) check_race(address, Bytes, kind, site);
#endif
#if CUDACPU_COUNTS
  count_access(position, address, Bytes, kind, false);
#endif
  return reinterpret_cast<void*>(address);
}

template <class T, int N>
struct Vector {
  T element[N];
};

template <class T, int N = 1>
inline Vector<T, N> load(uint64_t address, const char* access, Site site = Site::here()) {
  const T* p = static_cast<const T*>(checked<sizeof(T) * N>(address, access, site, Access::kRead));
  Vector<T, N> v;
  for (int i = 0; i < N; ++i) v.element[i] = p[i];
  return v;
}

template <class T, class... V>
inline void store(uint64_t address, const char* access, Site site, V... values) {
  T* p = static_cast<T*>(checked<sizeof(T) * sizeof...(V)>(address, access, site, Access::kWrite));
  const T elements[] = {static_cast<T>(values)...};
  for (unsigned i = 0; i < sizeof...(V); ++i) p[i] = elements[i];
}

// volatile, relaxed and acquire loads: a thread may be waiting for another one to store.
template <class T>
inline T load_synchronizing(uint64_t address, const char* access, Site site = Site::here()) {
  T* p = static_cast<T*>(checked<sizeof(T)>(address, access, site, Access::kAtomic));
  spin(site);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

template <class T>
inline void store_synchronizing(uint64_t address, const char* access, T value, Site site = Site::here()) {
  __atomic_store_n(static_cast<T*>(checked<sizeof(T)>(address, access, site, Access::kAtomic)), value,
                   __ATOMIC_RELEASE);
}

// Kernel parameters and function arguments: packed bytes that the program cannot overrun.
template <class T>
inline T load_parameter(const unsigned char* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
inline void store_parameter(unsigned char* p, T value) {
  __builtin_memcpy(p, &value, sizeof value);
}

}  // namespace cudacpu
