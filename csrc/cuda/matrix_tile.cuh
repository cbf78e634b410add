// The matrix product under pwconv2d and separable_conv2d: a block multiplies a tile of pixels with a
// tile of output channels, slice by slice of K, from shared memory.
//
//            A (M x K)            B (K x N)             D (M x N), written along N
//   NHWC     pixels  [pixel][k]   weights [output][k]   [pixel][output]
//   NCHW     weights [output][k]  pixels  [k][pixel]    [output][pixel]
//
// so that in either layout both the reads of x and the writes of y follow memory, and no layout is ever copied.
// Float16, bfloat16 and TF32 run on tensor cores, float32 (and what sm_75 lacks) on FMA, with the same tiles.
//
// Where tiles are too few for the device, kGroups groups of warps share out the slices of one tile and add their sums
// in the order of the groups: split-K inside a block, with no workspace and the same result in every run.
#pragma once

#include "matrix_output.cuh"
#include "mma.cuh"

namespace mbv1::cuda {

__host__ __device__ constexpr int max_of(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }

// Whether FMAs multiply on every architecture.
template <class T, bool kTf32>
constexpr bool kIsFma = std::is_same_v<T, float> && !kTf32;

template <class Element, bool kTf32, Layout kTileLayout, int kWarpsM, int kWarpsN, int kWarpM = 32, int kWarpN = 32,
          int kTileGroups = 1>
struct MatrixTile {
  using T = Element;
  static constexpr Layout kLayout = kTileLayout;
  static constexpr bool kIsNhwc = kLayout == Layout::kNhwc, kUsesTf32 = kTf32;
  // A warp makes 32 x 32 or 64 x 32. An ldmatrix of 512 bytes takes 4 cycles of shared memory, an mma 2 of an A100's
  // tensor cores: 4 loads to 8 mma at 32 x 32 are balanced, 6 to 16 at 64 x 32 leave the tensor cores the limit.
  // By FMA a thread makes R x C sums, a warp 4 R x 8 C. For 4 values of K it then loads R + C vectors, 4 cycles of
  // shared memory each, for R C cycles of an SM's 128 lanes: 8 x 4 needs 1.5 times the cycles of its FMAs, 16 x 4
  // 1.25, 8 x 8 (32 x 64 a warp) as many, and 16 x 8 (64 x 64) 0.75: there the FMAs are the limit.
  static constexpr int kM = kWarpM * kWarpsM, kN = kWarpN * kWarpsN;
  static constexpr int kGroups = kTileGroups, kGroupThreads = 32 * kWarpsM * kWarpsN,
                       kThreads = kGroupThreads * kGroups;
  static constexpr int kWarpRows = kWarpM, kWarpColumns = kWarpN;
  static constexpr int kFmaRows = kWarpM / 4, kFmaColumns = kWarpN / 8;  // of a thread
  static constexpr int kSums = kWarpM * kWarpN / 32;                     // a thread's
  static_assert(kWarpM == 32 || kWarpM == 64);
  static_assert(kWarpN == 32 || (kWarpN == 64 && kIsFma<T, kTf32>));
  static constexpr int kPixels = kIsNhwc ? kM : kN, kOutputs = kIsNhwc ? kN : kM;
  static constexpr int kVec = kVectorSize<T>;
  static constexpr int kPacks = 4;  // vectors of a slice: two steps of mma
  static constexpr int kSlice = kPacks * kVec;
  // One vector of padding: the 8 rows of an ldmatrix start at odd multiples of 16 bytes, in distinct banks.
  static constexpr int kRowPitch = kSlice + kVec;
  // In [k][pixel], 4-byte lanes read column lane / 4 of row lane % 4: a pitch of 8 mod 32 banks keeps them apart.
  static constexpr int kColumnPitch = kN + 8;
  static_assert(kRowPitch * sizeof(T) % 32 == 16 && kColumnPitch * sizeof(T) % kVectorBytes == 0);
  static constexpr int kWeightElements = kOutputs * kRowPitch;
  static constexpr int kPixelElements = kIsNhwc ? kPixels * kRowPitch : kSlice * kColumnPitch;
  static_assert(kWeightElements * sizeof(T) % kVectorBytes == 0 && kPixelElements * sizeof(T) % kVectorBytes == 0);
  // Shared memory in which groups meet; one group needs none.
  static constexpr int kStagingBytes = kGroups > 1 ? kThreads * kSums * static_cast<int>(sizeof(float)) : 0;
  // And that of rows that are written by columns, in NCHW: a warp's 8 rows, or 4 by FMA, of 32 columns and a gap.
  static constexpr int kColumnBytes = 8 * 40 * static_cast<int>(sizeof(float));
  static constexpr int kStoreBytes = kStagingBytes + (kIsNhwc ? 0 : kThreads / 32 * kColumnBytes);
  using TilePlaces = Places<kPixels>;

  static __device__ int group() { return threadIdx.x / kGroupThreads; }

  // Orders the shared memory of a group's own slices.
  static __device__ void sync_group() {
    if constexpr (kGroups > 1 && kGroupThreads == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // Stores a vector of K of one pixel in a pixel tile.
  static __device__ void store_pixel(T* tile, int pixel, int k, const Pack<T, kVec>& pack) {
    if constexpr (kIsNhwc) {
      store_pack(tile + pixel * kRowPitch + k, pack);
    } else {
#pragma unroll
      for (int v = 0; v < kVec; ++v) tile[(k + v) * kColumnPitch + pixel] = pack[v];
    }
  }

  // Copies `count` elements (negative: none) to shared memory and fills the vector up with zeros.
  static __device__ void copy_elements(T* to, const T* from, int64_t stride, int count) {
    Pack<T, kVec> pack;
#pragma unroll
    for (int v = 0; v < kVec; ++v) pack[v] = v < count ? from[v * stride] : from_float<T>(0.f);
    store_pack(to, pack);
  }

  // sums += a slice of A times one of B. Rows of `a` are `a_pitch` elements apart.
  static __device__ void multiply(float (&sums)[kSums], const T* pixels, const T* weights, int a_pitch = kRowPitch) {
    const T* a = kIsNhwc ? pixels : weights;
    const T* b = kIsNhwc ? weights : pixels;
    if constexpr (kHasMma<T, kTf32>) {
      multiply_mma(sums, a, b, a_pitch);
    } else {
      multiply_fma(sums, a, b, a_pitch);
    }
  }

  // Writes the tile. No copy to `memory`, kStoreBytes, may be under way; only in NCHW and with several groups is it
  // used.
  static __device__ void store(const float (&sums)[kSums], void* memory, const Output& output,
                               const TilePlaces& places, int64_t first_channel) {
    float* const staging = static_cast<float*>(memory);
    if (!kIsNhwc && !output.y_vectors) __syncthreads();  // the last slice is multiplied: its memory serves columns
    if constexpr (kGroups > 1) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) staging[i * kThreads + threadIdx.x] = sums[i];
      __syncthreads();
    }
    // A loop, lest the epilogue be unrolled for each of the sums, which a register array would otherwise ask for.
    // Each sum of a round is selected among those of all rounds: four, and several rows a round.
#pragma unroll 1
    for (int round = kGroups > 1 ? group() : 0; round < kRounds; round += kGroups) {
#pragma unroll
      for (int row = 0; row < kRoundRows; ++row) {
#pragma unroll
        for (int unit = 0; unit < kRowUnits; ++unit) {
          float values[4][kUnitSums / 4];
#pragma unroll
          for (int i = 0; i < kUnitSums; ++i) {
            values[i / (kUnitSums / 4)][i % (kUnitSums / 4)] = sum_of_unit(sums, staging, round, row, unit, i);
          }
          const int row_of_thread = round * kRoundRows + row;
          if (!kIsNhwc && !output.y_vectors) {
            store_columns(values, staging + kStagingBytes / sizeof(float), row_of_thread, unit, output, places,
                          first_channel);
          } else {
            store_unit(values, row_of_thread, unit, output, places, first_channel);
          }
        }
      }
    }
  }

 private:
  // What a thread has of one row of its warp, and finishes at once: with mma, 2 neighbours of each of 4 n8 tiles, and
  // with FMA 4 sums, once or twice.
  static constexpr bool kIsMma = kHasMma<T, kTf32>;
  static constexpr int kUnitSums = kIsMma ? 8 : 4, kRowUnits = kIsMma ? 1 : kFmaColumns / 4;
  static constexpr int kRows = kSums / kRowUnits / kUnitSums;
  static constexpr int kRoundRows = kGroups > 1 ? 1 : kRows / 4, kRounds = kRows / kRoundRows;
  // Rows of a warp's unit, as they pass through shared memory to be written by columns. With these pitches neither
  // the pairs of 4 rows and 4 lanes nor the vectors of 2 rows and 4 lanes meet in a bank.
  static constexpr int kUnitRows = kIsMma ? 8 : 4, kStagedPitch = kIsMma ? 40 : 48;
  static_assert(kUnitRows * kStagedPitch * sizeof(float) <= kColumnBytes);

  static __device__ int position() { return threadIdx.x % kGroupThreads / 32; }
  static __device__ int warp_row() { return position() / kWarpsN * kWarpM; }
  static __device__ int warp_column() { return position() % kWarpsN * kWarpN; }

  static __device__ constexpr int sum_index(int row, int unit, int i) {
    return kIsMma ? (row / 2 * 4 + i / 2) * 4 + row % 2 * 2 + i % 2 : (row * kRowUnits + unit) * kUnitSums + i;
  }

  static __device__ float sum_of_unit(const float (&sums)[kSums], const float* staging, int round, int row, int unit,
                                      int i) {
    float value = 0.f;
    if constexpr (kGroups > 1) {
      const float* first = staging + sum_index(round, unit, i) * kThreads + threadIdx.x % kGroupThreads;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) value += first[g * kGroupThreads];
    } else {
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        if (r == round) value = sums[sum_index(r * kRoundRows + row, unit, i)];
      }
    }
    return value;
  }

  static __device__ void store_unit(float (&values)[4][kUnitSums / 4], int row_of_thread, int unit,
                                    const Output& output, const TilePlaces& places, int64_t first_channel) {
    const int lane = threadIdx.x % 32, in_quad = lane % 4;
    if constexpr (kIsMma && sizeof(T) == 2) {
      const int row = warp_row() + row_of_thread * 8 + lane / 4;
      trade_in_quad<2>(values);
      finish_pack<T, kLayout, 8>(values[0], row, warp_column() + in_quad * 8, output, places, first_channel);
    } else if constexpr (kIsMma) {
      const int row = warp_row() + row_of_thread * 8 + lane / 4;
      trade_in_quad<1>(values);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const int column = warp_column() + pair * 16 + in_quad % 2 * 8 + in_quad / 2 * 4;
        finish_pack<T, kLayout, 4>(values[2 * pair], row, column, output, places, first_channel);
      }
    } else {
      const int row = warp_row() + fma_row() + 4 * row_of_thread;
      if constexpr (kIsNhwc) trade_in_quad<2, kFmaColumnBit>(values);
      const int column = kIsNhwc ? fma_column() % 4 * 8 + fma_column() / 4 * 4 : fma_column() * 4;
      finish_pack<T, kLayout, 4>(values[0], row, warp_column() + unit * 32 + column, output, places, first_channel);
    }
  }

  // store_unit where y has no vectors: the warp's rows of the unit, each 32 columns, pass through its own part of
  // `memory`, so that a lane gets one column of all of them.
  static __device__ void store_columns(const float (&values)[4][kUnitSums / 4], float* memory, int row_of_thread,
                                       int unit, const Output& output, const TilePlaces& places,
                                       int64_t first_channel) {
    const int lane = threadIdx.x % 32;
    float* const rows = memory + threadIdx.x / 32 * (kColumnBytes / sizeof(float));
    if constexpr (kIsMma) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        store_pack(rows + lane / 4 * kStagedPitch + i * 8 + lane % 4 * 2, Pack<float, 2>{values[i][0], values[i][1]});
      }
    } else {
      const Pack<float, 4> pack{values[0][0], values[1][0], values[2][0], values[3][0]};
      store_pack(rows + fma_row() * kStagedPitch + fma_column() * 4, pack);
    }
    __syncwarp();
    float column[kUnitRows];
#pragma unroll
    for (int r = 0; r < kUnitRows; ++r) column[r] = rows[r * kStagedPitch + lane];
    __syncwarp();
    finish_column<T>(column, warp_row() + row_of_thread * kUnitRows, warp_column() + unit * 32 + lane, output, places,
                     first_channel);
  }

  static __device__ void multiply_mma(float (&sums)[kSums], const T* a, const T* b, int a_pitch) {
    const int lane = threadIdx.x % 32;
    constexpr int kStep = 2 * kVec;
    const T* a_row = a + (warp_row() + lane % 16) * a_pitch + lane / 16 * kVec;
#pragma unroll
    for (int k = 0; k < kSlice; k += kStep) {
      uint32_t a_fragments[kWarpM / 16][4];
#pragma unroll
      for (int m = 0; m < kWarpM / 16; ++m) {
        load_matrices(a_fragments[m], a_row + m * 16 * a_pitch + k);
        round_fragment(a_fragments[m]);
      }
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        uint32_t b_fragment[4];  // of two neighbouring n8 tiles
        load_b_fragment(b_fragment, b, k, warp_column() + n * 8, lane);
        round_fragment(b_fragment);
#pragma unroll
        for (int m = 0; m < kWarpM / 16; ++m) {
          mma<T>(sums + (m * 4 + n) * 4, a_fragments[m], b_fragment[0], b_fragment[1]);
          mma<T>(sums + (m * 4 + n + 1) * 4, a_fragments[m], b_fragment[2], b_fragment[3]);
        }
      }
    }
  }

  static __device__ void load_b_fragment(uint32_t (&fragment)[4], const T* b, int k, int column, int lane) {
    if constexpr (kIsNhwc) {
      load_matrices(fragment, b + (column + lane / 16 * 8 + lane % 8) * kRowPitch + k + lane / 8 % 2 * kVec);
    } else if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(fragment, b + (k + lane % 16) * kColumnPitch + column + lane / 16 * 8);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        fragment[i] = __float_as_uint(b[(k + i % 2 * 4 + lane % 4) * kColumnPitch + column + i / 2 * 8 + lane / 4]);
      }
    }
  }

  static __device__ void round_fragment(uint32_t (&fragment)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] = round_to_tf32(fragment[i]);
    }
  }

  // A warp's 4 x 8 lanes make rows fma_row() + 4 i. Columns fma_column() + 8 j of [n][k], whose pitch of 20 words
  // then spreads a quarter warp's 16-byte loads over all banks; in [k][n] 4 neighbours of every 32. Lanes that differ
  // in their lowest bit alone read one column, those in the next alone one row: a GPU can serve two quarters of a
  // warp at once then.
  static constexpr int kFmaColumnBit = 1;
  static __device__ int fma_row() { return threadIdx.x % 32 / 16 * 2 + threadIdx.x % 2; }
  static __device__ int fma_column() { return threadIdx.x >> kFmaColumnBit & 7; }

  static __device__ void multiply_fma(float (&sums)[kSums], const T* a, const T* b, int a_pitch) {
    a += (warp_row() + fma_row()) * a_pitch;
    b += warp_column() * (kIsNhwc ? kRowPitch : 1);
#pragma unroll 1
    for (int k = 0; k < kSlice; k += 4) {
      Pack<T, 4> b_packs[kFmaColumns];  // [column][k], or [column / 4][k][column % 4]
#pragma unroll
      for (int j = 0; j < kFmaColumns; ++j) {
        b_packs[j] = kIsNhwc ? load_pack<4>(b + (fma_column() + 8 * j) * kRowPitch + k)
                             : load_pack<4>(b + (k + j % 4) * kColumnPitch + j / 4 * 32 + fma_column() * 4);
      }
#pragma unroll
      for (int i = 0; i < kFmaRows; ++i) {
        const auto a_pack = load_pack<4>(a + 4 * i * a_pitch + k);
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
          for (int j = 0; j < kFmaColumns; ++j) {
            const T b_value = kIsNhwc ? b_packs[j][kk] : b_packs[j / 4 * 4 + kk][j % 4];
            float& sum = sums[i * kFmaColumns + j];
            sum = fmaf(to_float(a_pack[kk]), to_float(b_value), sum);
          }
        }
      }
    }
  }
};

// `left`, or `most` if that is less.
__device__ inline int at_most(int64_t left, int most) {
  return static_cast<int>(min(left, static_cast<int64_t>(most)));
}

// What one thread copies of a tile [row][k] in every slice: the weights, and in NHWC the pixels. kEven: rows are the
// same distance apart, so that a thread needs to keep where its first one lies and no more.
template <class Tile, int kRows, bool kEven>
class RowCopies {
  using T = typename Tile::T;
  static constexpr int kStep = Tile::kGroupThreads / Tile::kPacks, kCount = kRows / kStep;
  static_assert(kRows % kStep == 0);

 public:
  // `offset(row)` counts elements from data, of rows that exist, or of any if they are even. `vectors`: 16 bytes at a
  // time, stride_k = 1.
  template <class Offset>
  __device__ RowCopies(const void* data, int64_t stride_k, bool vectors, int rows_left, const Offset& offset)
      : stride_k_(stride_k), vectors_(vectors) {
    // A warp's 8 rows one after another: 8 lanes then write to distinct banks, as an ldmatrix reads.
    const int thread = threadIdx.x % Tile::kGroupThreads, lane = thread % 32;
    row_ = thread / 32 * 8 + lane % 8, k_ = lane / 8 * Tile::kVec;
    static_assert(Tile::kPacks == 4);
    if constexpr (kEven) step_ = offset(kStep) - offset(0);
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const int row = row_ + i * kStep;
      from_[i] = static_cast<const T*>(data) + (kEven || row < rows_left ? offset(row) + k_ * stride_k : 0);
    }
  }

  // Starts the copies of a slice, of which rows_left and k_left exist; `shift` moves all rows.
  __device__ void copy(T* tile, int64_t first_k, int k_left, int rows_left, int64_t shift = 0) const {
    const int count = k_left - k_;
    T* const to = tile + row_ * Tile::kRowPitch + k_;
    if (vectors_ && (count <= 0 || count >= Tile::kVec)) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        copy_word_async(to + i * kStep * Tile::kRowPitch, from(i, first_k + shift),
                        count > 0 && row_ + i * kStep < rows_left);
      }
      return;
    }
#pragma unroll(kEven ? 1 : kCount)
    for (int i = 0; i < kCount; ++i) {
      Tile::copy_elements(to + i * kStep * Tile::kRowPitch, from(i, first_k * stride_k_ + shift), stride_k_,
                          row_ + i * kStep < rows_left ? count : 0);
    }
  }

 private:
  static constexpr int kPlaces = kEven ? 1 : kCount;

  __device__ const T* from(int i, int64_t offset) const {
    return kEven ? from_[0] + (offset + i * step_) : from_[i] + offset;
  }

  const T* from_[kPlaces];
  int64_t stride_k_, step_ = 0;
  int row_, k_;
  bool vectors_;
};

}  // namespace mbv1::cuda
