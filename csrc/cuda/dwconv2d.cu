// Depthwise convolution: the table, and the kernels of NHWC that take any alignment, stride and dilation. Those of
// the net's windows are in dwconv2d_nhwc.cuh and dwconv2d_nchw.cuh, the general one of NCHW in
// dwconv2d_nchw_tiles.cu.
//
// dwconv2d_nhwc_k*  A thread makes kStrip neighbours along W of one vector of channels, so that each weight vector
//                   read from shared memory serves kStrip outputs. 3x3 does 9 FMA an element of 2 or 4 bytes: it is
//                   bound by memory, and the 9 reads of an input meet in L1.
// dwconv2d_any      Any strides and window, one thread an output.

#include <algorithm>
#include <cmath>

#include "dwconv2d.h"
#include "numeric.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kThreads = 128;

// ---- NHWC ----

constexpr int kStrip = 4;

template <class T, int kKernel, int kVec>
struct NhwcTraits {
  // 8 vectors of 16 bytes, or 32 scalars: what a warp reads of a pixel is two to four full 32-byte sectors.
  static constexpr int kMaxLanes = kVec == 1 ? 32 : 8;
  static constexpr int kMaxChannels = kMaxLanes * kVec;
  static constexpr int kTaps = kKernel * kKernel;
  static_assert(kThreads % kMaxLanes == 0);
  static_assert(kTaps * kMaxChannels * sizeof(T) <= 48 * 1024);
};

struct NhwcGrid {
  int log2_lanes;
  int64_t channel_groups, strips_per_row, strips;
};

template <class T, int kKernel, int kVec>
__global__ void __launch_bounds__(kThreads) dwconv2d_nhwc_kernel(DwConv2dParams p, NhwcGrid grid) {
  using Traits = NhwcTraits<T, kKernel, kVec>;
  constexpr int kTaps = Traits::kTaps;
  __shared__ __align__(kVectorBytes) T weights[kTaps * Traits::kMaxChannels];  // [tap][channel]

  const DivMod block = divmod(blockIdx.x, grid.channel_groups);
  const int channels = kVec << grid.log2_lanes;
  const int64_t first_channel = block.remainder * channels;
  // Neighbouring threads follow the taps of a channel, which is how (C, 1, KH, KW) lies in memory.
  for (int e = threadIdx.x; e < channels * kTaps; e += kThreads) {
    const int channel = e / kTaps, tap = e % kTaps;
    if (first_channel + channel < p.channels) {
      weights[tap * channels + channel] =
          static_cast<const T*>(p.weight)[(first_channel + channel) * p.weight_stride_c +
                                          tap / kKernel * p.weight_stride_h + tap % kKernel * p.weight_stride_w];
    }
  }
  __syncthreads();

  const int lane = threadIdx.x & ((1 << grid.log2_lanes) - 1);
  const int64_t channel = first_channel + lane * kVec;
  const int64_t strip = block.quotient * (kThreads >> grid.log2_lanes) + (threadIdx.x >> grid.log2_lanes);
  if (channel >= p.channels || strip >= grid.strips) return;
  const DivMod row = divmod(strip, grid.strips_per_row);
  const DivMod image = divmod(row.quotient, p.out_h);
  const int ow = static_cast<int>(row.remainder) * kStrip;
  const int oh = static_cast<int>(image.remainder);

  float sums[kStrip][kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[(channel + v) * p.bias_stride]) : 0.f;
#pragma unroll
    for (int s = 0; s < kStrip; ++s) sums[s][v] = bias;
  }

  const T* x = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n + channel;
  const int in_h = static_cast<int>(p.in_h), in_w = static_cast<int>(p.in_w);
  const int top = oh * p.window.stride_h - p.window.pad_top;
  const int left = ow * p.window.stride_w - p.window.pad_left;
  // The rows of the larger windows stay a loop: unrolled, 7x7 is 1568 FMA and no longer fits the instruction cache.
#pragma unroll(kKernel <= 3 ? kKernel : 1)
  for (int i = 0; i < kKernel; ++i) {
    const int ih = top + i * p.window.dilation_h;
    if (!inside(ih, in_h)) continue;
    const T* x_row = x + ih * p.x_stride.h;
#pragma unroll
    for (int j = 0; j < kKernel; ++j) {
      const auto weight = load_pack<kVec>(weights + (i * kKernel + j) * channels + lane * kVec);
#pragma unroll
      for (int s = 0; s < kStrip; ++s) {
        const int iw = left + s * p.window.stride_w + j * p.window.dilation_w;
        if (!inside(iw, in_w)) continue;
        const auto pixel = load_pack<kVec>(x_row + iw * p.x_stride.w);
#pragma unroll
        for (int v = 0; v < kVec; ++v) sums[s][v] = fmaf(to_float(weight[v]), to_float(pixel[v]), sums[s][v]);
      }
    }
  }

  T* y = static_cast<T*>(p.y) + image.quotient * p.y_stride.n + oh * p.y_stride.h + channel;
#pragma unroll
  for (int s = 0; s < kStrip; ++s) {
    if (ow + s >= p.out_w) break;
    Pack<T, kVec> pack;
#pragma unroll
    for (int v = 0; v < kVec; ++v) pack[v] = from_float<T>(activate(sums[s][v], p.activation));
    store_pack(y + (ow + s) * p.y_stride.w, pack);
  }
}

NhwcGrid nhwc_grid(const DwConv2dParams& p, int vec) {
  const int most_lanes = vec == 1 ? 32 : 8;
  NhwcGrid grid{};
  while ((1 << grid.log2_lanes) < most_lanes && (vec << grid.log2_lanes) < p.channels) ++grid.log2_lanes;
  grid.channel_groups = ceil_div(p.channels, vec << grid.log2_lanes);
  grid.strips_per_row = ceil_div(p.out_w, kStrip);
  grid.strips = p.batch * p.out_h * grid.strips_per_row;
  return grid;
}

int64_t nhwc_blocks(const NhwcGrid& grid) {
  return grid.channel_groups * ceil_div(grid.strips, kThreads >> grid.log2_lanes);
}

template <class T, int kKernel, int kVec>
cudaError_t launch_nhwc_as(const DwConv2dParams& p, cudaStream_t stream) {
  const NhwcGrid grid = nhwc_grid(p, kVec);
  const int64_t blocks = nhwc_blocks(grid);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  dwconv2d_nhwc_kernel<T, kKernel, kVec><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, grid);
  return cudaGetLastError();
}

template <int kKernel>
bool matches_nhwc(const DwConv2dParams& p) {
  return is_square(p, kKernel) && p.x_stride.c == 1 && p.y_stride.c == 1;
}

bool nhwc_vectors(const DwConv2dParams& p) {
  return p.channels % vector_size(p.dtype) == 0 && channels_are_vectors(p.x, p.x_stride, p.dtype) &&
         channels_are_vectors(p.y, p.y_stride, p.dtype);
}

template <int kKernel>
Work work_nhwc(const DwConv2dParams& p) {
  const int vec = nhwc_vectors(p) ? vector_size(p.dtype) : 1;
  const NhwcGrid grid = nhwc_grid(p, vec);
  const double bytes = element_bytes(p.dtype), macs = outputs(p) * taps(p.window);
  const int channels = vec << grid.log2_lanes;
  // A block makes strips that follow each other along W; its rows of x meet in L1.
  const double pixels = (kThreads >> grid.log2_lanes) * kStrip, rows = std::ceil(pixels / p.out_w);
  const double in_rows = (rows - 1) * p.window.stride_h + kKernel;
  const double in_columns = std::min<double>(p.in_w, pixels * p.window.stride_w + kKernel - 1);
  Work work{};
  work.blocks = nhwc_blocks(grid);
  work.threads = kThreads, work.registers = 80, work.shared_bytes = kKernel * kKernel * channels * bytes;
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = (work.blocks * in_rows * in_columns * channels + outputs(p)) * bytes;
  work.l1_bytes = (macs + macs / kStrip + outputs(p)) * bytes;
  work.ffma = macs;
  // An FMA has its share of a load, bounds and conversions; a thread its place and its share of the weights.
  work.instructions =
      (bytes == 2 ? macs * (2.6 + 0.8 * conversions(p.dtype)) + outputs(p) * 15 : macs * 2.3 + outputs(p) * 22) +
      work.blocks * kThreads * 200.;
  work.round_trips = 1 + kKernel;  // the weights, then row by row
  return work;
}

template <int kKernel>
cudaError_t launch_nhwc(const DwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return nhwc_vectors(p) ? launch_nhwc_as<T, kKernel, kVectorSize<T>>(p, stream)
                           : launch_nhwc_as<T, kKernel, 1>(p, stream);
  });
}

// ---- NCHW ----

// What the kernels of planes take they copy and store 16 bytes at a time. By the model alone the general ones would
// run at batch 1 where the planes' larger blocks are shared out less evenly: 112 x 112 of 32 channels in float32, on
// A100, at a predicted 3.1 us against 3.2.
template <int kKernel>
bool matches_nchw_others(const DwConv2dParams& p) {
  return matches_nchw<kKernel>(p) && !matches_nchw_planes<kKernel, 1>(p) && !matches_nchw_planes<kKernel, 2>(p);
}

// ---- any ----

template <class T>
__global__ void __launch_bounds__(kThreads) dwconv2d_any_kernel(DwConv2dParams p, int64_t outputs) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= outputs) return;
  // Neighbouring threads follow the output's memory: channels of NHWC, pixels of NCHW.
  int64_t n, c, oh, ow;
  if (p.y_stride.c == 1) {
    const DivMod pixel = divmod(index, p.channels), row = divmod(pixel.quotient, p.out_w);
    const DivMod image = divmod(row.quotient, p.out_h);
    c = pixel.remainder, ow = row.remainder, oh = image.remainder, n = image.quotient;
  } else {
    const DivMod row = divmod(index, p.out_w), plane = divmod(row.quotient, p.out_h);
    const DivMod image = divmod(plane.quotient, p.channels);
    ow = row.remainder, oh = plane.remainder, c = image.remainder, n = image.quotient;
  }
  const T* x = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  const T* weight = static_cast<const T*>(p.weight) + c * p.weight_stride_c;
  const int64_t top = oh * p.window.stride_h - p.window.pad_top;
  const int64_t left = ow * p.window.stride_w - p.window.pad_left;
  float sum = p.bias ? to_float(static_cast<const T*>(p.bias)[c * p.bias_stride]) : 0.f;
  for (int i = 0; i < p.window.kernel_h; ++i) {
    const int64_t ih = top + static_cast<int64_t>(i) * p.window.dilation_h;
    if (!inside(ih, p.in_h)) continue;
    for (int j = 0; j < p.window.kernel_w; ++j) {
      const int64_t iw = left + static_cast<int64_t>(j) * p.window.dilation_w;
      if (!inside(iw, p.in_w)) continue;
      sum = fmaf(to_float(weight[i * p.weight_stride_h + j * p.weight_stride_w]),
                 to_float(x[ih * p.x_stride.h + iw * p.x_stride.w]), sum);
    }
  }
  static_cast<T*>(p.y)[n * p.y_stride.n + c * p.y_stride.c + oh * p.y_stride.h + ow * p.y_stride.w] =
      from_float<T>(activate(sum, p.activation));
}

bool matches_any(const DwConv2dParams& p) { return has_cuda_kernels(p.dtype); }

Work work_any(const DwConv2dParams& p) {
  const double bytes = element_bytes(p.dtype), macs = outputs(p) * taps(p.window);
  // Sectors of 32 bytes, which neighbouring threads share where their elements are neighbours. Those of channels are
  // as far apart in the weights as their windows are large; those of pixels are the same.
  const bool by_channels = p.y_stride.c == 1;
  const double sector = (by_channels ? p.x_stride.c : p.x_stride.w) == 1 ? bytes : 32;
  const double weight_sector = by_channels ? std::min(32.0, taps(p.window) * bytes) : bytes;
  Work work{};
  work.blocks = ceil_div(p.batch * p.channels * p.out_h * p.out_w, kThreads);
  work.threads = kThreads, work.registers = 64, work.shared_bytes = 0;
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = covered(p, p.channels) * sector * std::max(1.0, taps(p.window) / 3) + outputs(p) * bytes;
  work.l1_bytes = macs * (sector + weight_sector) + outputs(p) * bytes;
  work.ffma = macs;
  work.instructions = macs * 20 + outputs(p) * 150;  // 64-bit offsets a tap; divisions an output
  work.round_trips = std::max(1.0, taps(p.window) / 4);
  return work;
}

cudaError_t launch_any(const DwConv2dParams& p, cudaStream_t stream) {
  const int64_t outputs = p.batch * p.channels * p.out_h * p.out_w;
  const int64_t blocks = ceil_div(outputs, kThreads);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dwconv2d_any_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, outputs);
    return cudaGetLastError();
  });
}

}  // namespace

KernelTable<Kernel<DwConv2dParams>> dwconv2d_kernels() {
  static constexpr Kernel<DwConv2dParams> kKernels[] = {
      {"dwconv2d_nhwc_k3s1", matches_nhwc_strips<3, 1>, work_nhwc_strips<3, 1>, launch_nhwc_strips<3, 1>},
      {"dwconv2d_nhwc_k3s2", matches_nhwc_strips<3, 2>, work_nhwc_strips<3, 2>, launch_nhwc_strips<3, 2>},
      {"dwconv2d_nhwc_k5s1", matches_nhwc_strips<5, 1>, work_nhwc_strips<5, 1>, launch_nhwc_strips<5, 1>},
      {"dwconv2d_nhwc_k5s2", matches_nhwc_strips<5, 2>, work_nhwc_strips<5, 2>, launch_nhwc_strips<5, 2>},
      {"dwconv2d_nhwc_k7s1", matches_nhwc_strips<7, 1>, work_nhwc_strips<7, 1>, launch_nhwc_strips<7, 1>},
      {"dwconv2d_nhwc_k7s2", matches_nhwc_strips<7, 2>, work_nhwc_strips<7, 2>, launch_nhwc_strips<7, 2>},
      {"dwconv2d_nchw_k3s1", matches_nchw_planes<3, 1>, work_nchw_planes<3, 1>, launch_nchw_planes<3, 1>},
      {"dwconv2d_nchw_k3s2", matches_nchw_planes<3, 2>, work_nchw_planes<3, 2>, launch_nchw_planes<3, 2>},
      {"dwconv2d_nchw_k5s1", matches_nchw_planes<5, 1>, work_nchw_planes<5, 1>, launch_nchw_planes<5, 1>},
      {"dwconv2d_nchw_k5s2", matches_nchw_planes<5, 2>, work_nchw_planes<5, 2>, launch_nchw_planes<5, 2>},
      {"dwconv2d_nchw_k7s1", matches_nchw_planes<7, 1>, work_nchw_planes<7, 1>, launch_nchw_planes<7, 1>},
      {"dwconv2d_nchw_k7s2", matches_nchw_planes<7, 2>, work_nchw_planes<7, 2>, launch_nchw_planes<7, 2>},
      {"dwconv2d_nhwc_k3", matches_nhwc<3>, work_nhwc<3>, launch_nhwc<3>},
      {"dwconv2d_nhwc_k5", matches_nhwc<5>, work_nhwc<5>, launch_nhwc<5>},
      {"dwconv2d_nhwc_k7", matches_nhwc<7>, work_nhwc<7>, launch_nhwc<7>},
      {"dwconv2d_nchw_k3", matches_nchw_others<3>, work_nchw<3>, launch_nchw<3>},
      {"dwconv2d_nchw_k5", matches_nchw_others<5>, work_nchw<5>, launch_nchw<5>},
      {"dwconv2d_nchw_k7", matches_nchw_others<7>, work_nchw<7>, launch_nchw<7>},
      {"dwconv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
