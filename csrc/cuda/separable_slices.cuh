// Design B of the depthwise-separable convolution: slices of channels pass through shared memory.
//
//   for each slice of channels:  pointwise weights of the next slice, depthwise ones of the one after -> shared
//   memory
//                                depthwise + bias + activation of the next slice -> the other pixel tile  (FMA)
//                                sums += pixel tile of this slice * its pointwise weights                  (tensor
//                                cores)
//
// with one barrier a slice, so that the warps of a block are at either half at any time and both pipes are busy.
// A thread makes one pixel of kVec channels of the slice, which is one 16-byte load a tap in NHWC and loads
// contiguous along W in NCHW. Every tile of output channels makes its pixels anew: at 3x3, 9 FMA for the 128 that a
// tile of 128 outputs then does with each.
#pragma once

#include "launch.h"
#include "separable_conv2d.h"

namespace mbv1::cuda {

// One thread's share of the depthwise half.
template <class Traits, int kKernel>
struct DepthwisePixel {
  using Tile = typename Traits::Tile;
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
__device__ void load_slice_taps(T* taps, const DwConv2dParams& p, int64_t first_channel, int first, int count) {
  for (int e = threadIdx.x; e < count * Tile::kSlice; e += Tile::kThreads) {
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
__global__ void __launch_bounds__(SlicesTraits<T, kTf32, kLayout, kKernel>::kThreads,
                                  SlicesTraits<T, kTf32, kLayout, kKernel>::kBlocksPerSm)
    separable_slices_kernel(SeparableConv2dParams p, bool x_vectors, bool weight_vectors, Output output,
                            int64_t output_tiles) {
  using Traits = SlicesTraits<T, kTf32, kLayout, kKernel>;
  using Tile = typename Traits::Tile;
  __shared__ __align__(kVectorBytes) unsigned char memory[Traits::kBytes];
  __shared__ typename Tile::TilePlaces places;
  T* const weight_stages = reinterpret_cast<T*>(memory);
  T* const pixel_stages = weight_stages + Traits::kStages * Tile::kWeightElements;
  T* const tap_stages = pixel_stages + Traits::kStages * Tile::kPixelElements;

  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  const int outputs_left = at_most(p.pw.out_channels - first_output, Tile::kOutputs);
  const int64_t channels = p.dw.channels;
  places.fill(output, first_pixel);
  const RowCopies<Tile, Tile::kOutputs, true> weight_copies(
      p.pw.weight, p.pw.weight_stride_k, weight_vectors, outputs_left,
      [&](int i) { return (first_output + i) * p.pw.weight_stride_o; });
  const DepthwisePixel<Traits, kKernel> pixel(p.dw, first_pixel, output.pixels);
  const int all_taps = p.dw.window.kernel_h * p.dw.window.kernel_w;
  const bool in_parts = kKernel == kAnyKernel && all_taps > Traits::kTapsInShared;

  const auto load_weights = [&](int64_t first_k, int stage) {
    if (first_k < channels) {
      weight_copies.copy(weight_stages + stage * Tile::kWeightElements, first_k,
                         at_most(channels - first_k, Tile::kSlice), outputs_left);
    }
    commit_async();
  };
  const auto load_taps = [&](int64_t first_k, int stage) {
    if (first_k < channels && !in_parts) {
      load_slice_taps<Tile>(tap_stages + stage * Traits::kTapElements, p.dw, first_k, 0, all_taps);
    }
  };
  const auto make_pixels = [&](int64_t first_k, int stage) {
    const int64_t channel = first_k + pixel.k;
    T* taps = tap_stages + (in_parts ? 0 : stage * Traits::kTapElements);
    float middle[Tile::kVec];
#pragma unroll
    for (int v = 0; v < Tile::kVec; ++v) {
      const bool has_bias = p.dw.bias && channel + v < channels;
      middle[v] = has_bias ? to_float(static_cast<const T*>(p.dw.bias)[(channel + v) * p.dw.bias_stride]) : 0.f;
    }
    if (!in_parts) {
      pixel.add(middle, p.dw, taps, 0, all_taps, channel, x_vectors);
    } else {
#pragma unroll 1
      for (int first = 0; first < all_taps; first += Traits::kTapsInShared) {
        const int count = min(Traits::kTapsInShared, all_taps - first);
        __syncthreads();  // the part before this one is used
        load_slice_taps<Tile>(taps, p.dw, first_k, first, count);
        __syncthreads();
        pixel.add(middle, p.dw, taps, first, first + count, channel, x_vectors);
      }
    }
    activate_all(middle, p.dw.activation);
    Pack<T, Tile::kVec> pack;
#pragma unroll
    for (int v = 0; v < Tile::kVec; ++v) pack[v] = from_float<T>(middle[v]);
    Tile::store_pixel(pixel_stages + stage * Tile::kPixelElements, pixel.pixel, pixel.k, pack);
  };

  float sums[Tile::kSums] = {};
  wait_for_earlier_kernels();
  load_weights(0, 0);
  load_taps(0, 0);
  load_taps(Tile::kSlice, 1);
  __syncthreads();
  make_pixels(0, 0);
  int stage = 0;
#pragma unroll 1
  for (int64_t first_k = 0; first_k < channels; first_k += Tile::kSlice, stage ^= 1) {
    wait_async<0>();
    __syncthreads();  // this slice is there, as are the taps of the next, and what they replace is used
    load_weights(first_k + Tile::kSlice, stage ^ 1);
    load_taps(first_k + 2 * Tile::kSlice, stage);
    if (first_k + Tile::kSlice < channels) make_pixels(first_k + Tile::kSlice, stage ^ 1);
    Tile::multiply(sums, pixel_stages + stage * Tile::kPixelElements, weight_stages + stage * Tile::kWeightElements);
  }
  Tile::store(sums, memory, output, places, first_output);
}

template <class T, bool kTf32, Layout kLayout, int kKernel>
cudaError_t launch_separable_slices(const SeparableConv2dParams& p, cudaStream_t stream) {
  using Traits = SlicesTraits<T, kTf32, kLayout, kKernel>;
  const Output output = output_of(p.pw, kLayout);
  const bool x_vectors = channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype);
  const int64_t output_tiles = ceil_div(p.pw.out_channels, Traits::Tile::kOutputs);
  const int64_t blocks = output_tiles * ceil_div(output.pixels, Traits::Tile::kPixels);
  return launch_blocks(separable_slices_kernel<T, kTf32, kLayout, kKernel>, blocks, Traits::kThreads, 0, stream, p,
                       x_vectors, weights_are_vectors(p.pw), output, output_tiles);
}

#define MBV1_SEPARABLE_SLICES_INSTANTIATE(T, kTf32, kLayout, kKernel)                                    \
  template cudaError_t launch_separable_slices<T, kTf32, kLayout, kKernel>(const SeparableConv2dParams&, \
                                                                           cudaStream_t);

}  // namespace mbv1::cuda
