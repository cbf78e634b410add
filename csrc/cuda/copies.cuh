// Runs of a tensor's elements, as whole vectors are copied to shared memory (copy_async in mma.cuh), and stores
// there.
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

// One store to shared memory: the compiler would store the elements of a pack in registers one by one.
template <class T, int kSize>
__device__ void store_word(T* to, const Pack<T, kSize>& pack) {
  if constexpr (sizeof(pack) == 16) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(bits.x), "r"(bits.y),
                 "r"(bits.z), "r"(bits.w)
                 : "memory");
  } else if constexpr (sizeof(pack) == 8) {
    uint2 bits;
    memcpy(&bits, &pack, sizeof(bits));
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(shared_address(to)), "r"(bits.x), "r"(bits.y) : "memory");
  } else if constexpr (sizeof(pack) == 4 && kSize == 2) {
    uint32_t bits;
    memcpy(&bits, &pack, sizeof(bits));
    *reinterpret_cast<uint32_t*>(to) = bits;
  } else {
    store_pack(to, pack);
  }
}

inline bool is_dense_nchw(const void* data, const Strides4& stride, int64_t channels, int64_t h, int64_t w) {
  return is_aligned(data) && stride.w == 1 && stride.h == w && stride.c == h * w && stride.n == channels * h * w;
}

}  // namespace mbv1::cuda
