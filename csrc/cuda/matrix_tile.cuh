// The matrix product under pwconv2d, separable_conv2d and stem_conv2d: a block multiplies a tile of pixels with a
// tile of output channels, slice by slice of K, from shared memory.
//
//            A (M x K)            B (K x N)             D (M x N), written along N
//   NHWC     pixels  [pixel][k]   weights [output][k]   [pixel][output]
//   NCHW     weights [output][k]  pixels  [k][pixel]    [output][pixel]
//
// so that in either layout both the reads of x and the writes of y follow memory, and no layout is ever copied.
// Float16, bfloat16 and TF32 run on tensor cores, float32 (and what sm_75 lacks) on FMA, with the same tiles.
#pragma once

#include "cost_model.h"
#include "mma.cuh"
#include "numeric.cuh"

namespace mbv1::cuda {

enum class Layout { kNhwc, kNchw };

constexpr int max_of(int a, int b) { return a > b ? a : b; }

// Where the products go: y = act(product + bias + residual).
struct Output {
  const void* bias;      // or null
  const void* residual;  // or null
  void* y;
  Strides4 residual_stride, y_stride;
  int64_t bias_stride;
  int64_t pixels, channels, h, w;  // pixels = batch * h * w
  Activation activation;
  bool y_vectors, residual_vectors;  // kVectorBytes at a time along N, where the vector is complete
};

inline bool has_layout(const Strides4& stride, Layout layout) {
  return (layout == Layout::kNhwc ? stride.c : stride.w) == 1;
}

inline bool are_vectors(const void* data, const Strides4& stride, int64_t h, int64_t w, DType dtype, Layout layout) {
  return layout == Layout::kNhwc ? channels_are_vectors(data, stride, dtype)
                                 : pixels_are_vectors(data, stride, h, w, dtype);
}

inline bool weights_are_vectors(const PwConv2dParams& p) {
  return is_aligned(p.weight) && p.weight_stride_k == 1 && p.weight_stride_o % vector_size(p.dtype) == 0;
}

inline Output output_of(const PwConv2dParams& p, Layout layout) {
  return {p.bias,
          p.residual,
          p.y,
          p.residual_stride,
          p.y_stride,
          p.bias_stride,
          p.batch * p.h * p.w,
          p.out_channels,
          p.h,
          p.w,
          p.activation,
          are_vectors(p.y, p.y_stride, p.h, p.w, p.dtype, layout),
          are_vectors(p.residual, p.residual_stride, p.h, p.w, p.dtype, layout)};
}

// Element offset of a pixel's channel 0, or -1 past the end.
__device__ inline int64_t pixel_offset(int64_t pixel, const Output& output, const Strides4& stride) {
  if (pixel >= output.pixels) return -1;
  const DivMod row = divmod(pixel, output.w), image = divmod(row.quotient, output.h);
  return image.quotient * stride.n + image.remainder * stride.h + row.remainder * stride.w;
}

template <class Element, bool kTf32, Layout kTileLayout, int kWarpsM, int kWarpsN>
struct MatrixTile {
  using T = Element;
  static constexpr Layout kLayout = kTileLayout;
  static constexpr bool kIsTf32 = kTf32;
  static constexpr bool kIsNhwc = kLayout == Layout::kNhwc;
  // A warp makes 32 x 32: 32 sums a thread, and 2 loads of shared memory an mma.
  static constexpr int kM = 32 * kWarpsM, kN = 32 * kWarpsN, kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kSums = kM * kN / kThreads;
  static_assert(kSums == 32);
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
  static constexpr int kStagingPitch = kN + 8;
  static constexpr int kStagingBytes = kM * kStagingPitch * static_cast<int>(sizeof(float));

  // Stores a vector of K of one pixel in a pixel tile.
  static __device__ void store_pixel(T* tile, int pixel, int k, const Pack<T, kVec>& pack) {
    if constexpr (kIsNhwc) {
      store_pack(tile + pixel * kRowPitch + k, pack);
    } else {
#pragma unroll
      for (int v = 0; v < kVec; ++v) tile[(k + v) * kColumnPitch + pixel] = pack[v];
    }
  }

  // Copies `count` elements to shared memory and fills the vector up with zeros.
  static __device__ void copy_pack(T* to, const T* from, int64_t stride, int64_t count, bool vectors) {
    if (vectors && count >= kVec) return copy_async(to, from);
    Pack<T, kVec> pack;
#pragma unroll
    for (int v = 0; v < kVec; ++v) pack[v] = v < count ? from[v * stride] : from_float<T>(0.f);
    store_pack(to, pack);
  }

  // `weight` is that of the tile's first output, of `outputs` that are left.
  static __device__ void load_weights(T* tile, const T* weight, int64_t stride_o, int64_t stride_k, int64_t outputs,
                                      int64_t first_k, int64_t size_k, bool vectors) {
    for (int e = threadIdx.x; e < kOutputs * kPacks; e += kThreads) {
      const int output = e / kPacks, k = e % kPacks * kVec;
      const int64_t count = output < outputs ? size_k - first_k - k : 0;
      copy_pack(tile + output * kRowPitch + k, weight + output * stride_o + (first_k + k) * stride_k, stride_k, count,
                vectors);
    }
  }

  static __device__ void multiply(float (&sums)[kSums], const T* pixels, const T* weights) {
    const T* a = kIsNhwc ? pixels : weights;
    const T* b = kIsNhwc ? weights : pixels;
    if constexpr (kHasMma<T, kTf32>) {
      multiply_mma(sums, a, b);
    } else {
      multiply_fma(sums, a, b);
    }
  }

  // Writes the tile to y. `staging` may be the memory of the operands, of which no copy may be under way.
  static __device__ void finish(const float (&sums)[kSums], float* staging, const Output& output, int64_t first_pixel,
                                int64_t first_channel) {
    __shared__ int64_t y_offset[kPixels], residual_offset[kPixels];
    __shared__ float bias[kOutputs];
    for (int i = threadIdx.x; i < kPixels; i += kThreads) {
      y_offset[i] = pixel_offset(first_pixel + i, output, output.y_stride);
      residual_offset[i] = pixel_offset(first_pixel + i, output, output.residual_stride);
    }
    for (int i = threadIdx.x; i < kOutputs; i += kThreads) {
      const int64_t channel = first_channel + i;
      bias[i] = output.bias && channel < output.channels
                    ? to_float(static_cast<const T*>(output.bias)[channel * output.bias_stride])
                    : 0.f;
    }
    __syncthreads();
    store_sums(sums, staging);
    __syncthreads();

    const T* residual = static_cast<const T*>(output.residual);
    T* y = static_cast<T*>(output.y);
#pragma unroll 1
    for (int e = threadIdx.x; e < kM * kN / kVec; e += kThreads) {
      const int row = e / (kN / kVec), column = e % (kN / kVec) * kVec;
      const int pixel = kIsNhwc ? row : column, channel = kIsNhwc ? column : row;
      const int64_t pixels_left = output.pixels - first_pixel - pixel;
      const int64_t channels_left = output.channels - first_channel - channel;
      if (pixels_left <= 0 || channels_left <= 0) continue;
      const int64_t count = kIsNhwc ? channels_left : pixels_left;
      const int64_t y_channel = (first_channel + channel) * output.y_stride.c;
      const int64_t residual_channel = (first_channel + channel) * output.residual_stride.c;

      float values[kVec];
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        values[v] = staging[row * kStagingPitch + column + v] + bias[channel + (kIsNhwc ? v : 0)];
      }
      if (residual && output.residual_vectors && count >= kVec) {
        const auto pack = load_pack<kVec>(residual + residual_offset[pixel] + residual_channel);
#pragma unroll
        for (int v = 0; v < kVec; ++v) values[v] += to_float(pack[v]);
      } else if (residual) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          const int64_t offset =
              kIsNhwc ? residual_offset[pixel] + v * output.residual_stride.c : residual_offset[pixel + v];
          if (v < count) values[v] += to_float(residual[offset + residual_channel]);
        }
      }
      Pack<T, kVec> pack;
#pragma unroll
      for (int v = 0; v < kVec; ++v) pack[v] = from_float<T>(activate(values[v], output.activation));
      if (output.y_vectors && count >= kVec) {
        store_pack(y + y_offset[pixel] + y_channel, pack);
      } else {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          const int64_t offset = kIsNhwc ? y_offset[pixel] + v * output.y_stride.c : y_offset[pixel + v];
          if (v < count) y[offset + y_channel] = pack[v];
        }
      }
    }
  }

 private:
  static constexpr int kColumnThreads = kN / 4, kRowThreads = kM / 8;  // of multiply_fma: 8 x 4 sums a thread
  static_assert(kColumnThreads * kRowThreads == kThreads);

  static __device__ int warp_row() { return threadIdx.x / 32 / kWarpsN * 32; }
  static __device__ int warp_column() { return threadIdx.x / 32 % kWarpsN * 32; }

  static __device__ void multiply_mma(float (&sums)[kSums], const T* a, const T* b) {
    const int lane = threadIdx.x % 32;
    constexpr int kStep = 2 * kVec;
#pragma unroll
    for (int k = 0; k < kSlice; k += kStep) {
      uint32_t a_fragments[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        load_matrices(a_fragments[m], a + (warp_row() + m * 16 + lane % 16) * kRowPitch + k + lane / 16 * kVec);
        round_fragment(a_fragments[m]);
      }
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        uint32_t b_fragment[4];  // of two neighbouring n8 tiles
        load_b_fragment(b_fragment, b, k, warp_column() + n * 8, lane);
        round_fragment(b_fragment);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
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

  // Rows row_thread + kRowThreads i. Columns column_thread + kColumnThreads j of [n][k], whose pitch of 20 words
  // then spreads a quarter warp's 16-byte loads over all banks; 4 neighbours in [k][n].
  static __device__ void multiply_fma(float (&sums)[kSums], const T* a, const T* b) {
    const int column_thread = threadIdx.x % kColumnThreads, row_thread = threadIdx.x / kColumnThreads;
#pragma unroll 1
    for (int k = 0; k < kSlice; k += 4) {
      Pack<T, 4> a_rows[8], b_packs[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) a_rows[i] = load_pack<4>(a + (row_thread + kRowThreads * i) * kRowPitch + k);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        b_packs[j] = kIsNhwc ? load_pack<4>(b + (column_thread + kColumnThreads * j) * kRowPitch + k)
                             : load_pack<4>(b + (k + j) * kColumnPitch + column_thread * 4);
      }
#pragma unroll
      for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const T b_value = kIsNhwc ? b_packs[j][kk] : b_packs[kk][j];
            sums[i * 4 + j] = fmaf(to_float(a_rows[i][kk]), to_float(b_value), sums[i * 4 + j]);
          }
        }
      }
    }
  }

  static __device__ void store_sums(const float (&sums)[kSums], float* staging) {
    if constexpr (kHasMma<T, kTf32>) {
      const int lane = threadIdx.x % 32;
#pragma unroll
      for (int i = 0; i < kSums; i += 2) {
        const int row = warp_row() + i / 16 * 16 + i / 2 % 2 * 8 + lane / 4;
        const int column = warp_column() + i / 4 % 4 * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(staging + row * kStagingPitch + column) = make_float2(sums[i], sums[i + 1]);
      }
    } else {
      const int column_thread = threadIdx.x % kColumnThreads, row_thread = threadIdx.x / kColumnThreads;
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        const int column = kIsNhwc ? column_thread + kColumnThreads * (i % 4) : column_thread * 4 + i % 4;
        staging[(row_thread + kRowThreads * (i / 4)) * kStagingPitch + column] = sums[i];
      }
    }
  }
};

// What a launch of `blocks` tiles does: `slices` slices of K, `stages` of them in flight at a time, with operands
// from memory by 16-byte copies, or element by element.
template <class Tile>
Work tile_work(double blocks, double slices, double dram_bytes, double y_bytes, bool vectors, int shared_bytes,
               int stages) {
  constexpr bool kMma = kHasMma<typename Tile::T, Tile::kIsTf32>;
  constexpr double kBytes = sizeof(typename Tile::T);
  const double multiplied = blocks * slices, macs = multiplied * Tile::kM * Tile::kN * Tile::kSlice;
  const double staged = multiplied * (Tile::kM + Tile::kN) * Tile::kSlice * kBytes;
  Work work{};
  work.blocks = static_cast<int64_t>(blocks);
  work.threads = Tile::kThreads, work.registers = 128, work.shared_bytes = shared_bytes;
  work.dram_bytes = dram_bytes;
  work.l2_bytes = staged + y_bytes;
  // A warp reads 64 rows of K for 32 x 32 sums; FMA threads read 12 for 32 sums.
  const double fragments = kMma ? macs / (32 * 32) * 64 : macs / 32 * 12;
  work.l1_bytes = staged + fragments * kBytes + y_bytes + blocks * Tile::kM * Tile::kN * 8;
  work.ffma = kMma ? 0 : macs;
  work.mma_flops = kMma ? 2 * macs * (kBytes / 2) : 0;
  const double math = kMma ? macs / (16 * 8 * 32 / kBytes) * 32 : macs;
  work.instructions =
      math * 1.5 + staged / kVectorBytes * (vectors ? 8 : 8 * Tile::kVec) + blocks * Tile::kM * Tile::kN * 4;
  work.round_trips = 1 + slices / stages;
  return work;
}

template <class Count>
Work work_of_dtype(DType dtype, Count count) {
  Work work{};
  dispatch_dtype(dtype, [&](auto type) {
    work = count(type);
    return cudaSuccess;
  });
  return work;
}

}  // namespace mbv1::cuda
