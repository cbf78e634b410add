// Dense convolution 3x3 at stride 2 from 3 channels: the tiles of x that its kernels multiply, and the loop over
// them.
//
// It is bound by memory: 5.4 MFMA per MB of float32 moved, so each byte of x must come once, many must be under way,
// and the multiplication must not be in their way. A block stays on its SM and takes tile after tile: while it
// multiplies one, the next one arrives by asynchronous 16-byte copies, zeros for what lies outside x, so that no
// border is left in the multiplication; and weights are read once a block.
//
// How a tile is multiplied is a Part, stem_conv2d_fma.cuh for float32, stem_conv2d_mma.cuh for the 2-byte types:
//   Tile, kBlocks                      the tile; the blocks that an SM's registers must have room for
//   kOnThisArchitecture                whether it has the instructions
//   kSlots, kWeightElements, tap_of_slot, place_of_weight    how weights lie in shared memory
//   Part(p, weights, first, outputs)   what a thread needs of the weights of `outputs` channels from `first` on
//   multiply(p, tile, outputs)         makes and stores a tile's outputs
// and, for the cost model, kRegisters, items(p): the times that a warp goes through its inner loop, and what it does
// each time (kItem*), or once a block (kSetup*). Wavefronts are cycles of the banks of shared memory.
#pragma once

#include "copies.cuh"
#include "numeric.cuh"

namespace mbv1::cuda {

template <class Element, bool kChannelsLast>
struct StemTile {
  using T = Element;
  static constexpr bool kIsNhwc = kChannelsLast;
  static constexpr int kThreads = 64;
  static constexpr int kKernel = 3, kStride = 2, kChannels = 3, kTaps = kKernel * kKernel * kChannels;
  // Outputs of a tile: rows, columns, channels. Neighbours read 1 of 5 rows and one vector of a row again.
  static constexpr int kHeight = 2, kWidth = 64, kOutputs = 32;
  static constexpr int kVec = kVectorSize<T>;

  // In memory a window is kRuns runs of kRun elements: its rows, in NCHW those of each channel. The windows of
  // neighbouring outputs are kStep elements apart.
  static constexpr int kRuns = kIsNhwc ? kKernel : kKernel * kChannels, kRun = kTaps / kRuns;
  static constexpr int kColumn = kIsNhwc ? kChannels : 1, kStep = kStride * kColumn;

  // A tile of x is kLines lines of kRows rows, of each channel in NCHW. Column 0 of the first output, which starts a
  // vector in x, is at element kVec of its line; the vector before is for the padding. An odd number of vectors keeps
  // lanes that read neighbouring lines of NCHW in different banks.
  static constexpr int kRows = (kHeight - 1) * kStride + kKernel;
  static constexpr int kLines = kIsNhwc ? kRows : kRows * kChannels;
  static constexpr int kLineElements = (kWidth * kStride + 1) * kColumn + 1;  // and the rest of a pair
  static constexpr int kLineVectors = (1 + (kLineElements + kVec - 1) / kVec) | 1, kPitch = kLineVectors * kVec;
  static constexpr int kElements = kLines * kPitch;
  static_assert(kWidth * kStep % kVec == 0);

  __host__ __device__ static constexpr int line_of_run(int run) {
    return kIsNhwc ? run : run / kKernel * kRows + run % kKernel;
  }
};

// Lanes read every second vector of a line of float32: of four neighbours in turn, eight lanes reach all banks.
template <class Tile>
__device__ inline int place_of_vector(int vector) {
  return Tile::kIsNhwc || Tile::kVec > 4 ? vector : vector ^ (vector >> 3 & 1);
}

struct StemTileAt {
  int64_t image;
  int band, column;  // in tiles
};

struct StemGrid {
  int64_t blocks, groups;  // groups of kOutputs channels, neighbouring blocks
  int bands, columns;      // tiles of an image
  StemTileAt step;         // from a block's tile to its next

  __host__ __device__ StemTileAt at(int64_t tile) const {
    const DivMod row = divmod(tile, columns), image = divmod(row.quotient, bands);
    return {image.quotient, static_cast<int>(image.remainder), static_cast<int>(row.remainder)};
  }
  __device__ StemTileAt after(StemTileAt tile) const {
    tile.column += step.column, tile.band += step.band, tile.image += step.image;
    if (tile.column >= columns) tile.column -= columns, ++tile.band;
    if (tile.band >= bands) tile.band -= bands, ++tile.image;
    return tile;
  }
};

template <class Tile>
__device__ void copy_stem_tile(const StemConv2dParams& p, const StemTileAt& at, typename Tile::T* tile) {
  const int top = at.band * Tile::kHeight * Tile::kStride - p.window.pad_top;
  const int left = at.column * Tile::kWidth * Tile::kStride, pad = p.window.pad_left;
  const int columns = min(static_cast<int>(p.in_w) - left, Tile::kWidth * Tile::kStride + 1 - pad);
  const int elements = columns * Tile::kColumn;
  const auto* x =
      static_cast<const typename Tile::T*>(p.x) + at.image * p.x_stride.n + top * p.x_stride.h + left * p.x_stride.w;
  // An even number of lanes a line, of which the first has nothing to do: both halves of a sector in one warp.
  constexpr int kLanes = Tile::kLineVectors + 1;
  static_assert(kLanes % 2 == 0);
#pragma unroll 1
  for (int e = threadIdx.x; e < Tile::kLines * kLanes; e += Tile::kThreads) {
    const int line = e / kLanes, vector = e % kLanes - 1, first = (vector - 1) * Tile::kVec;
    if (vector < 0) continue;
    const int channel = Tile::kIsNhwc ? 0 : line / Tile::kRows, row = line - channel * Tile::kRows;
    const bool exists = inside(top + row, static_cast<int>(p.in_h)) && (vector > 0 || (left > 0 && pad > 0));
    const int count = exists ? max(0, min(elements - first, Tile::kVec)) : 0;
    copy_async(tile + line * Tile::kPitch + place_of_vector<Tile>(vector) * Tile::kVec,
               x + row * p.x_stride.h + channel * p.x_stride.c + first, count);
  }
}

// The weights of `outputs` channels from `first` on, zeros past them, where Part wants them. A lane follows one slot,
// of which Part says the tap, or -1 for a zero.
template <class Part>
__device__ void load_stem_weights(const StemConv2dParams& p, int64_t first, int outputs,
                                  typename Part::Tile::T* weights) {
  using Tile = typename Part::Tile;
  using T = typename Tile::T;
  constexpr int kWarps = Tile::kThreads / 32, kLoads = Tile::kOutputs / kWarps;
  const int warp = threadIdx.x / 32;
#pragma unroll 1
  for (int slot = threadIdx.x % 32; slot < Part::kSlots; slot += 32) {
    const int tap = Part::tap_of_slot(slot, p.window.pad_left);
    const int outer = tap / (Tile::kTaps / 3), middle = tap / 3 % 3, inner = tap % 3;
    const int c = Tile::kIsNhwc ? inner : outer, i = Tile::kIsNhwc ? outer : middle,
              j = Tile::kIsNhwc ? middle : inner;
    const T* from = static_cast<const T*>(p.weight) + (first + warp) * p.weight_stride_o + c * p.weight_stride_c +
                    i * p.weight_stride_h + j * p.weight_stride_w;
    T loaded[kLoads];
#pragma unroll
    for (int o = 0; o < kLoads; ++o) {
      loaded[o] = tap >= 0 && o * kWarps + warp < outputs ? *from : from_float<T>(0.f);
      from += kWarps * p.weight_stride_o;
    }
#pragma unroll
    for (int o = 0; o < kLoads; ++o) weights[Part::place_of_weight(slot, o * kWarps + warp)] = loaded[o];
  }
}

// Of channel `output` of the `outputs` from `first` on.
template <class T>
__device__ float stem_bias(const StemConv2dParams& p, int64_t first, int outputs, int output) {
  const bool exists = p.bias != nullptr && output < outputs;
  return exists ? to_float(static_cast<const T*>(p.bias)[(first + output) * p.bias_stride]) : 0.f;
}

// The outputs of a tile that exist.
template <class T>
struct StemOutputs {
  T* y;
  int rows, columns, channels;
};

template <class Part>
__global__ void __launch_bounds__(Part::Tile::kThreads, Part::kBlocks)
    stem_conv2d_k3s2_kernel(StemConv2dParams p, StemGrid grid) {
  using Tile = typename Part::Tile;
  using T = typename Tile::T;
  __shared__ __align__(kVectorBytes) T tiles[2][Tile::kElements];
  __shared__ __align__(kVectorBytes) T weights[Part::kWeightElements];

  const DivMod block = divmod(blockIdx.x, grid.groups);
  const int64_t first_output = block.remainder * Tile::kOutputs;
  StemTileAt at = grid.at(block.quotient);
  copy_stem_tile<Tile>(p, at, tiles[0]);
  commit_async();
  const int channels = static_cast<int>(min(static_cast<int64_t>(Tile::kOutputs), p.out_channels - first_output));
  load_stem_weights<Part>(p, first_output, channels, weights);
  __syncthreads();
  Part part(p, weights, first_output, channels);
  for (int buffer = 0;; buffer ^= 1) {
    const StemTileAt next = grid.after(at);
    if (next.image < p.batch) copy_stem_tile<Tile>(p, next, tiles[buffer ^ 1]);
    commit_async();
    wait_async<1>();
    __syncthreads();
    const int oh = at.band * Tile::kHeight, ow = at.column * Tile::kWidth;
    T* const y = static_cast<T*>(p.y) + at.image * p.y_stride.n + oh * p.y_stride.h + ow * p.y_stride.w +
                 first_output * p.y_stride.c;
    const StemOutputs<T> outputs{y, static_cast<int>(p.out_h) - oh, static_cast<int>(p.out_w) - ow, channels};
    if constexpr (Part::kOnThisArchitecture) part.multiply(p, tiles[buffer], outputs);
    if (next.image >= p.batch) break;
    __syncthreads();  // the buffer is free for the tile after the next
    at = next;
  }
}

}  // namespace mbv1::cuda
