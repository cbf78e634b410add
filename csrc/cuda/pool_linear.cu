// Global average pool, then linear, in one kernel: a block pools kImages images channel by channel into shared
// memory, in float32, and multiplies with kFeatures rows of the weight, which it reads once for all its images.
// The blocks of other features pool the same images again, from L2.
//
// pool_linear_*_unfused  two launches, for 16-byte vectors: pool_linear_unfused.cu
// pool_linear_nhwc       a thread pools a channel: neighbours read neighbouring channels
// pool_linear_nchw, any  a warp pools a channel: neighbours read neighbouring pixels

#include "numeric.cuh"
#include "pool_linear.h"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kImages = 4;
constexpr int kWarpFeatures = 8;  // 32 sums a thread
constexpr int kFeatures = kWarps * kWarpFeatures;
constexpr int kChannels = 256;  // pooled at a time
static_assert(kImages * kChannels * sizeof(float) <= 48 * 1024);

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffff, value, mask);
  return value;
}

// The sum of pixels first, first + step, ... of a channel.
template <class T>
__device__ float sum_pixels(const T* x, const PoolLinearParams& p, int64_t first, int64_t step) {
  const DivMod start = divmod(first, p.w), advance = divmod(step, p.w);
  int64_t h = start.quotient, w = start.remainder;
  float sum = 0.f;
#pragma unroll 4
  while (h < p.h) {
    sum += to_float(x[h * p.x_stride.h + w * p.x_stride.w]);
    h += advance.quotient, w += advance.remainder;
    if (w >= p.w) ++h, w -= p.w;
  }
  return sum;
}

template <class T, bool kChannelsLast>
__device__ void pool(float (&pooled)[kImages][kChannels], const PoolLinearParams& p, int64_t first_image, int images,
                     int64_t first_channel) {
  const int channels = static_cast<int>(min(static_cast<int64_t>(kChannels), p.channels - first_channel));
  const float scale = 1.f / static_cast<float>(p.h * p.w);
  constexpr int kPoolers = kChannelsLast ? kThreads : kWarps;
  const int pooler = kChannelsLast ? threadIdx.x : threadIdx.x / 32, lane = kChannelsLast ? 0 : threadIdx.x % 32;
  for (int e = pooler; e < images * channels; e += kPoolers) {
    const int image = e / channels, channel = e % channels;
    const T* x =
        static_cast<const T*>(p.x) + (first_image + image) * p.x_stride.n + (first_channel + channel) * p.x_stride.c;
    float sum = sum_pixels(x, p, lane, kChannelsLast ? 1 : 32);
    if constexpr (!kChannelsLast) sum = warp_sum(sum);
    if (lane == 0) pooled[image][channel] = sum * scale;
  }
}

// Three blocks an SM leave 80 registers: without a number, ptxas keeps to 64 for sm_120, and spills.
template <class T, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, 3) pool_linear_kernel(PoolLinearParams p, int64_t feature_tiles) {
  __shared__ float pooled[kImages][kChannels];
  const DivMod block = divmod(blockIdx.x, feature_tiles);
  const int64_t first_image = block.quotient * kImages;
  const int images = static_cast<int>(min(static_cast<int64_t>(kImages), p.batch - first_image));
  const int lane = threadIdx.x % 32;
  const int64_t first_feature = block.remainder * kFeatures + threadIdx.x / 32 * kWarpFeatures;
  const T* weight = static_cast<const T*>(p.weight) + first_feature * p.weight_stride_o;
  const int features =
      static_cast<int>(max(int64_t{0}, min(static_cast<int64_t>(kWarpFeatures), p.out_features - first_feature)));

  float sums[kWarpFeatures][kImages] = {};
  for (int64_t first_channel = 0; first_channel < p.channels; first_channel += kChannels) {
    if (first_channel > 0) __syncthreads();
    pool<T, kChannelsLast>(pooled, p, first_image, images, first_channel);
    __syncthreads();
    for (int k = lane; k < kChannels && first_channel + k < p.channels; k += 32) {
#pragma unroll
      for (int f = 0; f < kWarpFeatures; ++f) {
        if (f >= features) break;
        const float w = to_float(weight[f * p.weight_stride_o + (first_channel + k) * p.weight_stride_k]);
#pragma unroll
        for (int i = 0; i < kImages; ++i) {
          if (i < images) sums[f][i] = fmaf(w, pooled[i][k], sums[f][i]);
        }
      }
    }
  }

  T* y = static_cast<T*>(p.y) + first_image * p.out_features + first_feature;
#pragma unroll
  for (int f = 0; f < kWarpFeatures; ++f) {
    if (f >= features) break;
    const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[(first_feature + f) * p.bias_stride]) : 0.f;
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const float sum = warp_sum(sums[f][i]);
      if (lane == 0 && i < images) y[i * p.out_features + f] = from_float<T>(sum + bias);
    }
  }
}

template <bool kChannelsLast>
cudaError_t launch(const PoolLinearParams& p, cudaStream_t stream) {
  const int64_t feature_tiles = ceil_div(p.out_features, kFeatures);
  const int64_t blocks = feature_tiles * ceil_div(p.batch, kImages);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    pool_linear_kernel<T, kChannelsLast><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, feature_tiles);
    return cudaGetLastError();
  });
}

template <bool kChannelsLast>
Work work(const PoolLinearParams& p) {
  const double bytes = element_bytes(p.dtype), feature_tiles = ceil_div(p.out_features, kFeatures);
  const double image_tiles = ceil_div(p.batch, kImages), blocks = feature_tiles * image_tiles;
  const double pooled = 1.0 * p.batch * p.channels * p.h * p.w * feature_tiles;
  const double weights = 1.0 * p.channels * p.out_features * image_tiles;
  const bool neighbours = (kChannelsLast ? p.x_stride.c : p.x_stride.w) == 1;
  Work work{};
  work.blocks = static_cast<int64_t>(blocks);
  work.threads = kThreads, work.registers = 80, work.shared_bytes = kImages * kChannels * sizeof(float);
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = pooled * (neighbours ? bytes : 32) + weights * bytes;
  work.l1_bytes = work.l2_bytes + weights * kImages * 4;
  work.ffma = weights * kImages;
  // A warp pools a channel of NCHW: its 32 lanes work for h * w pixels, and then add their sums.
  const double channels = 1.0 * p.batch * p.channels * feature_tiles;
  work.instructions =
      (kChannelsLast ? pooled * 6 : channels * (ceil_div(p.h * p.w, 32) * 6 + 12) * 32) + weights * 20;
  // A thread pools its channels one after another, 4 pixels at a time; a warp its channels; 8 weights at a time.
  const double images = static_cast<double>(std::min<int64_t>(p.batch, kImages));
  const double pool_trips = kChannelsLast ? images * ceil_div(p.h * p.w, 4) : images * kChannels / kWarps;
  work.round_trips = ceil_div(p.channels, kChannels) * (pool_trips + kChannels / 32.0);
  return work;
}

bool matches_any(const PoolLinearParams& p) { return has_cuda_kernels(p.dtype); }
bool matches_nhwc(const PoolLinearParams& p) { return matches_any(p) && p.x_stride.c == 1; }
bool matches_nchw(const PoolLinearParams& p) { return matches_any(p) && p.x_stride.w == 1; }

}  // namespace

KernelTable<Kernel<PoolLinearParams>> pool_linear_kernels() {
  static constexpr Kernel<PoolLinearParams> kKernels[] = {
      {"pool_linear_nhwc_unfused", matches_means<true>, work_means<true>, launch_means<true>, workspace_means,
       further_means},
      {"pool_linear_nchw_unfused", matches_means<false>, work_means<false>, launch_means<false>, workspace_means,
       further_means},
      {"pool_linear_nhwc", matches_nhwc, work<true>, launch<true>},
      {"pool_linear_nchw", matches_nchw, work<false>, launch<false>},
      {"pool_linear_any", matches_any, work<false>, launch<false>},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
