// Asynchronous copies to shared memory of what may end, or lie outside a tensor; see wait_async in mma.cuh.
#pragma once

#include "mma.cuh"
#include "numeric.cuh"

namespace mbv1::cuda {

// 16 bytes to shared memory, or zeros; the columns that neighbours share stay in L1.
__device__ inline void copy_async_or_zero(void* to, const void* from, bool exists) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(exists ? kVectorBytes : 0)
               : "memory");
#else
  *static_cast<uint4*>(to) = exists ? *static_cast<const uint4*>(from) : uint4{};
#endif
}

// Elements [first, first + length) of a tensor that starts with a whole vector, as its vectors cover them.
template <class T>
struct Run {
  static constexpr int kVec = kVectorSize<T>;
  int64_t first;
  int length;

  __device__ int shift() const { return static_cast<int>(first & (kVec - 1)); }
  __device__ int vectors() const { return (shift() + length + kVec - 1) / kVec; }
};

inline bool is_dense_nchw(const void* data, const Strides4& stride, int64_t channels, int64_t h, int64_t w) {
  return is_aligned(data) && stride.w == 1 && stride.h == w && stride.c == h * w && stride.n == channels * h * w;
}

}  // namespace mbv1::cuda
