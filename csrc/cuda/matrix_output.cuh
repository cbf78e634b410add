// The epilogue of the matrix kernels: y = act(product + bias + residual), 16 bytes at a time where they lie together.
//
// A tensor core leaves a lane two neighbours of each n8 tile of a row, so a quad of lanes trades its four tiles: each
// lane then holds 16 neighbouring bytes, a quad 64 and a warp 8 whole rows of them. Nothing passes through shared
// memory, which the next tile's operands may be filling meanwhile. Where planes of NCHW are not whole vectors, a
// warp's rows do, so that neighbouring lanes write neighbouring pixels.
#pragma once

#include <cstring>

#include "numeric.cuh"

namespace mbv1::cuda {

enum class Layout { kNhwc, kNchw };

// Where the products go.
struct Output {
  const void* bias;      // or null
  const void* residual;  // or null
  void* y;
  Strides4 residual_stride, y_stride;
  int64_t bias_stride;
  int64_t pixels, channels, h, w;  // pixels = batch * h * w
  Activation activation;
  bool y_vectors, residual_vectors;  // kVectorBytes at a time along a row of the tile, where the vector is complete
  bool bias_vectors;
};

inline bool bias_is_vectors(const void* bias, int64_t stride) {
  return bias != nullptr && stride == 1 && is_aligned(bias);
}

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
          are_vectors(p.residual, p.residual_stride, p.h, p.w, p.dtype, layout),
          bias_is_vectors(p.bias, p.bias_stride)};
}

// Element offset of a pixel's channel 0, or -1 past the end.
__device__ inline int64_t pixel_offset(int64_t pixel, const Output& output, const Strides4& stride) {
  if (pixel >= output.pixels) return -1;
  const DivMod row = divmod(pixel, output.w), image = divmod(row.quotient, output.h);
  return image.quotient * stride.n + image.remainder * stride.h + row.remainder * stride.w;
}

// Where the pixels of a tile lie in y and in the residual, in shared memory; -1 for a pixel that is not there.
template <int kPixels>
struct Places {
  int64_t y[kPixels], residual[kPixels];

  __device__ void fill(const Output& output, int64_t first_pixel) {
    for (int i = threadIdx.x; i < kPixels; i += blockDim.x) {
      y[i] = pixel_offset(first_pixel + i, output, output.y_stride);
      residual[i] = pixel_offset(first_pixel + i, output, output.residual_stride);
    }
  }
};

// activate() of each, with one branch for all of them in place of one each.
template <int kCount>
__device__ void activate_all(float (&values)[kCount], Activation activation) {
  const auto apply = [&](auto one) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = one(values[i]);
  };
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
      return apply([](float x) { return activate(x, Activation::kRelu); });
    case Activation::kRelu6:
      return apply([](float x) { return activate(x, Activation::kRelu6); });
    case Activation::kHardswish:
      return apply([](float x) { return activate(x, Activation::kHardswish); });
    case Activation::kSilu:
      return apply([](float x) { return activate(x, Activation::kSilu); });
  }
}

// Lane t of a quad gives values[t'] to lane t' and gets theirs in the order of the lanes. A quad are the lanes that
// differ in the bits from kFirst on. kBits 1 trades between neighbours only: two pairs of tiles, each lane with half
// of one.
template <int kBits, int kFirst = 0, int kWords>
__device__ void trade_in_quad(float (&values)[4][kWords]) {
#pragma unroll
  for (int bit = 0; bit < kBits; ++bit) {
    const bool high = threadIdx.x >> (kFirst + bit) & 1;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >> bit & 1) continue;
      const int other = i | 1 << bit;
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        const float given = high ? values[i][word] : values[other][word];
        const float got = __shfl_xor_sync(0xffffffffu, given, 1 << (kFirst + bit));
        (high ? values[i][word] : values[other][word]) = got;
      }
    }
  }
}

// One store of the pack's 16 bytes: the compiler would split it where the same values are also stored one by one.
// FMAs make 4 values of 2 bytes, where sm_75 has no tensor cores for them: those it may.
template <class T, int kCount>
__device__ void store_whole(T* to, const Pack<T, kCount>& pack) {
  if constexpr (sizeof(pack) < kVectorBytes) return store_pack(to, pack);
  uint4 bits;
  memcpy(&bits, &pack, sizeof(bits));
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(bits.x),
               "r"(bits.y), "r"(bits.z), "r"(bits.w)
               : "memory");
}

// Finishes kCount neighbours along a row of the tile and writes them. `row` and `column` are those of the tile.
template <class T, Layout kLayout, int kCount, int kPixels>
__device__ void finish_pack(const float* sums, int row, int column, const Output& output,
                            const Places<kPixels>& places, int64_t first_channel) {
  constexpr bool kIsNhwc = kLayout == Layout::kNhwc;
  const int pixel = kIsNhwc ? row : column;
  const int64_t channel = first_channel + (kIsNhwc ? column : row);
  const int64_t y_place = places.y[pixel], channels_left = output.channels - channel;
  if (y_place < 0 || channels_left <= 0) return;
  const bool whole = kIsNhwc ? channels_left >= kCount : places.y[pixel + kCount - 1] >= 0;
  const auto exists = [&](int v) { return kIsNhwc ? v < channels_left : places.y[pixel + v] >= 0; };

  float values[kCount];
  const T* bias = static_cast<const T*>(output.bias) + channel * output.bias_stride;
  if (kIsNhwc && output.bias_vectors && whole) {
    const auto pack = load_pack<kCount>(bias);
#pragma unroll
    for (int v = 0; v < kCount; ++v) values[v] = sums[v] + to_float(pack[v]);
  } else {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      const bool has_bias = output.bias != nullptr && (!kIsNhwc || v < channels_left);
      values[v] = sums[v] + (has_bias ? to_float(bias[kIsNhwc ? v * output.bias_stride : 0]) : 0.f);
    }
  }
  if (output.residual) {
    const T* residual = static_cast<const T*>(output.residual) + channel * output.residual_stride.c;
    if (output.residual_vectors && whole) {
      const auto pack = load_pack<kCount>(residual + places.residual[pixel]);
#pragma unroll
      for (int v = 0; v < kCount; ++v) values[v] += to_float(pack[v]);
    } else {
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
        if (!exists(v)) continue;
        const int64_t offset =
            kIsNhwc ? places.residual[pixel] + v * output.residual_stride.c : places.residual[pixel + v];
        values[v] += to_float(residual[offset]);
      }
    }
  }
  T* y = static_cast<T*>(output.y) + channel * output.y_stride.c;
  activate_all(values, output.activation);
  Pack<T, kCount> pack;
#pragma unroll
  for (int v = 0; v < kCount; ++v) pack[v] = from_float<T>(values[v]);
  if (output.y_vectors && whole) {
    store_whole(y + y_place, pack);
  } else {
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (exists(v)) y[kIsNhwc ? y_place + v * output.y_stride.c : places.y[pixel + v]] = pack[v];
    }
  }
}

// Finishes a pixel of NCHW in kRows neighbouring channels and writes it. `row` and `column` are those of the tile.
template <class T, int kRows, int kPixels>
__device__ void finish_column(float (&values)[kRows], int row, int column, const Output& output,
                              const Places<kPixels>& places, int64_t first_channel) {
  const int64_t y_place = places.y[column], channel = first_channel + row;
  const int rows = y_place < 0 ? 0 : static_cast<int>(min(output.channels - channel, int64_t{kRows}));
  if (output.bias) {
    const T* bias = static_cast<const T*>(output.bias) + channel * output.bias_stride;
#pragma unroll
    for (int r = 0; r < kRows; ++r) values[r] += r < rows ? to_float(bias[r * output.bias_stride]) : 0.f;
  }
  if (output.residual) {
    const T* residual =
        static_cast<const T*>(output.residual) + channel * output.residual_stride.c + places.residual[column];
#pragma unroll
    for (int r = 0; r < kRows; ++r) values[r] += r < rows ? to_float(residual[r * output.residual_stride.c]) : 0.f;
  }
  activate_all(values, output.activation);
  T* y = static_cast<T*>(output.y) + channel * output.y_stride.c + y_place;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r < rows) y[r * output.y_stride.c] = from_float<T>(values[r]);
  }
}

}  // namespace mbv1::cuda
