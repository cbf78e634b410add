// Dense convolution of few input channels, as a net's first layer: the table, and the kernel that takes any window,
// strides and alignment. Those of MobileNet's own first layer are in stem_conv2d_k3s2.cu.
//
// stem_conv2d_any  A thread makes 8 channels of a pixel, so that a value of x serves 8 FMA. Weights and the places of
//                  x go through shared memory, kSlice of K = KH * KW * C at a time, and 8 values of x are under way.

#include <algorithm>
#include <cmath>

#include "numeric.cuh"
#include "stem_conv2d.h"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kThreads = 128, kOutputs = 8, kSlice = 32, kAtOnce = 8;

// Where one k of the slice lies, relative to a window's first pixel.
struct Tap {
  int64_t x_offset;
  int32_t i, j;  // i < 0 past the end of K
};

template <class T>
__global__ void __launch_bounds__(kThreads, 5) stem_conv2d_any_kernel(StemConv2dParams p, int64_t groups) {
  __shared__ Tap taps[kSlice];
  __shared__ __align__(kVectorBytes) float weights[kSlice][kOutputs];

  const DivMod block = divmod(blockIdx.x, groups);
  const int64_t first_output = block.remainder * kOutputs, pixel = block.quotient * kThreads + threadIdx.x;
  const DivMod row = divmod(pixel, p.out_w), image = divmod(row.quotient, p.out_h);
  const bool exists = image.quotient < p.batch;
  const int64_t top = image.remainder * p.window.stride_h - p.window.pad_top;
  const int64_t left = row.remainder * p.window.stride_w - p.window.pad_left;
  const T* x = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n + top * p.x_stride.h + left * p.x_stride.w;
  const int64_t size_k = p.in_channels * p.window.kernel_h * p.window.kernel_w;

  float sums[1][kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const bool has_bias = p.bias != nullptr && first_output + o < p.out_channels;
    sums[0][o] = has_bias ? to_float(static_cast<const T*>(p.bias)[(first_output + o) * p.bias_stride]) : 0.f;
  }
#pragma unroll 1
  for (int64_t first_k = 0; first_k < size_k; first_k += kSlice) {
    __syncthreads();  // the slice before this one is multiplied
    for (int e = threadIdx.x; e < kSlice * kOutputs; e += kThreads) {
      const int o = e / kSlice, k = e % kSlice;
      const DivMod column = divmod(first_k + k, p.in_channels), tap = divmod(column.quotient, p.window.kernel_w);
      const int64_t c = column.remainder, j = tap.remainder, i = tap.quotient;
      const bool has_tap = first_k + k < size_k;
      if (o == 0) {
        taps[k] = {c * p.x_stride.c + i * p.x_stride.h + j * p.x_stride.w, has_tap ? static_cast<int32_t>(i) : -1,
                   static_cast<int32_t>(j)};
      }
      const T* weight = static_cast<const T*>(p.weight) + (first_output + o) * p.weight_stride_o +
                        c * p.weight_stride_c + i * p.weight_stride_h + j * p.weight_stride_w;
      weights[k][o] = has_tap && first_output + o < p.out_channels ? to_float(*weight) : 0.f;
    }
    __syncthreads();
    const int size = static_cast<int>(min(static_cast<int64_t>(kSlice), size_k - first_k));
#pragma unroll 1
    for (int first = 0; first < size; first += kAtOnce) {
      float values[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const Tap& tap = taps[first + k];
        const bool inside_x = exists && tap.i >= 0 && inside(top + tap.i, p.in_h) && inside(left + tap.j, p.in_w);
        values[k] = inside_x ? to_float(x[tap.x_offset]) : 0.f;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[0][o] = fmaf(weights[first + k][o], values[k], sums[0][o]);
      }
    }
  }
  if (!exists) return;
  activate(sums, p.activation);
  T* y = static_cast<T*>(p.y) + image.quotient * p.y_stride.n + image.remainder * p.y_stride.h +
         row.remainder * p.y_stride.w + first_output * p.y_stride.c;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    if (first_output + o < p.out_channels) y[o * p.y_stride.c] = from_float<T>(sums[0][o]);
  }
}

bool matches_any(const StemConv2dParams& p) { return has_cuda_kernels(p.dtype); }

int64_t groups_of(const StemConv2dParams& p) { return ceil_div(p.out_channels, kOutputs); }

int64_t blocks_of(const StemConv2dParams& p) {
  return groups_of(p) * ceil_div(p.batch * p.out_h * p.out_w, kThreads);
}

Work work_any(const StemConv2dParams& p) {
  const double bytes = element_bytes(p.dtype), size_k = p.in_channels * taps(p.window);
  const double slices = std::ceil(size_k / kSlice), multiplied = std::ceil(size_k / kAtOnce) * kAtOnce;
  const double pixels = 1.0 * p.batch * p.out_h * p.out_w, y_bytes = pixels * p.out_channels * bytes;
  Work work{};
  work.blocks = blocks_of(p);
  const double threads = 1.0 * work.blocks * kThreads, warps = threads / 32;
  work.threads = kThreads, work.registers = 96, work.shared_bytes = kSlice * (sizeof(Tap) + kOutputs * sizeof(float));
  work.dram_bytes = tensor_bytes(p);
  // The windows of a block's pixels meet in L1.
  work.l2_bytes =
      covered(p, p.in_channels) * groups_of(p) * bytes + y_bytes + work.blocks * size_k * kOutputs * bytes;
  // Per k a warp reads x, its place (16 bytes a lane that all share) and 8 weights.
  work.l1_bytes = threads * size_k * bytes + y_bytes + warps * multiplied * (3 * 4 * 128);
  work.ffma = threads * multiplied * kOutputs;
  work.instructions = work.ffma + threads * (multiplied * 20 + slices * 150 + 200);
  work.round_trips = slices * (1 + kSlice / kAtOnce);
  return work;
}

cudaError_t launch_any(const StemConv2dParams& p, cudaStream_t stream) {
  const int64_t blocks = blocks_of(p);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    stem_conv2d_any_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, groups_of(p));
    return cudaGetLastError();
  });
}

}  // namespace

KernelTable<Kernel<StemConv2dParams>> stem_conv2d_kernels() {
  static constexpr Kernel<StemConv2dParams> kKernels[] = {
      {"stem_conv2d_nhwc_k3s2", matches_stem_k3s2<true>, work_stem_k3s2<true>, launch_stem_k3s2<true>},
      {"stem_conv2d_nchw_k3s2", matches_stem_k3s2<false>, work_stem_k3s2<false>, launch_stem_k3s2<false>},
      {"stem_conv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
