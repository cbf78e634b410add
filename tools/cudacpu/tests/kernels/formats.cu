// Number formats: conversions, comparisons and approximate functions, NaN and infinity included.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

__device__ int global_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

template <class Pair>
__device__ uint32_t masks(Pair a, Pair b) {
  return (__heq2_mask(a, b) & 0x00010001u) | (__hlt2_mask(a, b) & 0x00020002u) |
         (__hgtu2_mask(a, b) & 0x00040004u) | (__hneu2_mask(a, b) & 0x00080008u) |
         (__hbge2(a, b) ? 0x10u : 0) | (__hbequ2(a, b) ? 0x20u : 0);
}
__global__ void half_masks(const __half2* x, const __half2* z, uint32_t* y) {
  y[global_index()] = masks(x[global_index()], z[global_index()]);
}
__global__ void bfloat_masks(const __nv_bfloat162* x, const __nv_bfloat162* z, uint32_t* y) {
  y[global_index()] = masks(x[global_index()], z[global_index()]);
}

__global__ void unordered_pairs(const __half2* x, const __half2* z, __half2* y) {
  const __half2 a = x[global_index()], b = z[global_index()];
  y[global_index()] = __hadd2(__hadd2(__hequ2(a, b), __hltu2(a, b)), __hadd2(__hisnan2(a), __heq2(a, b)));
}

__global__ void float_bounds(const float* x, const float* z, float* y) {
  const int i = global_index();
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y[4 * i]) : "f"(x[i]), "f"(z[i]));
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y[4 * i + 1]) : "f"(x[i]), "f"(z[i]));
  y[4 * i + 2] = fminf(x[i], z[i]);
  y[4 * i + 3] = fmaxf(x[i], z[i]);
}

template <class Pair>
__device__ void pair_bounds(const Pair* x, const Pair* z, Pair* y) {
  const int i = global_index();
  y[4 * i] = __hmin2_nan(x[i], z[i]);
  y[4 * i + 1] = __hmax2_nan(x[i], z[i]);
  y[4 * i + 2] = __hmin2(x[i], z[i]);
  y[4 * i + 3] = __hmax2(x[i], z[i]);
}
__global__ void half_bounds(const __half2* x, const __half2* z, __half2* y) { pair_bounds(x, z, y); }
__global__ void bfloat_bounds(const __nv_bfloat162* x, const __nv_bfloat162* z, __nv_bfloat162* y) {
  pair_bounds(x, z, y);
}

__global__ void to_half(const float* x, __half* y) {
  const int i = global_index();
  y[4 * i] = __float2half_rz(x[i]);
  y[4 * i + 1] = __float2half_rd(x[i]);
  y[4 * i + 2] = __float2half_ru(x[i]);
  y[4 * i + 3] = __float2half_rn(x[i]);
}

__global__ void to_bfloat(const float* x, __nv_bfloat16* y) {
  const int i = global_index();
  y[2 * i] = __float2bfloat16_rz(x[i]);
  y[2 * i + 1] = __float2bfloat16_rn(x[i]);
}

__global__ void to_pairs(const float2* x, uint32_t* y) {
  const int i = global_index();
  const float2 v = __ldg(x + i);
  const __half2 half = __floats2half2_rn(v.x, v.y);
  const __nv_bfloat162 bfloat = __floats2bfloat162_rn(v.x, v.y);
  y[3 * i] = *reinterpret_cast<const uint32_t*>(&half);
  y[3 * i + 1] = *reinterpret_cast<const uint32_t*>(&bfloat);
  asm("cvt.rz.bf16x2.f32 %0, %1, %2;" : "=r"(y[3 * i + 2]) : "f"(v.y), "f"(v.x));
}

__global__ void to_tf32(const float* x, uint32_t* y) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y[global_index()]) : "f"(x[global_index()]));
}

__global__ void to_integers(const float* x, int* y) {
  const int i = global_index();
  const __half h = __float2half(x[i]);
  y[8 * i] = __float2int_rn(x[i]);
  y[8 * i + 1] = __float2int_rd(x[i]);
  y[8 * i + 2] = __float2uint_ru(x[i]);
  y[8 * i + 3] = __half2int_rz(h);
  y[8 * i + 4] = __half2short_rn(h);
  y[8 * i + 5] = __float2ll_rz(x[i]) >> 8;
  y[8 * i + 6] = __double2int_rn(double(x[i]));
  asm("{.reg.b32 t;cvt.rni.sat.s8.f32 t, %1;mov.b32 %0,t;}" : "=r"(y[8 * i + 7]) : "f"(x[i]));
}

__global__ void approximate(const float* x, float* y) {
  const int i = global_index();
  asm("tanh.approx.f32 %0, %1;" : "=f"(y[4 * i]) : "f"(x[i]));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y[4 * i + 1]) : "f"(x[i]));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y[4 * i + 2]) : "f"(x[i]));
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y[4 * i + 3]) : "f"(x[i]));
}

__global__ void half_functions(const __half* x, __half* y) {
  const int i = global_index();
  const __half a = __habs(x[i]);
  y[8 * i] = hexp(x[i]);
  y[8 * i + 1] = hlog(a);
  y[8 * i + 2] = hsqrt(a);
  y[8 * i + 3] = hrsqrt(a);
  y[8 * i + 4] = __hdiv(x[i], __float2half(3.f));
  y[8 * i + 5] = __hfma_sat(x[i], x[i], a);
  y[8 * i + 6] = __hfma_relu(x[i], a, x[i]);
  y[8 * i + 7] = hrint(__hmul(x[i], __float2half(9.f)));
}
