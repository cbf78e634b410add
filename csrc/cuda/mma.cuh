// Warp-level instructions of the matrix kernels: asynchronous copies, ldmatrix, mma.sync.
//
// A step of a warp multiplies 32 bytes of K: m16n8k16 for 2-byte types, m16n8k8 for TF32. ldmatrix moves 8x8
// matrices of 2-byte elements, that is 8 rows of 16 bytes, and hands each lane 4 bytes of row lane / 4: just the
// fragment that mma wants, for TF32 too. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 / .m16n8k8".
#pragma once

#include <type_traits>

#include "numeric.cuh"

namespace mbv1::cuda {

// sm_75 multiplies float16 only, and has no asynchronous copy.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kIsAmpere = false;
#else
constexpr bool kIsAmpere = true;
#endif

// Shared memory of an SM of the architecture that is compiled for, as far as it has a say in a kernel's registers.
#if !defined(__CUDA_ARCH__) || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200)
constexpr int kSmSharedBytes = 228 * 1024;
#elif __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870
constexpr int kSmSharedBytes = 164 * 1024;
#elif __CUDA_ARCH__ < 800
constexpr int kSmSharedBytes = 64 * 1024;
#else
constexpr int kSmSharedBytes = 100 * 1024;
#endif

template <class T, bool kTf32>
constexpr bool kHasMma = std::is_same_v<T, __half> || (kIsAmpere && (kTf32 || std::is_same_v<T, __nv_bfloat16>));

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies the first `count` elements of a 16-byte vector to shared memory, where they arrive by the wait_async that
// covers their commit, and fills it up with zeros. `from` is aligned even where nothing is read.
template <class T>
__device__ void copy_async(T* to, const T* from, int count) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(count * static_cast<int>(sizeof(T)))
               : "memory");
#else
  Pack<T, kVectorSize<T> > pack;
  if (count == kVectorSize<T>) {
    pack = load_pack<kVectorSize<T> >(from);
  } else {
#pragma unroll
    for (int v = 0; v < kVectorSize<T>; ++v) pack[v] = v < count ? from[v] : from_float<T>(0.f);
  }
  store_pack(to, pack);
#endif
}

// copy_async of 4, 8 or 16 bytes that lie at a multiple of that, or of zeros: a predicate, where a number of elements
// takes five instructions. With `kKeepInL1` what neighbouring threads share is found there; fewer than 16 bytes
// always pass it.
template <int kBytes = kVectorBytes, bool kKeepInL1 = false>
__device__ void copy_word_async(void* to, const void* from, bool exists) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = shared_address(to);
  const int bytes = exists ? kBytes : 0;
  if constexpr (kKeepInL1 || kBytes < kVectorBytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes), "r"(bytes)
                 : "memory");
  }
#else
  using Word = std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 8, uint2, uint4> >;
  *static_cast<Word*>(to) = exists ? *static_cast<const Word*>(from) : Word{};
#endif
}

__device__ inline void commit_async() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's newest groups are under way.
template <int kPending>
__device__ inline void wait_async() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Four matrices; lane 8 q + r gives the address of row r of matrix q.
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// Rounds to nearest: mma itself would cut the low bits off, which doubles the error and biases it.
__device__ inline uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// sums += a * b, of 16 x 32 bytes and 32 bytes x 8.
template <class T>
__device__ void mma(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void mma<__half>(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

template <>
__device__ inline void mma<__nv_bfloat16>(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void mma<float>(float* sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace mbv1::cuda
