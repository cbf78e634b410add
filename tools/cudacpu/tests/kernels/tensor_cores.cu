// mma.sync through fragments filled element by element, ldmatrix and cp.async.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

template <class T>
__device__ uint32_t pair(T low, T high) {
  return uint32_t(*reinterpret_cast<uint16_t*>(&high)) << 16 | *reinterpret_cast<uint16_t*>(&low);
}

// A is 16 x K row by row, B is K x 8 column by column (as B[n][k]).
#define MMA_16BIT_K16(NAME, TYPE, PTX)                                                          \
  __global__ void NAME(const TYPE* a, const TYPE* b, const float* c, float* d) {                \
    const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;                                     \
    uint32_t fa[4], fb[2];                                                                      \
    for (int i = 0; i < 4; ++i) {                                                               \
      const TYPE* p = a + (g + i % 2 * 8) * 16 + t + i / 2 * 8;                                 \
      fa[i] = pair(p[0], p[1]);                                                                 \
    }                                                                                           \
    for (int i = 0; i < 2; ++i) fb[i] = pair(b[g * 16 + t + i * 8], b[g * 16 + t + i * 8 + 1]); \
    float f[4] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};  \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." PTX "." PTX                           \
                 ".f32 {%0,%1,%2,%3}, "                                                         \
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                       \
                 : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])                               \
                 : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));     \
    d[g * 8 + t] = f[0];                                                                        \
    d[g * 8 + t + 1] = f[1];                                                                    \
    d[(g + 8) * 8 + t] = f[2];                                                                  \
    d[(g + 8) * 8 + t + 1] = f[3];                                                              \
  }
#if __CUDA_ARCH__ >= 800
MMA_16BIT_K16(mma_f16_k16, __half, "f16")
MMA_16BIT_K16(mma_bf16_k16, __nv_bfloat16, "bf16")
#endif

__global__ void mma_f16_k8(const __half* a, const __half* b, const float* c, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  const uint32_t a0 = pair(a[g * 8 + t], a[g * 8 + t + 1]);
  const uint32_t a1 = pair(a[(g + 8) * 8 + t], a[(g + 8) * 8 + t + 1]);
  const uint32_t b0 = pair(b[g * 8 + t], b[g * 8 + t + 1]);
  float f[4] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
               : "r"(a0), "r"(a1), "r"(b0));
  d[g * 8 + t] = f[0];
  d[g * 8 + t + 1] = f[1];
  d[(g + 8) * 8 + t] = f[2];
  d[(g + 8) * 8 + t + 1] = f[3];
}

#if __CUDA_ARCH__ >= 800
__global__ void mma_tf32_k8(const float* a, const float* b, const float* c, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i)
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fa[i]) : "f"(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]));
  for (int i = 0; i < 2; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fb[i]) : "f"(b[g * 8 + t + i * 4]));
  float f[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t], c[(g + 8) * 8 + 2 * t + 1]};
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
      : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  d[g * 8 + 2 * t] = f[0];
  d[g * 8 + 2 * t + 1] = f[1];
  d[(g + 8) * 8 + 2 * t] = f[2];
  d[(g + 8) * 8 + 2 * t + 1] = f[3];
}
#endif

#if __CUDA_ARCH__ >= 800
// Half accumulators; A comes through cp.async and ldmatrix, B through ldmatrix.trans from B[k][n].
__global__ void mma_f16_accumulate(const __half* a, const __half* b, __half* d) {
  __shared__ __align__(16) __half tile_a[16 * 16], tile_b[16 * 8];
  const int l = threadIdx.x;
  const uint32_t shared_a = __cvta_generic_to_shared(tile_a), shared_b = __cvta_generic_to_shared(tile_b);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_a + l * 16), "l"(a + l * 8));
  if (l < 16)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared_b + l * 16), "l"(b + l * 8));
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
  __syncwarp();
  uint32_t fa[4], fb[2], f[2] = {0, 0};
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
               : "r"(shared_a + ((l & 15) * 16 + (l >> 4) * 8) * 2)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(fb[0]), "=r"(fb[1])
               : "r"(shared_b + (l & 15) * 16)
               : "memory");
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
               : "+r"(f[0]), "+r"(f[1])
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  const int g = l / 4, t = l % 4;
  reinterpret_cast<uint32_t*>(d)[g * 4 + t] = f[0];
  reinterpret_cast<uint32_t*>(d)[(g + 8) * 4 + t] = f[1];
}
#endif

// Every form of ldmatrix from 32 rows of 8; results in the order of the registers.
__global__ void load_matrices(const __half* x, uint32_t* y) {
  __shared__ __align__(16) __half tile[32 * 8];
  const int l = threadIdx.x;
  *reinterpret_cast<uint4*>(tile + l * 8) = *reinterpret_cast<const uint4*>(x + l * 8);
  __syncwarp();
  const uint32_t row = __cvta_generic_to_shared(tile + l * 8);
  uint32_t* r = y + l * 14;
#define LOAD(FORM, COUNT, REGISTERS, ...)                                                     \
  asm volatile("ldmatrix.sync.aligned.m8n8." FORM ".shared.b16 {" REGISTERS "}, [" COUNT "];" \
               : __VA_ARGS__                                                                  \
               : "r"(row)                                                                     \
               : "memory")
  LOAD("x1", "%1", "%0", "=r"(r[0]));
  LOAD("x1.trans", "%1", "%0", "=r"(r[1]));
  LOAD("x2", "%2", "%0,%1", "=r"(r[2]), "=r"(r[3]));
  LOAD("x2.trans", "%2", "%0,%1", "=r"(r[4]), "=r"(r[5]));
  LOAD("x4", "%4", "%0,%1,%2,%3", "=r"(r[6]), "=r"(r[7]), "=r"(r[8]), "=r"(r[9]));
  LOAD("x4.trans", "%4", "%0,%1,%2,%3", "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]));
#undef LOAD
}

#if __CUDA_ARCH__ >= 800
__global__ void mma_bf16_k8(const __nv_bfloat16* a, const __nv_bfloat16* b, const float* c, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  const uint32_t a0 = pair(a[g * 8 + t], a[g * 8 + t + 1]);
  const uint32_t a1 = pair(a[(g + 8) * 8 + t], a[(g + 8) * 8 + t + 1]);
  const uint32_t b0 = pair(b[g * 8 + t], b[g * 8 + t + 1]);
  float f[4] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
      : "r"(a0), "r"(a1), "r"(b0));
  d[g * 8 + t] = f[0];
  d[g * 8 + t + 1] = f[1];
  d[(g + 8) * 8 + t] = f[2];
  d[(g + 8) * 8 + t + 1] = f[3];
}

// A ring of three stages; the last `pad` floats of each stage are filled with zeros.
__global__ void staged_copies(const float4* x, float4* y, int stages, int pad) {
  __shared__ float4 ring[3][32];
  const int l = threadIdx.x;
  auto fetch = [&](int stage) {
    const uint32_t to = __cvta_generic_to_shared(&ring[stage % 3][l]);
    const int bytes = min(max((128 - pad - l * 4) * 4, 0), 16);
    if (stage < stages)
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                   "l"(x + stage * 32 + l), "r"(bytes));
    asm volatile("cp.async.commit_group;");
  };
  fetch(0);
  fetch(1);
  for (int stage = 0; stage < stages; ++stage) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    y[stage * 32 + l] = ring[stage % 3][31 - l];
    fetch(stage + 2);
  }
}
#endif
