// Dense convolution of few input channels, as a net's first layer: a matrix product over K = KH * KW * C whose
// pixel tile is gathered from x, see matrix_tile.cuh. K runs over (i, j, c), so that in NHWC a row of the window is
// contiguous. 3x3 of 3 channels is K = 27: one slice in float16, two in float32.
//
// stem_conv2d_nhwc, _nchw  by the layout of x and y
// stem_conv2d_any          any other strides

#include <cmath>

#include "kernels.h"
#include "matrix_tile.cuh"
#include "matrix_work.h"
#include "work.h"

namespace mbv1::cuda {
namespace {

// 128 pixels x 32 outputs, the width of MobileNet's stem. A thread gathers one pixel.
constexpr int kPixelWarps = 4, kOutputWarps = 1;
constexpr int kThreads = 32 * kPixelWarps * kOutputWarps;

template <class T, Layout kLayout>
using TileFor = std::conditional_t<kLayout == Layout::kNhwc, MatrixTile<T, false, kLayout, kPixelWarps, kOutputWarps>,
                                   MatrixTile<T, false, kLayout, kOutputWarps, kPixelWarps>>;

template <class Tile>
struct StemTraits {
  static constexpr int kElements = Tile::kPixelElements + Tile::kWeightElements;
  static constexpr int kBytes = max_of(kElements * static_cast<int>(sizeof(typename Tile::T)), Tile::kStagingBytes);
  static_assert(Tile::kPixels == kThreads && Tile::kSlice <= kThreads);
  static_assert(Tile::kPixelElements * sizeof(typename Tile::T) % kVectorBytes == 0);
  static_assert(kBytes <= 40 * 1024);  // and offsets
};

// Where one k of the slice lies, relative to a window's first pixel and to an output's weights.
struct Tap {
  int64_t x_offset, weight_offset;
  int32_t i, j;  // i < 0 past the end of K
};

__device__ inline Tap tap_of(int64_t k, const StemConv2dParams& p) {
  const DivMod pixel = divmod(k, p.in_channels), row = divmod(pixel.quotient, p.window.kernel_w);
  const int64_t c = pixel.remainder, j = row.remainder, i = row.quotient;
  if (i >= p.window.kernel_h) return {0, 0, -1, 0};
  return {c * p.x_stride.c + i * p.x_stride.h + j * p.x_stride.w,
          c * p.weight_stride_c + i * p.weight_stride_h + j * p.weight_stride_w, static_cast<int32_t>(i),
          static_cast<int32_t>(j)};
}

template <class T, Layout kLayout>
__global__ void __launch_bounds__(kThreads)
    stem_conv2d_kernel(StemConv2dParams p, Output output, int64_t output_tiles) {
  using Tile = TileFor<T, kLayout>;
  using Traits = StemTraits<Tile>;
  __shared__ __align__(kVectorBytes) unsigned char memory[Traits::kBytes];
  __shared__ Tap taps[Tile::kSlice];
  T* pixels = reinterpret_cast<T*>(memory);
  T* weights = pixels + Tile::kPixelElements;

  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  const DivMod row = divmod(first_pixel + threadIdx.x, p.out_w), image = divmod(row.quotient, p.out_h);
  const bool exists = first_pixel + threadIdx.x < output.pixels;
  const int64_t top = image.remainder * p.window.stride_h - p.window.pad_top;
  const int64_t left = row.remainder * p.window.stride_w - p.window.pad_left;
  const T* x = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n;
  const int64_t corner = top * p.x_stride.h + left * p.x_stride.w;
  const T* weight = static_cast<const T*>(p.weight) + first_output * p.weight_stride_o;
  const int64_t size_k = p.in_channels * p.window.kernel_h * p.window.kernel_w;

  float sums[Tile::kSums] = {};
#pragma unroll 1
  for (int64_t first_k = 0; first_k < size_k; first_k += Tile::kSlice) {
    if (threadIdx.x < Tile::kSlice) taps[threadIdx.x] = tap_of(first_k + threadIdx.x, p);
    __syncthreads();  // the taps are there, and the slice before this one is multiplied
#pragma unroll 1
    for (int k = 0; k < Tile::kSlice; k += Tile::kVec) {
      Pack<T, Tile::kVec> pack;
#pragma unroll
      for (int v = 0; v < Tile::kVec; ++v) {
        const Tap& tap = taps[k + v];
        const bool inside_x = exists && tap.i >= 0 && inside(top + tap.i, p.in_h) && inside(left + tap.j, p.in_w);
        pack[v] = inside_x ? x[corner + tap.x_offset] : from_float<T>(0.f);
      }
      Tile::store_pixel(pixels, threadIdx.x, k, pack);
    }
    for (int e = threadIdx.x; e < Tile::kOutputs * Tile::kSlice; e += kThreads) {
      const int o = e / Tile::kSlice, k = e % Tile::kSlice;
      const bool inside_weight = taps[k].i >= 0 && first_output + o < p.out_channels;
      weights[o * Tile::kRowPitch + k] =
          inside_weight ? weight[o * p.weight_stride_o + taps[k].weight_offset] : from_float<T>(0.f);
    }
    __syncthreads();
    Tile::multiply(sums, pixels, weights);
  }
  Tile::finish(sums, reinterpret_cast<float*>(memory), output, first_pixel, first_output);
}

template <Layout kLayout>
cudaError_t launch(const StemConv2dParams& p, cudaStream_t stream) {
  const Output output{p.bias,
                      nullptr,
                      p.y,
                      Strides4{},
                      p.y_stride,
                      p.bias_stride,
                      p.batch * p.out_h * p.out_w,
                      p.out_channels,
                      p.out_h,
                      p.out_w,
                      p.activation,
                      are_vectors(p.y, p.y_stride, p.out_h, p.out_w, p.dtype, kLayout),
                      false};
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using Tile = TileFor<T, kLayout>;
    const int64_t output_tiles = ceil_div(p.out_channels, Tile::kOutputs);
    const int64_t blocks = output_tiles * ceil_div(output.pixels, Tile::kPixels);
    if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
    stem_conv2d_kernel<T, kLayout><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, output, output_tiles);
    return cudaGetLastError();
  });
}

template <Layout kLayout>
Work work(const StemConv2dParams& p) {
  return work_of_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    using Tile = TileFor<T, kLayout>;
    const double pixels = 1.0 * p.batch * p.out_h * p.out_w, size_k = p.in_channels * taps(p.window);
    const double output_tiles = ceil_div(p.out_channels, Tile::kOutputs), slices = std::ceil(size_k / Tile::kSlice);
    const double blocks = output_tiles * std::ceil(pixels / Tile::kPixels);
    Work work = tile_work<Tile>(blocks, slices, tensor_bytes(p), pixels * p.out_channels * sizeof(T), false,
                                StemTraits<Tile>::kBytes, 1);
    // The windows of a block's pixels meet in L1.
    const double gathered = blocks * slices * Tile::kSlice * Tile::kPixels;
    work.l2_bytes += (covered(p, p.in_channels) * output_tiles * p.window.kernel_h - gathered) * sizeof(T);
    work.instructions += gathered * 12;
    work.round_trips = 1 + 2 * slices;
    return work;
  });
}

bool matches_any(const StemConv2dParams& p) { return has_cuda_kernels(p.dtype); }

template <Layout kLayout>
bool matches(const StemConv2dParams& p) {
  return matches_any(p) && has_layout(p.x_stride, kLayout) && has_layout(p.y_stride, kLayout);
}

Work work_any(const StemConv2dParams& p) {
  return p.y_stride.c == 1 ? work<Layout::kNhwc>(p) : work<Layout::kNchw>(p);
}

cudaError_t launch_any(const StemConv2dParams& p, cudaStream_t stream) {
  return p.y_stride.c == 1 ? launch<Layout::kNhwc>(p, stream) : launch<Layout::kNchw>(p, stream);
}

}  // namespace

KernelTable<Kernel<StemConv2dParams>> stem_conv2d_kernels() {
  static constexpr Kernel<StemConv2dParams> kKernels[] = {
      {"stem_conv2d_nhwc", matches<Layout::kNhwc>, work<Layout::kNhwc>, launch<Layout::kNhwc>},
      {"stem_conv2d_nchw", matches<Layout::kNchw>, work<Layout::kNchw>, launch<Layout::kNchw>},
      {"stem_conv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
