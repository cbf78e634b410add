// Design A of the depthwise-separable convolution, for NHWC: the depthwise half of a patch of pixels is made once,
// with all its channels, and stays in shared memory; the pointwise half then takes its output channels tile by tile.
//
//   start the copies of the first slices of pointwise weights
//   for each group of channels:        depthwise + bias + activation, rounded to the dtype of x -> patch [pixel][k]
//   for each tile of output channels:  for each slice of K: sums += patch slice * weights (a ring of cp.async copies
//                                      that runs on from one tile to the next);  y = act(sums + bias + residual)
//
// A patch is `height` rows of `width` pixels of the stack of all images' rows: near-square where images are large,
// which keeps the halo small, and across images where they are not, which keeps the tile full (7x7: 18 rows of 7 are
// 126 of 128 pixels). A thread makes kStrip neighbours along W of one vector of channels: a 3x3 of stride 1 then
// costs 4.5 loads of 16 bytes an output in place of 9, and its weights stay in registers from strip to strip.
//
// The blocks of few patches share out the output channels as well, and each makes the patch anew.
#pragma once

#include "launch.h"
#include "separable_conv2d.h"

namespace mbv1::cuda {

// A patch row's place in x: the offset of its image, -1 where there is none, and its first tap's row.
struct PatchRow {
  int64_t image;
  int top;
};

template <class Tile, int kKernel, int kStride, class T = typename Tile::T>
struct DepthwisePatch {
  static constexpr int kVec = Tile::kVec, kTaps = kKernel * kKernel;
  static constexpr int kStrip = kResidentStrip, kInputs = (kStrip - 1) * kStride + kKernel;

  // The taps of a group of channels, [tap][channel], and their bias after them.
  static __device__ void load_taps(T* taps, const DwConv2dParams& p, int64_t first_channel, int channels) {
    for (int e = threadIdx.x; e < channels * (kTaps + 1); e += Tile::kThreads) {
      // Neighbouring threads follow what lies together in memory: the channels of a tap, or the taps of a channel.
      const bool by_channel = p.weight_stride_c == 1;
      const int k = by_channel ? e % channels : e / (kTaps + 1), tap = by_channel ? e / channels : e % (kTaps + 1);
      const int64_t channel = first_channel + k;
      T value = from_float<T>(0.f);
      if (channel < p.channels && tap < kTaps) {
        value = static_cast<const T*>(p.weight)[channel * p.weight_stride_c + tap / kKernel * p.weight_stride_h +
                                                tap % kKernel * p.weight_stride_w];
      } else if (channel < p.channels && p.bias != nullptr) {
        value = static_cast<const T*>(p.bias)[channel * p.bias_stride];
      }
      taps[tap * channels + k] = value;
    }
  }

  // One strip of pixels from column `left` of x on, of the vector of channels at `x`; `taps` are those of the vector.
  static __device__ void make(float (&sums)[kStrip][kVec], const DwConv2dParams& p, const T* x, int top, int left,
                              const T* taps, int tap_pitch) {
    const auto bias = load_pack<kVec>(taps + kTaps * tap_pitch);
#pragma unroll
    for (int s = 0; s < kStrip; ++s) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) sums[s][v] = to_float(bias[v]);
    }
#pragma unroll 1
    for (int i = 0; i < kKernel; ++i) {
      if (!inside(top + i, static_cast<int>(p.in_h))) continue;
      const T* row = x + (top + i) * p.x_stride.h;
      Pack<T, kVec> inputs[kInputs];
#pragma unroll
      for (int j = 0; j < kInputs; ++j) {
        if (inside(left + j, static_cast<int>(p.in_w))) {
          inputs[j] = load_pack<kVec>(row + (left + j) * p.x_stride.w);
        } else {
#pragma unroll
          for (int v = 0; v < kVec; ++v) inputs[j][v] = from_float<T>(0.f);
        }
      }
#pragma unroll
      for (int j = 0; j < kKernel; ++j) {
        const auto tap = load_pack<kVec>(taps + (i * kKernel + j) * tap_pitch);
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          const float weight = to_float(tap[v]);
#pragma unroll
          for (int s = 0; s < kStrip; ++s) {
            sums[s][v] = fmaf(weight, to_float(inputs[s * kStride + j][v]), sums[s][v]);
          }
        }
      }
    }
  }
};

template <class T, bool kTf32, int kKernel, int kStride, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, ResidentTraits<T, kTf32, kKernel, Shape>::kBlocksPerSm)
    separable_resident_kernel(SeparableConv2dParams p, bool weight_vectors, Output output, ResidentGrid grid) {
  using Traits = ResidentTraits<T, kTf32, kKernel, Shape>;
  using Tile = typename Traits::Tile;
  using Depthwise = DepthwisePatch<Tile, kKernel, kStride>;
  constexpr int kStages = Traits::Plan::kStages, kGroups = Tile::kGroups;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  __shared__ typename Tile::TilePlaces places;
  __shared__ PatchRow rows[Tile::kPixels];
  T* const patch = reinterpret_cast<T*>(memory);  // [pixel][pitch]
  const int pitch = grid.padded_k + Tile::kVec;
  T* const ring = patch + Tile::kPixels * pitch;
  T* const taps = ring + kGroups * kStages * Tile::kWeightElements;

  const DivMod block = divmod(blockIdx.x, grid.output_groups), tile = divmod(block.quotient, grid.columns);
  const int64_t first_row = tile.quotient * grid.height;
  const int first_column = static_cast<int>(tile.remainder) * grid.width;
  const int64_t first_tile = block.remainder * grid.tiles_per_block;
  const int tiles = static_cast<int>(min(grid.tiles_per_block, grid.output_tiles - first_tile));
  const int64_t first_output = first_tile * Tile::kOutputs;

  // Step by step through the slices of all tiles; group g has every kGroups-th slice.
  const int channels = static_cast<int>(p.dw.channels);
  const int outputs_left = at_most(p.pw.out_channels - first_output, tiles * Tile::kOutputs);
  const RowCopies<Tile, Tile::kOutputs, true> weight_copies(
      p.pw.weight, p.pw.weight_stride_k, weight_vectors, Tile::kOutputs,
      [&](int i) { return (first_output + i) * p.pw.weight_stride_o; });
  T* const stages = ring + Tile::group() * kStages * Tile::kWeightElements;
  int next_tile = 0, next_k = Tile::group() * Tile::kSlice, next_stage = 0;
  const auto load = [&] {
    if (next_tile < tiles) {
      const int outputs = next_tile * Tile::kOutputs;
      weight_copies.copy(stages + next_stage * Tile::kWeightElements, next_k, channels - next_k,
                         outputs_left - outputs, outputs * p.pw.weight_stride_o);
      next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
      next_k += kGroups * Tile::kSlice;
      if (next_k >= grid.padded_k) next_k = Tile::group() * Tile::kSlice, ++next_tile;
    }
    commit_async();
  };
  wait_for_earlier_kernels();
#pragma unroll 1
  for (int i = 0; i < kStages - 1; ++i) load();

  const int64_t all_rows = p.dw.batch * p.dw.out_h;
  for (int i = threadIdx.x; i < grid.height; i += Tile::kThreads) {
    const DivMod image = divmod(first_row + i, p.dw.out_h);
    rows[i] = {first_row + i < all_rows ? image.quotient * p.dw.x_stride.n : -1,
               static_cast<int>(image.remainder) * kStride - p.dw.window.pad_top};
  }
  for (int i = threadIdx.x; i < Tile::kPixels; i += Tile::kThreads) {
    const int row = i / grid.width, column = first_column + i % grid.width;
    const bool exists = row < grid.height && first_row + row < all_rows && column < p.dw.out_w;
    const int64_t pixel = exists ? (first_row + row) * p.dw.out_w + column : output.pixels;
    places.y[i] = pixel_offset(pixel, output, output.y_stride);
    places.residual[i] = pixel_offset(pixel, output, output.residual_stride);
  }

  const int lanes = 1 << grid.log2_lanes, group_channels = lanes * Tile::kVec;
  const int lane = threadIdx.x & (lanes - 1);
  const int strips = grid.height * grid.strips_per_row;
  int tap_stage = 0;
  Depthwise::load_taps(taps, p.dw, 0, group_channels);
#pragma unroll 1
  for (int first_k = 0; first_k < grid.padded_k; first_k += group_channels, tap_stage ^= 1) {
    const int stage_elements = (Depthwise::kTaps + 1) * group_channels;
    __syncthreads();  // these taps are there, and the others are used
    if (first_k + group_channels < p.dw.channels) {
      Depthwise::load_taps(taps + (tap_stage ^ 1) * stage_elements, p.dw, first_k + group_channels, group_channels);
    }
    const int k = first_k + lane * Tile::kVec;
    if (k >= grid.padded_k) continue;
    const T* own_taps = taps + tap_stage * stage_elements + lane * Tile::kVec;
#pragma unroll 1
    for (int strip = threadIdx.x >> grid.log2_lanes; strip < strips; strip += Tile::kThreads >> grid.log2_lanes) {
      const int row = strip / grid.strips_per_row;
      const int column = (strip - row * grid.strips_per_row) * Depthwise::kStrip;
      const PatchRow from = rows[row];
      float sums[Depthwise::kStrip][Tile::kVec] = {};
      if (from.image >= 0 && k < p.dw.channels) {
        Depthwise::make(sums, p.dw, static_cast<const T*>(p.dw.x) + from.image + k, from.top,
                        (first_column + column) * kStride - p.dw.window.pad_left, own_taps, group_channels);
      }
      T* to = patch + (row * grid.width + column) * pitch + k;
#pragma unroll
      for (int s = 0; s < Depthwise::kStrip; ++s) {
        if (column + s >= grid.width) break;
        activate_all(sums[s], p.dw.activation);
        Pack<T, Tile::kVec> pack;
#pragma unroll
        for (int v = 0; v < Tile::kVec; ++v) pack[v] = from_float<T>(sums[s][v]);
        // Past the last channel zeros, which 0 weights could not make of NaN.
        if (k >= p.dw.channels) pack = {};
        store_pack(to + s * pitch, pack);
      }
    }
  }
  __syncthreads();

  int stage = 0;
#pragma unroll 1
  for (int t = 0; t < tiles; ++t) {
    float sums[Tile::kSums] = {};
#pragma unroll 1
    for (int k = Tile::group() * Tile::kSlice; k < grid.padded_k; k += kGroups * Tile::kSlice) {
      wait_async<kStages - 2>();
      Tile::sync_group();  // this slice has arrived, and the stage of the slice before it is free
      load();
      Tile::multiply(sums, patch + k, stages + stage * Tile::kWeightElements, pitch);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    if constexpr (kGroups > 1) {
      wait_async<0>();
      __syncthreads();  // all is multiplied: the memory serves the sums
    }
    Tile::store(sums, memory, output, places, first_output + t * Tile::kOutputs);
  }
}

template <class T, bool kTf32, int kKernel, class Shape>
cudaError_t launch_separable_resident(const SeparableConv2dParams& p, cudaStream_t stream) {
  using Traits = ResidentTraits<T, kTf32, kKernel, Shape>;
  const ResidentGrid grid = Traits::Plan::grid(p, current_device().sms);
  const auto kernel = p.dw.window.stride_h == 1 ? separable_resident_kernel<T, kTf32, kKernel, 1, Shape>
                                                : separable_resident_kernel<T, kTf32, kKernel, 2, Shape>;
  return launch_blocks(kernel, grid.blocks(), Shape::kThreads, Traits::Plan::shared_bytes(grid, kKernel * kKernel),
                       stream, p, weights_are_vectors(p.pw), output_of(p.pw, Layout::kNhwc), grid);
}

#define MBV1_SEPARABLE_RESIDENT_INSTANTIATE(T, kTf32, kKernel, ...)                                            \
  template cudaError_t launch_separable_resident<T, kTf32, kKernel, __VA_ARGS__>(const SeparableConv2dParams&, \
                                                                                 cudaStream_t);

}  // namespace mbv1::cuda
