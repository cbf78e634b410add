// How a tile of stem_conv2d in float32 is multiplied, by FMA.
#pragma once

#include "stem_conv2d_tiles.cuh"

namespace mbv1::cuda {

// Weights in shared memory: [tap][output], taps in the order of runs.
template <class Tile>
struct StemTaps {
  static constexpr int kSlots = Tile::kTaps, kPitch = Tile::kOutputs + 4, kWeightElements = kSlots * kPitch;

  __device__ static int tap_of_slot(int slot, int) { return slot; }
  __device__ static int place_of_weight(int slot, int output) { return slot * kPitch + output; }
};

// NHWC: a thread keeps the weights of 4 channels in registers and makes 4 neighbouring pixels at a time: 432 FMA for
// 81 words of x from shared memory, which the lanes of a pixel share. Neighbouring lanes store neighbouring channels.
class StemFmaNhwc : public StemTaps<StemTile<float, true>> {
 public:
  using Tile = StemTile<float, true>;
  static constexpr bool kOnThisArchitecture = true;
  static constexpr int kBlocks = 6, kRegisters = 168;
  static constexpr int kSetupWavefronts = 344, kItemWavefronts = 81, kItemInstructions = 575, kItemMma = 0;
  static constexpr int kPixels = 4, kVec = Tile::kVec;

  static double items(const StemConv2dParams& p) {
    return 1.0 * p.batch * p.out_h * ceil_div(p.out_w, kPixels) * (p.out_channels / kVec) / 32;
  }

  __device__ StemFmaNhwc(const StemConv2dParams& p, const float* weights, int64_t first_output, int outputs) {
    const int vectors = outputs / kVec;
    first_strip_ = threadIdx.x / vectors, strip_step_ = Tile::kThreads / vectors;
    if (first_strip_ >= strip_step_) first_strip_ = kStrips;
    channel_ = threadIdx.x % vectors * kVec;
#pragma unroll
    for (int tap = 0; tap < Tile::kTaps; ++tap) {
      weights_[tap] = load_pack<kVec>(weights + place_of_weight(tap, channel_));
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) bias_[v] = stem_bias<float>(p, first_output, outputs, channel_ + v);
  }

  __device__ void multiply(const StemConv2dParams& p, const float* tile, const StemOutputs<float>& outputs) const {
#pragma unroll 1
    for (int strip = first_strip_; strip < kStrips; strip += strip_step_) {
      const int row = strip / kRowStrips, column = strip % kRowStrips * kPixels;
      if (row >= outputs.rows || column >= outputs.columns) continue;
      const float* source =
          tile + row * Tile::kStride * Tile::kPitch + column * Tile::kStep + kVec - p.window.pad_left * Tile::kColumn;
      float sums[kPixels][kVec];
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) sums[pixel][v] = bias_[v];
      }
#pragma unroll
      for (int run = 0; run < Tile::kRuns; ++run) {
        float x[kSpan];
#pragma unroll
        for (int i = 0; i < kSpan; ++i) x[i] = source[Tile::line_of_run(run) * Tile::kPitch + i];
#pragma unroll
        for (int i = 0; i < Tile::kRun; ++i) {
#pragma unroll
          for (int pixel = 0; pixel < kPixels; ++pixel) {
#pragma unroll
            for (int v = 0; v < kVec; ++v) {
              sums[pixel][v] = fmaf(weights_[run * Tile::kRun + i][v], x[pixel * Tile::kStep + i], sums[pixel][v]);
            }
          }
        }
      }
      activate(sums, p.activation);
      float* y = outputs.y + row * p.y_stride.h + column * p.y_stride.w + channel_;
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel) {
        if (column + pixel < outputs.columns) store_vector(y + pixel * p.y_stride.w, round_to<float>(sums[pixel]));
      }
    }
  }

 private:
  static constexpr int kRowStrips = Tile::kWidth / kPixels, kStrips = Tile::kHeight * kRowStrips;
  static constexpr int kSpan = (kPixels - 1) * Tile::kStep + Tile::kRun;

  int first_strip_, strip_step_, channel_;
  Pack<float, kVec> weights_[Tile::kTaps];
  float bias_[kVec];
};

// NCHW: a thread makes 4 neighbouring pixels, a vector of y, of 8 channels, whose weights all lanes of a warp read
// from the same place: 96 FMA for 2 vectors and a word of x and 6 vectors of weights.
template <int kPadLeft>
class StemFmaNchw : public StemTaps<StemTile<float, false>> {
 public:
  using Tile = StemTile<float, false>;
  static constexpr bool kOnThisArchitecture = true;
  static constexpr int kBlocks = 8, kRegisters = 128;
  static constexpr int kSetupWavefronts = 128, kItemWavefronts = 324, kItemInstructions = 1000, kItemMma = 0;
  static constexpr int kPixels = 4, kChannels = 8;

  static double items(const StemConv2dParams& p) {
    return 1.0 * p.batch * ceil_div(p.out_h, Tile::kHeight) * ceil_div(p.out_w, Tile::kWidth) *
           ceil_div(p.out_channels, kChannels);
  }

  __device__ StemFmaNchw(const StemConv2dParams&, const float* weights, int64_t first_output, int)
      : weights_(weights), first_output_(first_output) {}

  __device__ void multiply(const StemConv2dParams& p, const float* tile, const StemOutputs<float>& outputs) const {
    const int lane = threadIdx.x % 32, row = lane / kRowStrips, strip = lane % kRowStrips, column = strip * kPixels;
    if (row >= outputs.rows || column >= outputs.columns) return;
    // Vectors 2 * strip + 1 and + 2 of a line hold 8 columns, and the one before or after them the ninth.
    const float* const line = tile + row * Tile::kStride * Tile::kPitch;
    const float* const first = line + place_of_vector<Tile>(2 * strip + 1) * Tile::kVec;
    const float* const second = line + place_of_vector<Tile>(2 * strip + 2) * Tile::kVec;
    const float* const ninth = kPadLeft ? line + place_of_vector<Tile>(2 * strip) * Tile::kVec + Tile::kVec - 1
                                        : line + place_of_vector<Tile>(2 * strip + 3) * Tile::kVec;
#pragma unroll 1
    for (int channel = threadIdx.x / 32 * kChannels; channel < outputs.channels; channel += kWarps * kChannels) {
      float sums[kChannels][kPixels];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float bias = stem_bias<float>(p, first_output_, outputs.channels, channel + c);
#pragma unroll
        for (int pixel = 0; pixel < kPixels; ++pixel) sums[c][pixel] = bias;
      }
      const float* weights = weights_ + channel;
      int offset = 0;  // of the channel's first line
#pragma unroll 1
      for (int of_x = 0; of_x < Tile::kChannels; ++of_x) {
#pragma unroll
        for (int i = 0; i < Tile::kKernel; ++i) {
          const int of_line = offset + i * Tile::kPitch;
          const auto x0 = load_pack<Tile::kVec>(first + of_line), x1 = load_pack<Tile::kVec>(second + of_line);
          float x[2 * Tile::kVec + 1];
          x[kPadLeft ? 0 : 2 * Tile::kVec] = ninth[of_line];
#pragma unroll
          for (int v = 0; v < Tile::kVec; ++v) x[kPadLeft + v] = x0[v], x[kPadLeft + Tile::kVec + v] = x1[v];
#pragma unroll
          for (int j = 0; j < Tile::kRun; ++j) {
#pragma unroll
            for (int c = 0; c < kChannels; c += Tile::kVec) {
              const auto weight = load_pack<Tile::kVec>(weights + place_of_weight(i * Tile::kRun + j, c));
#pragma unroll
              for (int v = 0; v < Tile::kVec; ++v) {
#pragma unroll
                for (int pixel = 0; pixel < kPixels; ++pixel) {
                  sums[c + v][pixel] = fmaf(weight[v], x[pixel * Tile::kStep + j], sums[c + v][pixel]);
                }
              }
            }
          }
        }
        offset += Tile::kRows * Tile::kPitch;
        weights += place_of_weight(Tile::kKernel * Tile::kKernel, 0);
      }
      activate(sums, p.activation);
      float* y = outputs.y + channel * p.y_stride.c + row * p.y_stride.h + column;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (channel + c < outputs.channels) store_vector(y + c * p.y_stride.c, round_to<float>(sums[c]));
      }
    }
  }

 private:
  static constexpr int kWarps = Tile::kThreads / 32, kRowStrips = Tile::kWidth / kPixels;
  static_assert(kRowStrips * Tile::kHeight == 32 && kPixels * Tile::kStep == 2 * Tile::kVec);

  const float* weights_;
  int64_t first_output_;
};

}  // namespace mbv1::cuda
