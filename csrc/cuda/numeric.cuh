// What every CUDA kernel shares: conversions to and from float, 16-byte vectors, activations, index arithmetic,
// and the dispatch from DType to a C++ type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/params.h"

namespace mbv1::cuda {

// The widest load and store of a thread.
constexpr int kVectorBytes = 16;

template <class T>
constexpr int kVectorSize = kVectorBytes / static_cast<int>(sizeof(T));

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// kSize adjacent elements; one load or store where they fill a power of two of at most 16 bytes.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T values[kSize];

  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

template <int kSize, class T>
__device__ Pack<T, kSize> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kSize>*>(from);
}

template <class T, int kSize>
__device__ void store_pack(T* to, const Pack<T, kSize>& pack) {
  *reinterpret_cast<Pack<T, kSize>*>(to) = pack;
}

// A whole vector to global memory, by one store: what is in registers the compiler may store element by element.
template <class T>
__device__ void store_vector(T* to, const Pack<T, kVectorSize<T>>& pack) {
  uint4 words;
  memcpy(&words, &pack, sizeof(words));
  __stwb(reinterpret_cast<uint4*>(to), words);
}

// The elements rounded to T, pairs of 2-byte types by one instruction.
template <class T, int kSize>
__device__ Pack<T, kSize> round_to(const float (&values)[kSize]) {
  Pack<T, kSize> pack;
  if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kSize; i += 2) {
      if constexpr (std::is_same_v<T, __half>) {
        const __half2 pair = __floats2half2_rn(values[i], values[i + 1]);
        pack[i] = pair.x, pack[i + 1] = pair.y;
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values[i], values[i + 1]);
        pack[i] = pair.x, pack[i + 1] = pair.y;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack[i] = from_float<T>(values[i]);
  }
  return pack;
}

// NaN fails every comparison here, so it passes through as it does in torch.
__device__ inline float clamp_relu(float x) { return x < 0.f ? 0.f : x; }
__device__ inline float clamp_relu6(float x) { return x < 0.f ? 0.f : x > 6.f ? 6.f : x; }

__device__ inline float activate(float x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return clamp_relu(x);
    case Activation::kRelu6:
      return clamp_relu6(x);
    case Activation::kHardswish:
      return x * clamp_relu6(x + 3.f) * (1.f / 6.f);
    case Activation::kSilu:
      return __fdividef(x, 1.f + expf(-x));
  }
  return x;
}

// One choice of activation for many values.
template <int kRows, int kSize>
__device__ void activate(float (&values)[kRows][kSize], Activation activation) {
  const auto apply = [&](auto function) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) values[i][j] = function(values[i][j]);
    }
  };
  if (activation == Activation::kNone) return;
  if (activation == Activation::kRelu) return apply([](float x) { return clamp_relu(x); });
  if (activation == Activation::kRelu6) return apply([](float x) { return clamp_relu6(x); });
  apply([&](float x) { return activate(x, activation); });
}

struct DivMod {
  int64_t quotient, remainder;
};

// Of non-negative numbers. The 64-bit division is a subroutine of about 70 instructions on every GPU.
__host__ __device__ inline DivMod divmod(int64_t a, int64_t b) {
  if (((a | b) >> 31) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return {quotient, static_cast<uint32_t>(a) - quotient * static_cast<uint32_t>(b)};
  }
  const int64_t quotient = a / b;
  return {quotient, a - quotient * b};
}

// Whether 0 <= i < size.
__device__ inline bool inside(int64_t i, int64_t size) {
  return static_cast<uint64_t>(i) < static_cast<uint64_t>(size);
}
__device__ inline bool inside(int32_t i, int32_t size) {
  return static_cast<uint32_t>(i) < static_cast<uint32_t>(size);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0; }

inline bool has_cuda_kernels(DType dtype) { return dtype != DType::kFloat64; }

inline int vector_size(DType dtype) { return dtype == DType::kFloat32 ? kVectorSize<float> : kVectorSize<__half>; }

// Whether every pixel of a tensor starts a 16-byte vector of channels.
inline bool channels_are_vectors(const void* data, const Strides4& stride, DType dtype) {
  const int64_t size = vector_size(dtype);
  return is_aligned(data) && stride.c == 1 && stride.n % size == 0 && stride.h % size == 0 && stride.w % size == 0;
}

// Whether the pixels of a channel lie one after another, in groups that start and end with a word of `size` elements.
inline bool pixels_are_words(const void* data, const Strides4& stride, int64_t h, int64_t w, DType dtype, int size) {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % (size * kVectorBytes / vector_size(dtype)) == 0;
  const bool dense = (w == 1 || stride.w == 1) && (h == 1 || stride.h == w);
  return aligned && dense && h * w % size == 0 && stride.n % size == 0 && stride.c % size == 0;
}

inline bool pixels_are_vectors(const void* data, const Strides4& stride, int64_t h, int64_t w, DType dtype) {
  return pixels_are_words(data, stride, h, w, dtype, vector_size(dtype));
}

// Whether all coordinates of a sliding window fit 32 bits: with padding, and for outputs up to a tile past the end.
template <class Params>
bool coordinates_fit_int32(const Params& p) {
  constexpr int64_t kLimit = INT32_MAX / 2, kMaxTile = 64;
  const Window& w = p.window;
  const auto reach = [](int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
    return (out + kMaxTile) * stride + kernel * dilation;
  };
  return p.in_h < kLimit && p.in_w < kLimit && w.pad_top < kLimit && w.pad_left < kLimit &&
         reach(p.out_h, w.stride_h, w.kernel_h, w.dilation_h) < kLimit &&
         reach(p.out_w, w.stride_w, w.kernel_w, w.dilation_w) < kLimit;
}

template <class T>
struct Type {
  using type = T;
};

// Calls `launch` with the Type of a dtype that has CUDA kernels.
template <class Launch>
cudaError_t dispatch_dtype(DType dtype, Launch launch) {
  switch (dtype) {
    case DType::kFloat32:
      return launch(Type<float>());
    case DType::kFloat16:
      return launch(Type<__half>());
    case DType::kBFloat16:
      return launch(Type<__nv_bfloat16>());
    case DType::kFloat64:
      break;
  }
  return cudaErrorInvalidValue;
}

// Blocks are numbered along x alone, up to 2^31 - 1: with at least 32 outputs a block, any tensor that fits a GPU.
inline cudaError_t check_grid(int64_t blocks) {
  return blocks > 0 && blocks <= INT32_MAX ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace mbv1::cuda
