// Integer and bit instructions that nvcc seldom writes by itself.
#include <cstdint>

__global__ void byte_orders(const uint32_t* x, const uint32_t* z, uint32_t* y) {
  const uint32_t i = threadIdx.x, a = x[i], b = z[i];
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y[7 * i]) : "r"(a), "r"(b), "r"(a >> 7));
  asm("prmt.b32.f4e %0, %1, %2, %3;" : "=r"(y[7 * i + 1]) : "r"(a), "r"(b), "r"(i));
  asm("prmt.b32.b4e %0, %1, %2, %3;" : "=r"(y[7 * i + 2]) : "r"(a), "r"(b), "r"(i));
  asm("prmt.b32.rc8 %0, %1, %2, %3;" : "=r"(y[7 * i + 3]) : "r"(a), "r"(b), "r"(i));
  asm("prmt.b32.ecl %0, %1, %2, %3;" : "=r"(y[7 * i + 4]) : "r"(a), "r"(b), "r"(i));
  asm("prmt.b32.ecr %0, %1, %2, %3;" : "=r"(y[7 * i + 5]) : "r"(a), "r"(b), "r"(i));
  asm("prmt.b32.rc16 %0, %1, %2, %3;" : "=r"(y[7 * i + 6]) : "r"(a), "r"(b), "r"(i));
}

__global__ void bit_fields(const uint32_t* x, const uint32_t* z, uint32_t* y) {
  const uint32_t i = threadIdx.x, a = x[i], b = z[i];
  asm("bfe.u32 %0, %1, %2, 9;" : "=r"(y[6 * i]) : "r"(a), "r"(i));
  asm("bfe.s32 %0, %1, %2, 9;" : "=r"(y[6 * i + 1]) : "r"(a), "r"(i));
  asm("bfi.b32 %0, %1, %2, %3, 6;" : "=r"(y[6 * i + 2]) : "r"(a), "r"(b), "r"(i));
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(y[6 * i + 3]) : "r"(a), "r"(b), "r"(i));
  asm("bmsk.clamp.b32 %0, %1, 7;" : "=r"(y[6 * i + 4]) : "r"(i));
  asm("szext.clamp.s32 %0, %1, %2;" : "=r"(y[6 * i + 5]) : "r"(a), "r"(i));
}

__global__ void products(const uint32_t* x, const uint32_t* z, uint32_t* y) {
  const uint32_t i = threadIdx.x, a = x[i], b = z[i];
  y[6 * i] = __umul24(a, b);
  y[6 * i + 1] = __mul24(int(a), int(b));
  asm("mad24.hi.u32 %0, %1, %2, %1;" : "=r"(y[6 * i + 2]) : "r"(a), "r"(b));
  y[6 * i + 3] = __dp2a_lo(int(a), int(b), int(i));
  y[6 * i + 4] = __dp2a_hi(a, b, i);
  y[6 * i + 5] = __umulhi(a, b) + uint32_t(__umul64hi(uint64_t(a) << 20 | b, uint64_t(b) << 31));
}

__global__ void packed_integers(const uint32_t* x, const uint32_t* z, uint32_t* y) {
  const uint32_t i = threadIdx.x, a = x[i], b = z[i];
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %1;" : "=r"(y[5 * i]) : "r"(int(a) >> 22), "r"(int(b) >> 22));
  asm("cvt.pack.sat.s16.s32 %0, %1, %2;" : "=r"(y[5 * i + 1]) : "r"(int(a) >> 12), "r"(int(b) >> 12));
#if __CUDA_ARCH__ >= 900
  asm("add.u16x2 %0, %1, %2;" : "=r"(y[5 * i + 2]) : "r"(a), "r"(b));
  asm("max.s16x2 %0, %1, %2;" : "=r"(y[5 * i + 3]) : "r"(a), "r"(b));
  asm("min.u16x2 %0, %1, %2;" : "=r"(y[5 * i + 4]) : "r"(a), "r"(b));
#endif
}

__global__ void shared_sizes(uint32_t* y) {
  __shared__ volatile uint32_t fixed[25];
  fixed[0] = 1;
  asm("mov.u32 %0, %%total_smem_size;" : "=r"(y[0]));
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(y[1]));
}

__global__ void cache_hints(const float4* x, float4* y) {
  float4 v;
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.f32 {%0,%1,%2,%3}, [%4], %5;"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(x + threadIdx.x), "l"(policy));
  asm volatile("prefetch.global.L2 [%0];" ::"l"(x));
  __stcs(y + threadIdx.x, v);
}
