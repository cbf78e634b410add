// Global average pool, then linear, in two launches, so that x is read once whatever the number of features: in one,
// the blocks of other features pool the same images again.
//
// The means lie in the workspace: [image][channel]. In NHWC a thread sums 16 bytes of channels over every
// kPixelThreads-th pixel, 8 loads at a time; in NCHW a block copies the run of memory that is kPlanes planes to
// shared memory. The linear layer is a pwconv2d of images of one pixel, or, for an image or two, as many products of
// a matrix and a vector: a warp makes an output, its lanes with 16 bytes of K each.

#include <algorithm>

#include "choice.h"
#include "copies.cuh"
#include "numeric.cuh"
#include "pool_linear.h"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kVectors = 16;  // of channels, of a block
constexpr int kPixelThreads = kThreads / kVectors;
constexpr int kBatch = 8;  // loads of a thread at a time

template <class T>
__global__ void __launch_bounds__(kThreads) pool_nhwc_kernel(PoolLinearParams p, int64_t channel_groups) {
  constexpr int kVec = kVectorSize<T>, kChannels = kVectors * kVec;
  __shared__ __align__(kVectorBytes) float partial[kPixelThreads][kChannels];
  const DivMod block = divmod(blockIdx.x, channel_groups);
  const int64_t first_channel = block.remainder * kChannels;
  const int vector = threadIdx.x % kVectors, first_pixel = threadIdx.x / kVectors;
  const int64_t channel = first_channel + vector * kVec;
  const int64_t pixels = channel < p.channels ? p.h * p.w : 0;
  const T* x = static_cast<const T*>(p.x) + block.quotient * p.x_stride.n + channel;

  float sums[kVec] = {};
  for (int64_t first = first_pixel; first < pixels; first += kBatch * kPixelThreads) {
    Pack<T, kVec> packs[kBatch] = {};
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t pixel = first + i * kPixelThreads;
      if (pixel < pixels) packs[i] = load_pack<kVec>(x + pixel * p.x_stride.w);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) sums[v] += to_float(packs[i][v]);
    }
  }
#pragma unroll
  for (int v = 0; v < kVec; v += 4) {
    const Pack<float, 4> four{sums[v], sums[v + 1], sums[v + 2], sums[v + 3]};
    store_pack(&partial[first_pixel][vector * kVec + v], four);
  }
  __syncthreads();
  if (threadIdx.x >= kChannels || first_channel + threadIdx.x >= p.channels) return;
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kPixelThreads; ++i) sum += partial[i][threadIdx.x];
  static_cast<T*>(p.workspace)[block.quotient * p.channels + first_channel + threadIdx.x] =
      from_float<T>(sum / static_cast<float>(p.h * p.w));
}

constexpr int kMaxPlanes = 32, kMaxPlaneBytes = 40 * 1024;
constexpr int kPlaneThreads = kThreads / kMaxPlanes;

int planes_of_block(const PoolLinearParams& p) {
  const int64_t size = kVectorBytes / vector_size(p.dtype);
  return static_cast<int>(std::min<int64_t>(kMaxPlanes, kMaxPlaneBytes / size / (p.h * p.w)));
}

int planes_bytes(const PoolLinearParams& p) {
  const int size = kVectorBytes / vector_size(p.dtype);
  return (static_cast<int>(planes_of_block(p) * p.h * p.w) * size / kVectorBytes + 2) * kVectorBytes;
}

template <class T>
__global__ void __launch_bounds__(kThreads) pool_nchw_kernel(PoolLinearParams p, int planes_of_block) {
  constexpr int kVec = kVectorSize<T>;
  extern __shared__ uint4 memory[];
  T* const tile = reinterpret_cast<T*>(memory);
  const int64_t first_plane = static_cast<int64_t>(blockIdx.x) * planes_of_block;
  const int planes = static_cast<int>(min(static_cast<int64_t>(planes_of_block), p.batch * p.channels - first_plane));
  const int pixels = static_cast<int>(p.h * p.w);
  const Run<T> run{first_plane * pixels, planes * pixels};
  const T* from = static_cast<const T*>(p.x) + (run.first - run.shift());
  for (int e = threadIdx.x; e < run.vectors(); e += kThreads) {
    copy_async(tile + e * kVec, from + e * kVec, min(kVec, run.shift() + run.length - e * kVec));
  }
  commit_async();
  wait_async<0>();
  __syncthreads();

  const int plane = threadIdx.x / kPlaneThreads;
  float sum = 0.f;
  if (plane < planes) {
    for (int i = threadIdx.x % kPlaneThreads; i < pixels; i += kPlaneThreads) {
      sum += to_float(tile[run.shift() + plane * pixels + i]);
    }
  }
#pragma unroll
  for (int mask = kPlaneThreads / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
  if (plane < planes && threadIdx.x % kPlaneThreads == 0) {
    static_cast<T*>(p.workspace)[first_plane + plane] = from_float<T>(sum / static_cast<float>(pixels));
  }
}

// The total over the warp of sums[index], to lanes index * 32 / kSums on. Each step halves what a lane has to add.
template <int kSums, int kMask = 16>
__device__ float reduce_scatter(const float (&sums)[kSums]) {
  constexpr int kHalf = kSums / 2;
  if constexpr (kMask == 0) {
    return sums[0];
  } else if constexpr (kHalf == 0) {
    const float sum[1] = {sums[0] + __shfl_xor_sync(0xffffffff, sums[0], kMask)};
    return reduce_scatter<1, kMask / 2>(sum);
  } else {
    const bool upper = threadIdx.x & kMask;
    float halves[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float low = sums[i], high = sums[i + kHalf];
      halves[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffff, upper ? low : high, kMask);
    }
    return reduce_scatter<kHalf, kMask / 2>(halves);
  }
}

template <class T, int kImages, int kFeatures>
__global__ void __launch_bounds__(kThreads, 3) linear_kernel(PoolLinearParams p, int64_t feature_tiles) {
  constexpr int kVec = kVectorSize<T>, kSums = kImages * kFeatures, kLanes = 32 / kSums;
  static_assert(kSums <= 32);
  const DivMod block = divmod(blockIdx.x, feature_tiles);
  const int lane = threadIdx.x % 32;
  const int64_t first_image = block.quotient * kImages;
  const int64_t first_feature = (block.remainder * (kThreads / 32) + threadIdx.x / 32) * kFeatures;
  if (first_feature >= p.out_features) return;
  // Past the end, the last one again: what comes of it is not stored.
  const T* means[kImages];
  const T* weights[kFeatures];
#pragma unroll
  for (int i = 0; i < kImages; ++i) {
    means[i] = static_cast<const T*>(p.workspace) + min(first_image + i, p.batch - 1) * p.channels;
  }
#pragma unroll
  for (int f = 0; f < kFeatures; ++f) {
    weights[f] = static_cast<const T*>(p.weight) + min(first_feature + f, p.out_features - 1) * p.weight_stride_o;
  }

  float sums[kSums] = {};
#pragma unroll(kSums == 1 ? 4 : 1)
  for (int64_t k = lane * kVec; k < p.channels; k += 32 * kVec) {
    Pack<T, kVec> packs[kFeatures];
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) packs[f] = load_pack<kVec>(weights[f] + k);
#pragma unroll
    for (int i = 0; i < kImages; ++i) {
      const auto mean = load_pack<kVec>(means[i] + k);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        const float value = to_float(mean[v]);
#pragma unroll
        for (int f = 0; f < kFeatures; ++f) {
          sums[i * kFeatures + f] = fmaf(to_float(packs[f][v]), value, sums[i * kFeatures + f]);
        }
      }
    }
  }
  const float sum = reduce_scatter(sums);
  const int index = lane / kLanes;
  const int64_t image = first_image + index / kFeatures, feature = first_feature + index % kFeatures;
  if (lane % kLanes != 0 || image >= p.batch || feature >= p.out_features) return;
  const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[feature * p.bias_stride]) : 0.f;
  static_cast<T*>(p.y)[image * p.out_features + feature] = from_float<T>(sum + bias);
}

// The tile of a warp: more images for each weight where there are images, fewer features where SMs would be idle.
struct LinearGrid {
  int images, features;
  int64_t feature_tiles, blocks;
};

LinearGrid linear_grid(const PoolLinearParams& p) {
  const auto grid_of = [&](int images, int features) {
    const int64_t tiles = ceil_div(p.out_features, features * (kThreads / 32));
    return LinearGrid{images, features, tiles, tiles * ceil_div(p.batch, images)};
  };
  if (p.batch <= 2) return grid_of(1, 1);
  const LinearGrid large = grid_of(8, 4);
  return large.blocks >= 2 * current_device().sms ? large : grid_of(8, 1);
}

template <class T, int kImages, int kFeatures>
cudaError_t launch_linear(const PoolLinearParams& p, const LinearGrid& grid, cudaStream_t stream) {
  linear_kernel<T, kImages, kFeatures>
      <<<static_cast<unsigned>(grid.blocks), kThreads, 0, stream>>>(p, grid.feature_tiles);
  return cudaGetLastError();
}

constexpr int64_t kAlignment = 256;

int64_t means_bytes(const PoolLinearParams& p) {
  return ceil_div(p.batch * p.channels * kVectorBytes / vector_size(p.dtype), kAlignment) * kAlignment;
}

// The linear layer, of the means at the start of the workspace. Before there is one, an address that is aligned like
// it stands for it.
PwConv2dParams linear(const PoolLinearParams& p) {
  PwConv2dParams pw{};
  unsigned char* means =
      static_cast<unsigned char*>(p.workspace == nullptr ? reinterpret_cast<void*>(kAlignment) : p.workspace);
  pw.x = means, pw.weight = p.weight, pw.bias = p.bias, pw.y = p.y;
  pw.workspace = means + means_bytes(p);
  pw.batch = p.batch, pw.in_channels = p.channels, pw.out_channels = p.out_features, pw.h = pw.w = 1;
  pw.x_stride = {p.channels, 1, p.channels, p.channels};
  pw.y_stride = {p.out_features, 1, p.out_features, p.out_features};
  pw.weight_stride_o = p.weight_stride_o, pw.weight_stride_k = p.weight_stride_k, pw.bias_stride = p.bias_stride;
  pw.dtype = p.dtype;
  return pw;
}

template <bool kChannelsLast>
int64_t pool_blocks(const PoolLinearParams& p) {
  return kChannelsLast ? p.batch * ceil_div(p.channels, kVectors * vector_size(p.dtype))
                       : ceil_div(p.batch * p.channels, planes_of_block(p));
}

}  // namespace

template <bool kChannelsLast>
bool matches_means(const PoolLinearParams& p) {
  if (!has_cuda_kernels(p.dtype)) return false;
  const int64_t size = vector_size(p.dtype);
  if (p.channels % size != 0 || !is_aligned(p.weight) || p.weight_stride_k != 1 || p.weight_stride_o % size != 0) {
    return false;
  }
  if constexpr (kChannelsLast) {
    return channels_are_vectors(p.x, p.x_stride, p.dtype) && (p.h == 1 || p.x_stride.h == p.w * p.x_stride.w);
  }
  return is_dense_nchw(p.x, p.x_stride, p.channels, p.h, p.w) && p.h * p.w < kMaxPlaneBytes / 4;
}

// Cycles of the banks of shared memory in which a warp of pool_nchw_kernel reads an element a lane: its planes are
// h * w elements apart.
int plane_wavefronts(const PoolLinearParams& p) {
  constexpr int kBanks = 32, kBankBytes = 4;
  const int64_t size = kVectorBytes / vector_size(p.dtype);
  int in_bank[kBanks] = {};
  int64_t last = -1;
  for (int lane = 0; lane < 32; ++lane) {
    const int64_t word = (lane / kPlaneThreads * p.h * p.w + lane % kPlaneThreads) * size / kBankBytes;
    if (word != last) ++in_bank[word % kBanks];
    last = word;
  }
  return *std::max_element(in_bank, in_bank + kBanks);
}

template <bool kChannelsLast>
Work work_means(const PoolLinearParams& p) {
  const double bytes = element_bytes(p.dtype), elements = 1.0 * p.batch * p.channels * p.h * p.w;
  const double means = 1.0 * p.batch * p.channels, pixels = static_cast<double>(p.h * p.w);
  const double converted = conversions(p.dtype), vectors = elements / vector_size(p.dtype);
  Work work{};
  work.blocks = pool_blocks<kChannelsLast>(p);
  work.threads = kThreads, work.registers = kChannelsLast ? 60 : 30;
  work.shared_bytes = kChannelsLast ? kPixelThreads * kVectors * vector_size(p.dtype) * 4 : planes_bytes(p);
  work.dram_bytes = work.l2_bytes = work.l1_bytes = (elements + means) * bytes;
  if (kChannelsLast) {
    // A thread sums a vector of channels over its pixels, kBatch loads at a time whether or not all are there, and
    // leaves what the threads of the mean's channel then read.
    const double rounds = std::ceil(pixels / (kBatch * kPixelThreads));
    const double threads = means / vector_size(p.dtype) * kPixelThreads;
    work.l1_bytes += kPixelThreads * means * 4 * (vector_size(p.dtype) / 4 + 1);  // stores are a vector apart
    work.instructions = threads * rounds * kBatch * (8 + vector_size(p.dtype) * (1 + converted)) + threads * 30 +
                        means * 40 + work.blocks * kThreads * 30.;
    work.round_trips = rounds;
  } else {
    // Copies are written to shared memory, where kPlaneThreads read a plane.
    const double reads = means * kPlaneThreads / 32 * std::ceil(pixels / kPlaneThreads);  // of a warp
    work.l1_bytes += elements * bytes + reads * plane_wavefronts(p) * 128;
    work.instructions = vectors * 22 + elements * (4.5 + converted) + work.blocks * kThreads * 60.;
    work.round_trips = 1;
  }
  return work;
}

Work linear_work(const PoolLinearParams& p, const LinearGrid& grid) {
  constexpr double kSector = 32;
  const double bytes = element_bytes(p.dtype), means = 1.0 * p.batch * p.channels;
  const double weights = 1.0 * p.out_features * p.channels, y = 1.0 * p.batch * p.out_features;
  const double image_tiles = static_cast<double>(ceil_div(p.batch, grid.images));
  const double warps = image_tiles * ceil_div(p.out_features, grid.features), sums = grid.images * grid.features;
  Work work{};
  work.blocks = grid.blocks;
  work.threads = kThreads, work.registers = sums == 32 ? 168 : sums == 8 ? 116 : 64, work.shared_bytes = 0;
  work.dram_bytes = (weights + p.out_features + y + means) * bytes;
  // A block reads the means of its images and its biases once from L2, its warps from L1. A warp's outputs lie in a
  // sector for each image.
  const double once = weights * image_tiles * bytes + warps * grid.images * kSector;
  const double block_means = 1.0 * p.channels * grid.images * bytes;
  work.l2_bytes = once + grid.blocks * (block_means + kSector);
  work.l1_bytes = once + warps * (block_means + kSector);
  work.ffma = warps * p.channels * sums;
  const double vectors = 1.0 * p.channels / vector_size(p.dtype) * (grid.images + grid.features);
  work.instructions = work.ffma + warps * (vectors * (3 + vector_size(p.dtype) * conversions(p.dtype)) +
                                           32 * (sums == 1 ? 56 : sums * 4 + 50));
  work.round_trips = sums == 1 ? 1.0 : std::max(1.0, p.channels / (32.0 * vector_size(p.dtype)));
  return work;
}

bool is_pointwise(const PoolLinearParams& p, const LinearGrid& grid) {
  if (grid.images == 1) return false;
  const PwConv2dParams pw = linear(p);
  const Device& device = current_device();
  return predict(choose(pw)->work(pw), device).us < predict(linear_work(p, grid), device).us;
}

std::vector<Work> further_means(const PoolLinearParams& p) {
  const LinearGrid grid = linear_grid(p);
  if (!is_pointwise(p, grid)) return {linear_work(p, grid)};
  const PwConv2dParams pw = linear(p);
  return {choose(pw)->work(pw)};
}

int64_t workspace_means(const PoolLinearParams& p) {
  const PwConv2dParams pw = linear(p);
  const auto* kernel = choose(pw);
  return means_bytes(p) + (kernel->workspace == nullptr ? 0 : kernel->workspace(pw));
}

template <bool kChannelsLast>
cudaError_t launch_means(const PoolLinearParams& p, cudaStream_t stream) {
  const int64_t blocks = pool_blocks<kChannelsLast>(p);
  const LinearGrid grid = linear_grid(p);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  if (const cudaError_t error = check_grid(grid.blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (kChannelsLast) {
      pool_nhwc_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
          p, ceil_div(p.channels, kVectors * kVectorSize<T>));
    } else {
      pool_nchw_kernel<T>
          <<<static_cast<unsigned>(blocks), kThreads, planes_bytes(p), stream>>>(p, planes_of_block(p));
    }
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    if (is_pointwise(p, grid)) {
      const PwConv2dParams pw = linear(p);
      return choose(pw)->launch(pw, stream);
    }
    if (grid.images == 1) return launch_linear<T, 1, 1>(p, grid, stream);
    return grid.features == 1 ? launch_linear<T, 8, 1>(p, grid, stream) : launch_linear<T, 8, 4>(p, grid, stream);
  });
}

template bool matches_means<true>(const PoolLinearParams&);
template bool matches_means<false>(const PoolLinearParams&);
template Work work_means<true>(const PoolLinearParams&);
template Work work_means<false>(const PoolLinearParams&);
template cudaError_t launch_means<true>(const PoolLinearParams&, cudaStream_t);
template cudaError_t launch_means<false>(const PoolLinearParams&, cudaStream_t);

}  // namespace mbv1::cuda
