// Depthwise convolution in NHWC, square windows of 3, 5 and 7 at stride 1 and 2.
//
// A warp slides down a strip of the image, kColumns outputs wide and 128 bytes of channels deep (less where C has
// less; the warp then takes several strips side by side). Rows arrive in a ring in shared memory by asynchronous
// 16-byte copies, three rows ahead of the sums, zeros for what lies outside: no border is left in the inner loop, and
// the loads in flight need no registers. A lane makes 4 bytes of channels with its weights in registers, and keeps
// open the sums of all the outputs that a row takes part in, so that each row is read and converted once.
// Warps share nothing but the weights, so there is no barrier over the block after the first.
//
// Read of x per output, for bands of 14 rows: 4 / 4 + 2 / 4 columns, times 16 / 14 rows = 1.7 for 3x3 at stride 1,
// where a thread per output reads 9. Neighbouring strips read the columns that they share from L1.
#pragma once

#include <cstring>

#include "device.h"
#include "dwconv2d.h"
#include "mma.cuh"
#include "numeric.cuh"
#include "work.h"

namespace mbv1::cuda {

template <class Element, int kWindow, int kStep>
struct StripTraits {
  using T = Element;
  static constexpr int kKernel = kWindow, kStride = kStep, kTaps = kKernel * kKernel;
  static constexpr int kWarps = kKernel == 7 ? 2 : 4, kThreads = 32 * kWarps;
  static constexpr int kColumns = 4;
  static constexpr int kInColumns = (kColumns - 1) * kStride + kKernel;
  static constexpr int kVec = kVectorSize<T>;
  // A warp reads a pixel, 4 bytes a lane, from all banks of shared memory at once.
  static constexpr int kLaneChannels = 4 / static_cast<int>(sizeof(T));
  static constexpr int kPixelVectors = 32 * 4 / kVectorBytes;
  static constexpr int kRowVectors = kInColumns * kPixelVectors;
  static constexpr int kCopies = (kRowVectors + 31) / 32;  // of a lane, for a row
  // In flight are kRing - 1 rows a warp: 24 warps of 3 rows of 768 bytes for 3x3, 8 warps of 7 of 1,280 for 7x7.
  static constexpr int kRing = kKernel == 7 ? 8 : 4;
  // Outputs of a column whose sums are open from one step of kStride rows to the next.
  static constexpr int kOpen = (kKernel - 1) / kStride;
  static constexpr int kRingVectors = kRing * kRowVectors, kWarpVectors = kRingVectors + 32;
  static constexpr int kWeightElements = 32 * kLaneChannels * kTaps;  // 4 bytes a tap and lane
  static constexpr int kSharedBytes = kWarps * kWarpVectors * kVectorBytes + 32 * 4 * kTaps;
  static_assert(kColumns * kPixelVectors == 32);  // a lane stores one vector of a row of outputs
  static_assert((kRing & (kRing - 1)) == 0 && kSharedBytes <= 48 * 1024);
  // A strip reads kKernel - kStride rows that the one above it reads too.
  static constexpr int kMaxBand = kKernel == 3 ? 16 : 32;
  static constexpr int kMinBand = kKernel - 1;
  // What the registers of an SM allow: at most 96, 128 and 255 of 65,536 a thread.
  static constexpr int kBlocks = kKernel == 3 ? 5 : 4;
  static constexpr int kRegisters = sizeof(T) == 4 ? (kKernel == 3   ? 64
                                                      : kKernel == 5 ? 88
                                                                     : 128)
                                                   : (kKernel == 3   ? 96
                                                      : kKernel == 5 ? 128
                                                                     : 160);
};

// The two numbers of a word. Volatile: hoisted out of a loop, the results would be the registers that this saves.
template <class T>
__device__ inline void unpack_here(uint32_t word, float& low, float& high) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
                 : "=f"(low), "=f"(high)
                 : "r"(word));
  } else {
    asm volatile("shl.b32 %0, %2, 16; and.b32 %1, %2, 0xffff0000;" : "=f"(low), "=f"(high) : "r"(word));
  }
}

// The weights of a lane's channels: as float32, or, where these do not fit the registers (98 of 7x7), as they are in
// memory and converted at each use, which costs an instruction for four FMA.
template <class Traits>
struct LaneWeights {
  using T = typename Traits::T;
  static constexpr int kLaneChannels = Traits::kLaneChannels, kTaps = Traits::kTaps;
  static constexpr bool kPacked = kTaps * kLaneChannels > 64;

  __device__ void set(int tap, const Pack<T, kLaneChannels>& weight) {
    if constexpr (kPacked) {
      packed[tap] = *reinterpret_cast<const uint32_t*>(&weight);
    } else {
#pragma unroll
      for (int v = 0; v < kLaneChannels; ++v) floats[tap][v] = to_float(weight[v]);
    }
  }

  __device__ void get(int tap, float (&weight)[kLaneChannels]) const {
    if constexpr (kPacked) {
      unpack_here<T>(packed[tap], weight[0], weight[1]);
    } else {
#pragma unroll
      for (int v = 0; v < kLaneChannels; ++v) weight[v] = floats[tap][v];
    }
  }

 private:
  float floats[kPacked ? 1 : kTaps][kLaneChannels];
  uint32_t packed[kPacked ? kTaps : 1];
};

struct StripGrid {
  int log2_lanes;  // that share a strip
  int band;        // rows of a strip
  int64_t channel_groups, bands, strips_per_row, strips;
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    dwconv2d_nhwc_strips_kernel(DwConv2dParams p, StripGrid grid) {
  using T = typename Traits::T;
  constexpr int kKernel = Traits::kKernel, kStride = Traits::kStride, kTaps = Traits::kTaps, kOpen = Traits::kOpen;
  constexpr int kColumns = Traits::kColumns, kInColumns = Traits::kInColumns;
  constexpr int kLaneChannels = Traits::kLaneChannels, kRing = Traits::kRing;
  using Lane = Pack<T, kLaneChannels>;
  __shared__ uint4 memory[Traits::kWarps][Traits::kWarpVectors];
  __shared__ T shared_weights[Traits::kWeightElements];  // [channel][tap]

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int lanes = 1 << grid.log2_lanes;
  const DivMod block = divmod(blockIdx.x, grid.channel_groups);
  const int64_t first_channel = block.remainder * lanes * kLaneChannels;
  const int64_t first_strip = (block.quotient * Traits::kWarps + warp) << (5 - grid.log2_lanes);
  uint4* const ring = memory[warp];
  uint4* const staging = ring + Traits::kRingVectors;

  // A lane moves vector lane % 8, the channels of four lanes, of pixels lane / 8, lane / 8 + 4, ... of the strip.
  const int moved_lane = lane % Traits::kPixelVectors * 4, moved_column = lane / Traits::kPixelVectors;
  const int64_t strip = first_strip + (moved_lane >> grid.log2_lanes);
  const int64_t moved_channel = first_channel + (moved_lane & (lanes - 1)) * kLaneChannels;
  const bool moves = strip < grid.strips && moved_channel < p.channels;
  const DivMod row_of_strips = divmod(strip, grid.strips_per_row), image = divmod(row_of_strips.quotient, grid.bands);
  const int first_oh = static_cast<int>(image.remainder) * grid.band;
  const int ow = static_cast<int>(row_of_strips.remainder) * kColumns;
  const int in_h = static_cast<int>(p.in_h), in_w = static_cast<int>(p.in_w);
  const int top = first_oh * kStride - p.window.pad_top, left = ow * kStride - p.window.pad_left + moved_column;

  const T* from = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n + top * p.x_stride.h +
                  left * p.x_stride.w + moved_channel;
  unsigned columns_inside = 0;
#pragma unroll
  for (int c = 0; c < Traits::kCopies; ++c) columns_inside |= (moves && inside(left + c * 4, in_w)) << c;
  const int in_rows = (grid.band - 1) * kStride + kKernel;
  int next_row = 0;
  const auto copy_next_row = [&] {
    uint4* to = ring + next_row % kRing * Traits::kRowVectors + lane;
    const unsigned exists = next_row < in_rows && inside(top + next_row, in_h) ? columns_inside : 0;
#pragma unroll
    for (int c = 0; c < Traits::kCopies; ++c) {
      if ((c + 1) * 32 <= Traits::kRowVectors || moved_column + c * 4 < kInColumns) {
        copy_word_async<kVectorBytes, true>(to + c * 32, from + c * 4 * p.x_stride.w, exists >> c & 1);
      }
    }
    commit_async();
    from += p.x_stride.h;
    ++next_row;
  };
#pragma unroll
  for (int i = 0; i < kRing - 1; ++i) copy_next_row();

  const int64_t channel = first_channel + (lane & (lanes - 1)) * kLaneChannels;
  const bool computes = channel < p.channels;
  // Neighbouring threads follow the taps of a channel, which is how (C, 1, KH, KW) lies in memory.
  for (int e = threadIdx.x; e < lanes * kLaneChannels * kTaps; e += Traits::kThreads) {
    const int c = e / kTaps, tap = e % kTaps;
    const T* weight = static_cast<const T*>(p.weight) + (first_channel + c) * p.weight_stride_c +
                      tap / kKernel * p.weight_stride_h + tap % kKernel * p.weight_stride_w;
    shared_weights[e] = first_channel + c < p.channels ? *weight : from_float<T>(0.f);
  }
  __syncthreads();
  if (first_strip >= grid.strips) return;
  LaneWeights<Traits> weights;
  float bias[kLaneChannels] = {};
  const T* lane_weights = shared_weights + (lane & (lanes - 1)) * kLaneChannels * kTaps;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    Lane pack;
#pragma unroll
    for (int v = 0; v < kLaneChannels; ++v) pack[v] = lane_weights[v * kTaps + tap];
    weights.set(tap, pack);
  }
#pragma unroll
  for (int v = 0; v < kLaneChannels; ++v) {
    if (computes && p.bias) bias[v] = to_float(static_cast<const T*>(p.bias)[(channel + v) * p.bias_stride]);
  }

  float x[kInColumns][kLaneChannels];
  const auto read_row = [&] {
    wait_async<kRing - 2>();
    __syncwarp();
    const auto* row = reinterpret_cast<const uint32_t*>(ring + (next_row + 1) % kRing * Traits::kRowVectors) + lane;
    copy_next_row();
#pragma unroll
    for (int j = 0; j < kInColumns; ++j) {
      const uint32_t word = row[j * 32];
      Lane pixel;
      memcpy(&pixel, &word, sizeof(word));
#pragma unroll
      for (int v = 0; v < kLaneChannels; ++v) x[j][v] = to_float(pixel[v]);
    }
  };
  // sums = before + row i of the window times x
  using Sums = float[kColumns][kLaneChannels];
  const auto add_row = [&](Sums& sums, const auto& before, int i) {
#pragma unroll
    for (int j = 0; j < kKernel; ++j) {
      float w[kLaneChannels];
      weights.get(i * kKernel + j, w);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int v = 0; v < kLaneChannels; ++v) {
          sums[c][v] = fmaf(w[v], x[c * kStride + j][v], j == 0 ? before(c, v) : sums[c][v]);
        }
      }
    }
  };

  T* y = static_cast<T*>(p.y) + image.quotient * p.y_stride.n + first_oh * p.y_stride.h +
         (ow + moved_column) * p.y_stride.w + moved_channel;
  const bool stores = moves && ow + moved_column < p.out_w;
  const int rows = min(grid.band, static_cast<int>(p.out_h) - first_oh);

  // Step t reads rows t * kStride to t * kStride + kStride - 1. In the first of them output row t - d is at row
  // d * kStride of its window: open[d] holds its sums for the steps after, and t - kOpen is complete.
  Sums open[kOpen] = {};
  for (int step = 0;; ++step) {
    read_row();
    if (step >= kOpen) {
      Sums sums;
      add_row(sums, [&](int c, int v) { return open[kOpen - 1][c][v]; }, kKernel - 1);
      activate(sums, p.activation);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        reinterpret_cast<Lane*>(staging)[c * 32 + lane] = round_to<T>(sums[c]);
      }
      __syncwarp();
      if (stores && step - kOpen < rows) *reinterpret_cast<uint4*>(y) = staging[lane];
      y += p.y_stride.h;
    }
    if (step == grid.band + kOpen - 1) break;
#pragma unroll
    for (int d = kOpen - 1; d > 0; --d) {
      if (step >= d && step - d < grid.band) {
        add_row(open[d], [&](int c, int v) { return open[d - 1][c][v]; }, d * kStride);
      }
    }
    if (step < grid.band) add_row(open[0], [&](int, int v) { return bias[v]; }, 0);
    if constexpr (kStride == 2) {
      read_row();
#pragma unroll
      for (int d = kOpen - 1; d >= 0; --d) {
        if (step >= d && step - d < grid.band) {
          add_row(open[d], [&](int c, int v) { return open[d][c][v]; }, d * kStride + 1);
        }
      }
    }
  }
}

template <class Traits>
StripGrid strip_grid(const DwConv2dParams& p) {
  StripGrid grid{};
  // As many lanes as C fills best, at least one 32-byte sector of them if there are so many; the more the better.
  const int64_t used = ceil_div(p.channels, Traits::kLaneChannels);
  int64_t best = INT64_MAX;
  for (int log2 = 5; log2 >= 2; --log2) {
    const int64_t lanes = ceil_div(used, 1 << log2) << log2;
    if (lanes < best && (log2 >= 3 || used <= 4)) best = lanes, grid.log2_lanes = log2;
  }
  grid.channel_groups = ceil_div(used, 1 << grid.log2_lanes);
  grid.strips_per_row = ceil_div(p.out_w, Traits::kColumns);
  // Shorter bands read more of x twice, but keep more SMs busy.
  const int64_t enough_warps = 16 * current_device().sms;
  for (int64_t most = Traits::kMaxBand;; most /= 2) {
    grid.bands = ceil_div(p.out_h, most);
    grid.band = static_cast<int>(ceil_div(p.out_h, grid.bands));
    grid.strips = p.batch * grid.bands * grid.strips_per_row;
    if (most <= Traits::kMinBand || grid.strips * grid.channel_groups >> (5 - grid.log2_lanes) >= enough_warps) break;
  }
  return grid;
}

template <class Traits>
int64_t strip_blocks(const StripGrid& grid) {
  return grid.channel_groups * ceil_div(grid.strips, Traits::kWarps << (5 - grid.log2_lanes));
}

template <int kKernel, int kStride>
bool matches_nhwc_strips(const DwConv2dParams& p) {
  const Window& w = p.window;
  return has_cuda_kernels(p.dtype) && w.kernel_h == kKernel && w.kernel_w == kKernel && w.stride_h == kStride &&
         w.stride_w == kStride && w.dilation_h == 1 && w.dilation_w == 1 && coordinates_fit_int32(p) &&
         p.channels % vector_size(p.dtype) == 0 && channels_are_vectors(p.x, p.x_stride, p.dtype) &&
         channels_are_vectors(p.y, p.y_stride, p.dtype);
}

template <int kKernel, int kStride>
Work work_nhwc_strips(const DwConv2dParams& p) {
  Work work{};
  dispatch_dtype(p.dtype, [&](auto type) {
    using Traits = StripTraits<typename decltype(type)::type, kKernel, kStride>;
    const StripGrid grid = strip_grid<Traits>(p);
    const int strips_per_warp = 32 >> grid.log2_lanes, in_rows = (grid.band - 1) * kStride + kKernel;
    const double bytes = element_bytes(p.dtype), taps = kKernel * kKernel;
    // Neighbouring strips of a block share columns in L1.
    const int64_t block_strips = std::min<int64_t>(Traits::kWarps * strips_per_warp, grid.strips_per_row);
    const int64_t block_columns = (block_strips * Traits::kColumns - 1) * kStride + kKernel;
    const double rows = coordinates_of_tiles(p.in_h, grid.bands, grid.band, in_rows, kStride, p.window.pad_top);
    const double columns = coordinates_of_tiles(p.in_w, grid.strips_per_row, Traits::kColumns, Traits::kInColumns,
                                                kStride, p.window.pad_left);
    const double distinct_columns =
        coordinates_of_tiles(p.in_w, ceil_div(grid.strips_per_row, block_strips), block_strips * Traits::kColumns,
                             block_columns, kStride, p.window.pad_left);
    const double row_bytes = p.batch * p.channels * rows * bytes, y_bytes = outputs(p) * bytes;
    work.blocks = strip_blocks<Traits>(grid);
    const double warps = grid.channel_groups * ceil_div(grid.strips, strips_per_warp);
    const double lane_weights = (taps + 1) * Traits::kLaneChannels;
    work.threads = Traits::kThreads, work.registers = Traits::kRegisters, work.shared_bytes = Traits::kSharedBytes;
    work.dram_bytes = tensor_bytes(p);
    work.l2_bytes = row_bytes * distinct_columns + y_bytes + work.blocks * (lane_weights * bytes * 32);
    // Into the ring, with zeros around x, and out of it; results to staging, from there, and to y; and the weights:
    // from memory to shared memory by each block, to registers by each warp.
    work.l1_bytes = row_bytes * columns + warps * in_rows * Traits::kInColumns * 256 + warps * grid.band * 512 * 3 +
                    work.blocks * lane_weights * 32 * (2 * bytes + 4) + warps * lane_weights * 128;
    const double lane_outputs = Traits::kColumns * Traits::kLaneChannels;
    work.ffma = warps * 32 * grid.band * lane_outputs * taps;
    // Of a lane: per step its conditions, per row the copies, the reads of the ring and what converts them; per
    // output row what converts packed weights, the activation and the stores; then offsets, and its weights, which
    // the block's threads fetched one by one.
    const double converted = conversions(p.dtype) * Traits::kLaneChannels;
    const double converted_weights = LaneWeights<Traits>::kPacked ? taps * Traits::kLaneChannels : 0;
    const double fetched = work.blocks * static_cast<double>(1 << grid.log2_lanes) * Traits::kLaneChannels * taps;
    work.instructions = work.ffma + fetched * 27 +
                        warps * 32 *
                            ((grid.band + Traits::kOpen) * 26 +
                             in_rows * (7 + Traits::kCopies * 7 + Traits::kInColumns * (1 + converted)) +
                             grid.band * (40 + converted_weights + 1.5 * lane_outputs) +
                             lane_weights * (1 + conversions(p.dtype)) + 180);
    // The ring hides the memory but for one row in kRing - 1.
    work.round_trips = static_cast<double>(ceil_div(in_rows, Traits::kRing - 1));
    return cudaSuccess;
  });
  return work;
}

template <int kKernel, int kStride>
cudaError_t launch_nhwc_strips(const DwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dtype, [&](auto type) {
    using Traits = StripTraits<typename decltype(type)::type, kKernel, kStride>;
    const StripGrid grid = strip_grid<Traits>(p);
    const int64_t blocks = strip_blocks<Traits>(grid);
    if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
    dwconv2d_nhwc_strips_kernel<Traits><<<static_cast<unsigned>(blocks), Traits::kThreads, 0, stream>>>(p, grid);
    return cudaGetLastError();
  });
}

}  // namespace mbv1::cuda
