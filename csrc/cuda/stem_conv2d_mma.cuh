// How a tile of stem_conv2d in a 2-byte type is multiplied, on tensor cores: FMA of 27 taps an output would take as
// long as its bytes, mma of K = 32 or 48 a fraction of it.
//
// K is made of pairs of neighbouring elements, which a lane reads at once from the tile as it lies in memory: nothing
// is gathered before. Runs have an odd length, so each has one element too many, before it if the run starts at an
// odd element, else behind it. Its weight is zero, and so is it, for it may be NaN. Outputs are dealt to the columns
// of the fragments such that each lane ends with 16 bytes of y.
//
// In fragments of 2-byte types lane 4 * g + t has pairs t and t + 4 of rows g and g + 8 of the 16-row factor and of
// column g of the 8-column one, and sums 2 * t and 2 * t + 1 of rows g and g + 8: PTX ISA, "Matrix fragments for
// mma.m16n8k16".
#pragma once

#include "mma.cuh"
#include "stem_conv2d_tiles.cuh"

namespace mbv1::cuda {

// A pair of K: elements 2 * index - odd and the next of a run. Lane 4 * g + t has pairs 4 * i + t in its registers i.
// In NHWC, of 5 pairs a run, registers 0 to 2 have the first four of each run, register 3 has the last of run t; in
// NCHW two follow two.
template <class Tile>
struct StemPair {
  int run, index, odd;

  __device__ StemPair(int pair, int odd) : odd(odd) {
    if (!Tile::kIsNhwc) {
      run = pair / 2, index = pair % 2;
    } else if (pair < 4 * Tile::kRuns) {
      run = pair / 4, index = pair % 4;
    } else {
      run = pair - 4 * Tile::kRuns, index = 4;
    }
  }

  __device__ int element(int i) const { return 2 * index - odd + i; }
  __device__ bool has(int i) const { return run < Tile::kRuns && inside(element(i), Tile::kRun); }
  __device__ uint32_t mask() const { return (has(0) ? 0xffffu : 0u) | (has(1) ? 0xffff0000u : 0u); }

  // Where it is in a tile, relative to the outputs' first column; a pair past the last reads what its neighbours
  // read.
  __device__ int word() const {
    const int line = Tile::line_of_run(min(run, Tile::kRuns - 1));
    return (line * Tile::kPitch + Tile::kVec - odd * (Tile::kColumn + 1)) / 2 + index;
  }
};

// Weights in shared memory: pairs as [pair][output], at a pitch that spreads a fragment over all banks.
template <class Tile>
struct StemPairs {
  static constexpr int kRegisterPairs = Tile::kIsNhwc ? 4 : 5;
  static constexpr int kSlots = 2 * 4 * kRegisterPairs, kPitch = Tile::kOutputs + (Tile::kIsNhwc ? 2 : 8);
  static constexpr int kWeightElements = kSlots * kPitch;
  static_assert(kSlots >= Tile::kRuns * (Tile::kRun + 1));

  __device__ static int tap_of_slot(int slot, int odd) {
    const StemPair<Tile> pair(slot / 2, odd);
    return pair.has(slot % 2) ? pair.run * Tile::kRun + pair.element(slot % 2) : -1;
  }
  __device__ static int place_of_weight(int slot, int output) { return (slot / 2 * kPitch + output) * 2 + slot % 2; }
  __device__ static uint32_t weights(const typename Tile::T* weights, int i, int output) {
    return reinterpret_cast<const uint32_t*>(weights)[(4 * i + lane()) * kPitch + output];
  }

  __device__ static int group() { return threadIdx.x % 32 / 4; }
  __device__ static int lane() { return threadIdx.x % 4; }
  __device__ static StemPair<Tile> pair(int i, const StemConv2dParams& p) {
    return {4 * i + lane(), p.window.pad_left};
  }
};

// NHWC: 16 neighbouring pixels times 32 channels.
template <class Element>
class StemMmaNhwc : public StemPairs<StemTile<Element, true>> {
  using Pairs = StemPairs<StemTile<Element, true>>;
  using Pairs::group, Pairs::lane, Pairs::pair;

 public:
  using Tile = StemTile<Element, true>;
  static constexpr bool kOnThisArchitecture = kHasMma<Element, false>;
  static constexpr int kBlocks = 12, kRegisters = 80;
  static constexpr int kSetupWavefronts = 80, kItemWavefronts = 8, kItemInstructions = 110, kItemMma = 8;

  static double items(const StemConv2dParams& p) {
    return 1.0 * p.batch * p.out_h * ceil_div(p.out_w, kPixels) * ceil_div(p.out_channels, Tile::kOutputs);
  }

  __device__ StemMmaNhwc(const StemConv2dParams& p, const Element* weights, int64_t first_output, int outputs) {
    const auto first = pair(0, p), last = pair(Tile::kRuns, p);
    word_ = first.word() + group() * (Tile::kStep / 2), mask_ = first.mask();
    last_word_ = last.word() + group() * (Tile::kStep / 2), last_mask_ = last.mask();
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < kK; ++i) {
        weights_[n][i] = Pairs::weights(weights, i, group() / 2 * kVec + 2 * n + group() % 2);
      }
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) bias_[v] = stem_bias<Element>(p, first_output, outputs, lane() * kVec + v);
  }

  __device__ void multiply(const StemConv2dParams& p, const Element* tile,
                           const StemOutputs<Element>& outputs) const {
#pragma unroll 1
    for (int item = threadIdx.x / 32; item < Tile::kHeight * kRowItems; item += Tile::kThreads / 32) {
      const int row = item / kRowItems, column = item % kRowItems * kPixels;
      if (row >= outputs.rows || column >= outputs.columns) continue;
      const auto* words =
          reinterpret_cast<const uint32_t*>(tile + row * Tile::kStride * Tile::kPitch) + column * (Tile::kStep / 2);
      uint32_t x[kK][2];  // of pixels g and g + 8
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t* of_pixel = words + half * 8 * (Tile::kStep / 2);
#pragma unroll
        for (int run = 0; run < Tile::kRuns; ++run) x[run][half] = of_pixel[word_ + run * (Tile::kPitch / 2)] & mask_;
        x[Tile::kRuns][half] = of_pixel[last_word_] & last_mask_;
      }
      float sums[kColumns][4];
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = bias_[2 * n + i % 2];
#pragma unroll
        for (int k = 0; k < kK; k += 2) {
          mma<Element>(sums[n], {x[k][0], x[k][1], x[k + 1][0], x[k + 1][1]}, weights_[n][k], weights_[n][k + 1]);
        }
      }
      float values[2][kVec];
#pragma unroll
      for (int i = 0; i < 2 * kVec; ++i) values[i / kVec][i % kVec] = sums[i % kVec / 2][i / kVec * 2 + i % 2];
      activate(values, p.activation);
      Element* y = outputs.y + row * p.y_stride.h + (column + group()) * p.y_stride.w + lane() * kVec;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool exists = column + group() + half * 8 < outputs.columns && lane() * kVec < outputs.channels;
        if (exists) store_vector(y + half * 8 * p.y_stride.w, round_to<Element>(values[half]));
      }
    }
  }

 private:
  static constexpr int kVec = Tile::kVec, kPixels = 16, kRowItems = Tile::kWidth / kPixels;
  static constexpr int kK = Pairs::kRegisterPairs, kColumns = Tile::kOutputs / 8;

  int word_, last_word_;
  uint32_t mask_, last_mask_;
  uint32_t weights_[kColumns][kK];
  float bias_[kVec];
};

// NCHW: 32 channels times 32 neighbouring pixels.
template <class Element>
class StemMmaNchw : public StemPairs<StemTile<Element, false>> {
  using Pairs = StemPairs<StemTile<Element, false>>;
  using Pairs::group, Pairs::lane, Pairs::pair;

 public:
  using Tile = StemTile<Element, false>;
  static constexpr bool kOnThisArchitecture = kHasMma<Element, false>;
  static constexpr int kBlocks = 8, kRegisters = 128;
  static constexpr int kSetupWavefronts = 212, kItemWavefronts = 20, kItemInstructions = 190, kItemMma = 24;

  static double items(const StemConv2dParams& p) {
    return 1.0 * p.batch * p.out_h * ceil_div(p.out_w, kPixels) * ceil_div(p.out_channels, Tile::kOutputs);
  }

  __device__ StemMmaNchw(const StemConv2dParams& p, const Element* weights, int64_t first_output, int outputs) {
    mask_ = pair(0, p).mask(), last_mask_ = pair(kK - 1, p).mask();
    const int pixel = group() / 2 * kVec + group() % 2;
    word_ = StemPair<Tile>(lane() % 2, p.window.pad_left).word() + pixel * (Tile::kStep / 2);
    next_ = lane() / 2 * (Tile::kPitch / 2);
#pragma unroll
    for (int i = 0; i < kK; ++i) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) weights_[row][i] = Pairs::weights(weights, i, row * 8 + group());
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) bias_[i] = stem_bias<Element>(p, first_output, outputs, i * 8 + group());
  }

  __device__ void multiply(const StemConv2dParams& p, const Element* tile,
                           const StemOutputs<Element>& outputs) const {
#pragma unroll 1
    for (int item = threadIdx.x / 32; item < Tile::kHeight * kRowItems; item += Tile::kThreads / 32) {
      const int row = item / kRowItems, column = item % kRowItems * kPixels;
      if (row >= outputs.rows || column >= outputs.columns) continue;
      const auto* words =
          reinterpret_cast<const uint32_t*>(tile + row * Tile::kStride * Tile::kPitch) + column * (Tile::kStep / 2);
      Pack<Element, kVec> results[kRows];  // of channels i * 8 + g and pixels t * kVec + v
#pragma unroll
      for (int n = 0; n < kVec / 2; ++n) {
        uint32_t x[kK + 1] = {};
#pragma unroll
        for (int i = 0; i < kK; ++i) {
          x[i] = words[word(i) + n * Tile::kStep] & (i == kK - 1 ? last_mask_ : mask_);
        }
        float sums[kRows / 2][4];
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[m][i] = bias_[2 * m + i / 2];
#pragma unroll
          for (int k = 0; k < kK; k += 2) {
            const bool more = k + 1 < kK;
            mma<Element>(sums[m],
                         {weights_[2 * m][k], weights_[2 * m + 1][k], more ? weights_[2 * m][k + 1] : 0,
                          more ? weights_[2 * m + 1][k + 1] : 0},
                         x[k], x[k + 1]);
          }
        }
        activate(sums, p.activation);
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m) {
          const auto rounded = round_to<Element>(sums[m]);
#pragma unroll
          for (int i = 0; i < 4; ++i) results[2 * m + i / 2][2 * n + i % 2] = rounded[i];
        }
      }
      Element* y = outputs.y + row * p.y_stride.h + column + lane() * kVec + group() * p.y_stride.c;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool exists = column + lane() * kVec < outputs.columns && i * 8 + group() < outputs.channels;
        if (exists) store_vector(y + i * 8 * p.y_stride.c, results[i]);
      }
    }
  }

 private:
  static constexpr int kVec = Tile::kVec, kPixels = 32, kRowItems = Tile::kWidth / kPixels;
  static constexpr int kK = Pairs::kRegisterPairs, kRows = Tile::kOutputs / 8;

  // Where the pair of register i is in a tile. Lanes 2 and 3 have one of the next run.
  __device__ int word(int i) const {
    const int line = Tile::line_of_run(2 * i), next = Tile::line_of_run(min(2 * i + 1, Tile::kRuns - 1));
    return word_ + line * (Tile::kPitch / 2) + (next - line) * next_;
  }

  int word_, next_;
  uint32_t mask_, last_mask_;
  uint32_t weights_[kRows][kK];
  float bias_[kRows];
};

}  // namespace mbv1::cuda
