// Runs of a tensor's elements, as whole vectors are copied to shared memory (copy_async in mma.cuh).
#pragma once

#include "mma.cuh"
#include "numeric.cuh"

namespace mbv1::cuda {

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
