// Depthwise convolution, then pointwise convolution, in one kernel: the tensor between them exists as one slice of
// channels at a time, in shared memory. See matrix_tile.cuh for the pointwise half.
//
//   for each slice of channels:  depthwise weights, and (asynchronously) pointwise weights -> shared memory
//                                depthwise + bias + activation, rounded to the dtype of x  -> pixel tile
//                                sums += pixel tile * pointwise weights
//
// A thread makes one pixel of kVec channels of the slice, which is one 16-byte load a tap in NHWC and loads
// contiguous along W in NCHW. Every tile of output channels makes its pixels anew: at 3x3, 9 FMA for the 128 that
// a tile of 128 outputs then does with each.
//
// separable_conv2d_<layout>_k3, _<layout>  3x3, and any window; _tf32: float32 on tensor cores where allowed
// separable_conv2d_any                     strides that neither layout has

#include <cmath>

#include "kernels.h"
#include "matrix_tile.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kPixelWarps = 2, kOutputWarps = 4;
constexpr int kThreads = 32 * kPixelWarps * kOutputWarps;
constexpr int kBlocksPerSm = 2;    // one makes pixels while the other multiplies; 128 registers a thread
constexpr int kWeightStages = 2;   // one slice of pointwise weights arrives while the other is multiplied
constexpr int kTapsInShared = 49;  // up to 7x7 in one go; larger windows come in parts
constexpr int kAnyKernel = 0;

template <class T, bool kTf32, Layout kLayout>
using TileFor = std::conditional_t<kLayout == Layout::kNhwc, MatrixTile<T, kTf32, kLayout, kPixelWarps, kOutputWarps>,
                                   MatrixTile<T, kTf32, kLayout, kOutputWarps, kPixelWarps>>;

template <class Tile>
struct SeparableTraits {
  static constexpr int kElements = kWeightStages * Tile::kWeightElements + Tile::kPixelElements;
  static constexpr int kBytes = max_of(kElements * static_cast<int>(sizeof(typename Tile::T)), Tile::kStagingBytes);
  static constexpr int kTapBytes = kTapsInShared * Tile::kSlice * static_cast<int>(sizeof(typename Tile::T));
  static_assert(Tile::kThreads == kThreads && Tile::kPixels * Tile::kPacks == kThreads);
  static_assert(Tile::kWeightElements * sizeof(typename Tile::T) % kVectorBytes == 0);
  static_assert(kBytes + kTapBytes <= 46 * 1024);  // and offsets
};

// One thread's share of the depthwise half.
template <class Tile, int kKernel>
struct DepthwisePixel {
  using T = typename Tile::T;
  static constexpr int kVec = Tile::kVec;

  const T* x;  // of channel 0
  int64_t top, left;
  int pixel, k;  // in the tile
  bool exists;

  __device__ DepthwisePixel(const DwConv2dParams& p, int64_t first_pixel, int64_t pixels) {
    pixel = Tile::kIsNhwc ? threadIdx.x / Tile::kPacks : threadIdx.x % Tile::kPixels;
    k = (Tile::kIsNhwc ? threadIdx.x % Tile::kPacks : threadIdx.x / Tile::kPixels) * kVec;
    exists = first_pixel + pixel < pixels;
    const DivMod row = divmod(first_pixel + pixel, p.out_w), image = divmod(row.quotient, p.out_h);
    x = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n;
    top = image.remainder * p.window.stride_h - p.window.pad_top;
    left = row.remainder * p.window.stride_w - p.window.pad_left;
  }

  // Adds the taps [first, last) of channels channel to channel + kVec; `taps` holds their weights, [tap][channel].
  __device__ void add(float (&sums)[kVec], const DwConv2dParams& p, const T* taps, int first, int last,
                      int64_t channel, bool vectors) const {
    const int64_t count = exists ? p.channels - channel : 0;
    if (count <= 0) return;
    const T* x_channel = x + channel * p.x_stride.c;
    if constexpr (kKernel != kAnyKernel) {
      // A row of loads at a time: with all rows in flight the sums of the product no longer fit the registers.
#pragma unroll 1
      for (int i = 0; i < kKernel; ++i) {
#pragma unroll
        for (int j = 0; j < kKernel; ++j) {
          add_tap(sums, p, taps + (i * kKernel + j) * Tile::kSlice, i, j, x_channel, count, vectors);
        }
      }
    } else {
      int i = first / p.window.kernel_w, j = first % p.window.kernel_w;
      for (int tap = first; tap < last; ++tap) {
        add_tap(sums, p, taps + (tap - first) * Tile::kSlice, i, j, x_channel, count, vectors);
        if (++j == p.window.kernel_w) j = 0, ++i;
      }
    }
  }

 private:
  __device__ void add_tap(float (&sums)[kVec], const DwConv2dParams& p, const T* tap, int i, int j,
                          const T* x_channel, int64_t count, bool vectors) const {
    const int64_t ih = top + static_cast<int64_t>(i) * p.window.dilation_h;
    const int64_t iw = left + static_cast<int64_t>(j) * p.window.dilation_w;
    if (!inside(ih, p.in_h) || !inside(iw, p.in_w)) return;
    const T* from = x_channel + ih * p.x_stride.h + iw * p.x_stride.w;
    const auto weight = load_pack<kVec>(tap + k);
    Pack<T, kVec> pack;
    if (Tile::kIsNhwc && vectors && count >= kVec) {
      pack = load_pack<kVec>(from);
    } else {
#pragma unroll
      for (int v = 0; v < kVec; ++v) pack[v] = v < count ? from[v * p.x_stride.c] : from_float<T>(0.f);
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) sums[v] = fmaf(to_float(weight[v]), to_float(pack[v]), sums[v]);
  }
};

// Neighbouring threads follow the taps of a channel, which is how (C, 1, KH, KW) lies in memory.
template <class Tile, class T>
__device__ void load_taps(T* taps, const DwConv2dParams& p, int64_t first_channel, int first, int count) {
  for (int e = threadIdx.x; e < count * Tile::kSlice; e += kThreads) {
    const int k = e / count, tap = e % count;
    const int i = (first + tap) / p.window.kernel_w, j = (first + tap) % p.window.kernel_w;
    const int64_t channel = first_channel + k;
    taps[tap * Tile::kSlice + k] =
        channel < p.channels
            ? static_cast<const T*>(
                  p.weight)[channel * p.weight_stride_c + i * p.weight_stride_h + j * p.weight_stride_w]
            : from_float<T>(0.f);
  }
}

template <class T, bool kTf32, Layout kLayout, int kKernel>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    separable_conv2d_kernel(SeparableConv2dParams p, bool x_vectors, bool weight_vectors, Output output,
                            int64_t output_tiles) {
  using Tile = TileFor<T, kTf32, kLayout>;
  using Traits = SeparableTraits<Tile>;
  __shared__ __align__(kVectorBytes) unsigned char memory[Traits::kBytes];
  __shared__ __align__(kVectorBytes) T taps[kTapsInShared * Tile::kSlice];
  T* weight_stages = reinterpret_cast<T*>(memory);
  T* pixels = weight_stages + kWeightStages * Tile::kWeightElements;

  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  const T* weight = static_cast<const T*>(p.pw.weight) + first_output * p.pw.weight_stride_o;
  const DepthwisePixel<Tile, kKernel> pixel(p.dw, first_pixel, output.pixels);
  const int all_taps = p.dw.window.kernel_h * p.dw.window.kernel_w;

  float sums[Tile::kSums] = {};
  int stage = 0;
#pragma unroll 1
  for (int64_t first_k = 0; first_k < p.dw.channels; first_k += Tile::kSlice, stage ^= 1) {
    T* weights = weight_stages + stage * Tile::kWeightElements;
    Tile::load_weights(weights, weight, p.pw.weight_stride_o, p.pw.weight_stride_k, p.pw.out_channels - first_output,
                       first_k, p.dw.channels, weight_vectors);
    commit_async();

    const int64_t channel = first_k + pixel.k;
    float middle[Tile::kVec];
#pragma unroll
    for (int v = 0; v < Tile::kVec; ++v) {
      const bool has_bias = p.dw.bias && channel + v < p.dw.channels;
      middle[v] = has_bias ? to_float(static_cast<const T*>(p.dw.bias)[(channel + v) * p.dw.bias_stride]) : 0.f;
    }
#pragma unroll 1
    for (int first = 0; first < all_taps; first += kTapsInShared) {
      const int count = min(kTapsInShared, all_taps - first);
      if (first > 0) __syncthreads();
      load_taps<Tile>(taps, p.dw, first_k, first, count);
      __syncthreads();  // the taps are there, and the slice before this one is multiplied
      pixel.add(middle, p.dw, taps, first, first + count, channel, x_vectors);
    }
    Pack<T, Tile::kVec> pack;
#pragma unroll
    for (int v = 0; v < Tile::kVec; ++v) pack[v] = from_float<T>(activate(middle[v], p.dw.activation));
    Tile::store_pixel(pixels, pixel.pixel, pixel.k, pack);
    wait_async<0>();
    __syncthreads();
    Tile::multiply(sums, pixels, weights);
  }
  Tile::finish(sums, reinterpret_cast<float*>(memory), output, first_pixel, first_output);
}

template <class T, bool kTf32, Layout kLayout, int kKernel>
Work work_as(const SeparableConv2dParams& p) {
  using Tile = TileFor<T, kTf32, kLayout>;
  using Traits = SeparableTraits<Tile>;
  const double bytes = sizeof(T), slices = ceil_div(p.dw.channels, Tile::kSlice);
  const double pixels = 1.0 * p.dw.batch * p.dw.out_h * p.dw.out_w;
  const double output_tiles = ceil_div(p.pw.out_channels, Tile::kOutputs);
  const double blocks = output_tiles * std::ceil(pixels / Tile::kPixels);
  const bool vectors = channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype) && weights_are_vectors(p.pw);
  const double y_bytes = pixels * p.pw.out_channels * bytes * (p.pw.residual == nullptr ? 1 : 2);
  Work work =
      tile_work<Tile>(blocks, slices, tensor_bytes(p), y_bytes, vectors, Traits::kBytes + Traits::kTapBytes, 1);
  // Each tile of outputs makes the middle pixels of all channels; the rows of x that its windows share meet in L1.
  const double middle = pixels * p.dw.channels * output_tiles, macs = middle * taps(p.dw.window);
  const double staged = blocks * slices * Tile::kSlice * Tile::kPixels;  // pixels do not come from L2
  work.l2_bytes += covered(p.dw, p.dw.channels) * bytes * output_tiles * p.dw.window.kernel_h - staged * bytes;
  work.l1_bytes += 2 * macs * bytes;
  work.ffma += macs;
  work.instructions += macs * (bytes == 2 ? 2 : 1) + macs / (vectors ? Tile::kVec : 1) * 12 + middle * 4;
  work.round_trips = 1 + slices * (kKernel == 3 ? 3 : taps(p.dw.window) / 2);
  return work;
}

template <class T, bool kTf32, Layout kLayout, int kKernel>
cudaError_t launch_as(const SeparableConv2dParams& p, cudaStream_t stream) {
  using Tile = TileFor<T, kTf32, kLayout>;
  const Output output = output_of(p.pw, kLayout);
  const bool x_vectors = channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype);
  const int64_t output_tiles = ceil_div(p.pw.out_channels, Tile::kOutputs);
  const int64_t blocks = output_tiles * ceil_div(output.pixels, Tile::kPixels);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  separable_conv2d_kernel<T, kTf32, kLayout, kKernel><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      p, x_vectors, weights_are_vectors(p.pw), output, output_tiles);
  return cudaGetLastError();
}

template <Layout kLayout, int kKernel>
cudaError_t launch(const SeparableConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dw.dtype, [&](auto type) {
    return launch_as<typename decltype(type)::type, false, kLayout, kKernel>(p, stream);
  });
}

template <Layout kLayout, int kKernel>
Work work(const SeparableConv2dParams& p) {
  return work_of_dtype(p.dw.dtype,
                       [&](auto type) { return work_as<typename decltype(type)::type, false, kLayout, kKernel>(p); });
}

bool matches_any(const SeparableConv2dParams& p) { return has_cuda_kernels(p.dw.dtype); }

template <Layout kLayout, int kKernel>
bool matches(const SeparableConv2dParams& p) {
  const Window& window = p.dw.window;
  return matches_any(p) && has_layout(p.dw.x_stride, kLayout) && has_layout(p.pw.y_stride, kLayout) &&
         (kKernel == kAnyKernel || (window.kernel_h == kKernel && window.kernel_w == kKernel));
}

template <Layout kLayout, int kKernel>
bool matches_tf32(const SeparableConv2dParams& p) {
  return p.dw.dtype == DType::kFloat32 && p.pw.allow_tf32 && matches<kLayout, kKernel>(p);
}

Work work_any(const SeparableConv2dParams& p) {
  return p.pw.y_stride.c == 1 ? work<Layout::kNhwc, kAnyKernel>(p) : work<Layout::kNchw, kAnyKernel>(p);
}

cudaError_t launch_any(const SeparableConv2dParams& p, cudaStream_t stream) {
  return p.pw.y_stride.c == 1 ? launch<Layout::kNhwc, kAnyKernel>(p, stream)
                              : launch<Layout::kNchw, kAnyKernel>(p, stream);
}

template <Layout kLayout, int kKernel>
constexpr Kernel<SeparableConv2dParams> line(const char* name) {
  return {name, matches<kLayout, kKernel>, work<kLayout, kKernel>, launch<kLayout, kKernel>};
}

template <Layout kLayout, int kKernel>
constexpr Kernel<SeparableConv2dParams> tf32_line(const char* name) {
  return {name, matches_tf32<kLayout, kKernel>, work_as<float, true, kLayout, kKernel>,
          launch_as<float, true, kLayout, kKernel>};
}

}  // namespace

KernelTable<Kernel<SeparableConv2dParams>> separable_conv2d_kernels() {
  static constexpr Kernel<SeparableConv2dParams> kKernels[] = {
      tf32_line<Layout::kNhwc, 3>("separable_conv2d_nhwc_k3_tf32"),
      tf32_line<Layout::kNchw, 3>("separable_conv2d_nchw_k3_tf32"),
      tf32_line<Layout::kNhwc, kAnyKernel>("separable_conv2d_nhwc_tf32"),
      tf32_line<Layout::kNchw, kAnyKernel>("separable_conv2d_nchw_tf32"),
      line<Layout::kNhwc, 3>("separable_conv2d_nhwc_k3"),
      line<Layout::kNchw, 3>("separable_conv2d_nchw_k3"),
      line<Layout::kNhwc, kAnyKernel>("separable_conv2d_nhwc"),
      line<Layout::kNchw, kAnyKernel>("separable_conv2d_nchw"),
      {"separable_conv2d_any", matches_any, work_any, launch_any},
      {"separable_conv2d_unfused", matches_unfused, work_unfused, launch_unfused, workspace_unfused, further_unfused},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
