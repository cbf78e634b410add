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

template <class T>
__global__ void __launch_bounds__(kThreads) linear_kernel(PoolLinearParams p, int64_t feature_tiles) {
  constexpr int kVec = kVectorSize<T>;
  const DivMod block = divmod(blockIdx.x, feature_tiles);
  const int lane = threadIdx.x % 32;
  const int64_t feature = block.remainder * (kThreads / 32) + threadIdx.x / 32;
  if (feature >= p.out_features) return;
  const T* means = static_cast<const T*>(p.workspace) + block.quotient * p.channels;
  const T* weights = static_cast<const T*>(p.weight) + feature * p.weight_stride_o;

  float sum = 0.f;
#pragma unroll 4
  for (int64_t k = lane * kVec; k < p.channels; k += 32 * kVec) {
    const auto weight = load_pack<kVec>(weights + k), mean = load_pack<kVec>(means + k);
#pragma unroll
    for (int v = 0; v < kVec; ++v) sum = fmaf(to_float(weight[v]), to_float(mean[v]), sum);
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
  if (lane > 0) return;
  const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[feature * p.bias_stride]) : 0.f;
  static_cast<T*>(p.y)[block.quotient * p.out_features + feature] = from_float<T>(sum + bias);
}

constexpr int64_t kMostVectors = 2;  // images whose linear layer is no product of matrices

int64_t feature_tiles(const PoolLinearParams& p) { return ceil_div(p.out_features, kThreads / 32); }

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

std::vector<Work> further_means(const PoolLinearParams& p) {
  if (p.batch > kMostVectors) {
    const PwConv2dParams pw = linear(p);
    return {choose(pw)->work(pw)};
  }
  const double bytes = element_bytes(p.dtype), outputs = 1.0 * p.batch * p.out_features;
  const double means = 1.0 * p.batch * p.channels, products = outputs * p.channels;
  Work work{};
  work.blocks = p.batch * feature_tiles(p);
  work.threads = kThreads, work.registers = 40, work.shared_bytes = 0;
  work.dram_bytes = (1.0 * p.out_features * (p.channels + (p.bias != nullptr)) + outputs + means) * bytes;
  // A block reads its means once from L2, its warps from L1; their outputs and biases are part of a sector.
  work.l2_bytes = products * bytes + work.blocks * (p.channels * bytes + 64);
  work.l1_bytes = 2 * products * bytes + outputs * 64;
  work.ffma = products;
  work.instructions =
      products * (1 + 2 * conversions(p.dtype)) + products / vector_size(p.dtype) * 6 + outputs * 1800;
  work.round_trips = 1;
  return {work};
}

int64_t workspace_means(const PoolLinearParams& p) {
  const PwConv2dParams pw = linear(p);
  const auto* kernel = choose(pw);
  return means_bytes(p) + (kernel->workspace == nullptr ? 0 : kernel->workspace(pw));
}

template <bool kChannelsLast>
cudaError_t launch_means(const PoolLinearParams& p, cudaStream_t stream) {
  const int64_t blocks = pool_blocks<kChannelsLast>(p);
  const int64_t linear_blocks = p.batch * feature_tiles(p);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  if (const cudaError_t error = check_grid(linear_blocks); error != cudaSuccess) return error;
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
    if (p.batch > kMostVectors) {
      const PwConv2dParams pw = linear(p);
      return choose(pw)->launch(pw, stream);
    }
    linear_kernel<T><<<static_cast<unsigned>(linear_blocks), kThreads, 0, stream>>>(p, feature_tiles(p));
    return cudaGetLastError();
  });
}

template bool matches_means<true>(const PoolLinearParams&);
template bool matches_means<false>(const PoolLinearParams&);
template Work work_means<true>(const PoolLinearParams&);
template Work work_means<false>(const PoolLinearParams&);
template cudaError_t launch_means<true>(const PoolLinearParams&, cudaStream_t);
template cudaError_t launch_means<false>(const PoolLinearParams&, cudaStream_t);

}  // namespace mbv1::cuda
