// What a kernel is told: one plain struct per op, with no torch in it.
//
// Sizes and strides count elements, not bytes. Strides are those of the logical (N, C, H, W) tensor whatever
// its memory layout, so NHWC memory has stride c = 1, and a stride may be 0 (an expanded tensor). The structs have no
// padding, so that their bytes can be a key.
#pragma once

#include <cstdint>
#include <type_traits>

namespace mbv1 {

enum class DType : int32_t { kFloat32, kFloat16, kBFloat16, kFloat64 };

enum class Activation : int32_t { kNone, kRelu, kRelu6, kHardswish, kSilu };

struct Strides4 {
  int64_t n, c, h, w;
};

// The sliding window of a convolution. The bottom and right padding are implied by the output's size.
struct Window {
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t pad_top, pad_left;
  int32_t dilation_h, dilation_w;
};

// y[n, c, oh, ow] = act(bias[c] + sum_ij weight[c, 0, i, j] * x[n, c, oh*sh - top + i*dh, ow*sw - left + j*dw])
struct DwConv2dParams {
  const void* x;
  const void* weight;
  const void* bias;  // or null
  void* y;
  int64_t batch, channels;
  int64_t in_h, in_w, out_h, out_w;
  Strides4 x_stride, y_stride;
  int64_t weight_stride_c, weight_stride_h, weight_stride_w;
  int64_t bias_stride;
  Window window;
  Activation activation;
  DType dtype;
};

// y[n, o, h, w] = act(bias[o] + sum_k weight[o, k, 0, 0] * x[n, k, h, w] + residual[n, o, h, w])
struct PwConv2dParams {
  const void* x;
  const void* weight;
  const void* bias;      // or null
  const void* residual;  // or null
  void* y;
  void* workspace;  // device memory for the launch, where the kernel asks for it
  int64_t batch, in_channels, out_channels, h, w;
  Strides4 x_stride, residual_stride, y_stride;
  int64_t weight_stride_o, weight_stride_k;
  int64_t bias_stride;
  Activation activation;
  DType dtype;
  int64_t allow_tf32;  // whether float32 on CUDA may round its factors to TF32
};

// pwconv2d(dwconv2d(x)): dw.y and pw.x are null, pw.h and pw.w are dw.out_h and dw.out_w, pw.workspace is that of
// both.
struct SeparableConv2dParams {
  DwConv2dParams dw;
  PwConv2dParams pw;
};

// y[n, o, oh, ow] = act(bias[o] + sum_cij weight[o, c, i, j] * x[n, c, oh*sh - top + i, ow*sw - left + j])
struct StemConv2dParams {
  const void* x;
  const void* weight;
  const void* bias;  // or null
  void* y;
  int64_t batch, in_channels, out_channels;
  int64_t in_h, in_w, out_h, out_w;
  Strides4 x_stride, y_stride;
  int64_t weight_stride_o, weight_stride_c, weight_stride_h, weight_stride_w;
  int64_t bias_stride;
  Window window;
  Activation activation;
  DType dtype;
};

// y[n, o] = bias[o] + sum_k weight[o, k] * mean_hw x[n, k, h, w]; y is contiguous
struct PoolLinearParams {
  const void* x;
  const void* weight;
  const void* bias;  // or null
  void* y;
  void* workspace;  // device memory for the launch, where the kernel asks for it
  int64_t batch, channels, h, w, out_features;
  Strides4 x_stride;
  int64_t weight_stride_o, weight_stride_k;
  int64_t bias_stride;
  DType dtype;
  int32_t unused;
};

// A layer of a chain: a depthwise-separable block, or a dense convolution of few channels.
struct ChainStage {
  const void* packed;  // its weights, in the form of the backend
  int64_t in_channels, out_channels;
  int64_t in_h, in_w, out_h, out_w;
  Window window;
  Activation dw_activation, activation;
  bool separable;
  bool strassen;  // whether its product may be Strassen's
};

constexpr int64_t kMaxStages = 64;

// y = stages[stage_count - 1](… stages[0](x)); y is NHWC.
struct ChainParams {
  const void* x;
  void* y;
  int64_t batch;
  Strides4 x_stride, y_stride;
  const ChainStage* stages;
  int64_t stage_count;
  DType dtype;
};

static_assert(std::has_unique_object_representations_v<DwConv2dParams>);
static_assert(std::has_unique_object_representations_v<SeparableConv2dParams>);
static_assert(std::has_unique_object_representations_v<StemConv2dParams>);
static_assert(std::has_unique_object_representations_v<PoolLinearParams>);

// Calls f with every pointer to a tensor.
template <class F>
void for_each_tensor(DwConv2dParams& p, F f) {
  f(p.x), f(p.weight), f(p.bias), f(p.y);
}
template <class F>
void for_each_tensor(PwConv2dParams& p, F f) {
  f(p.x), f(p.weight), f(p.bias), f(p.residual), f(p.y);
}
template <class F>
void for_each_tensor(SeparableConv2dParams& p, F f) {
  for_each_tensor(p.dw, f), for_each_tensor(p.pw, f);
}
template <class F>
void for_each_tensor(StemConv2dParams& p, F f) {
  f(p.x), f(p.weight), f(p.bias), f(p.y);
}
template <class F>
void for_each_tensor(PoolLinearParams& p, F f) {
  f(p.x), f(p.weight), f(p.bias), f(p.y);
}

template <class Params>
DType dtype_of(const Params& params) {
  return params.dtype;
}
inline DType dtype_of(const SeparableConv2dParams& params) { return params.pw.dtype; }

inline const char* op_name(const DwConv2dParams&) { return "dwconv2d"; }
inline const char* op_name(const PwConv2dParams&) { return "pwconv2d"; }
inline const char* op_name(const SeparableConv2dParams&) { return "separable_conv2d"; }
inline const char* op_name(const StemConv2dParams&) { return "stem_conv2d"; }
inline const char* op_name(const PoolLinearParams&) { return "pool_linear"; }

// As in Python, and as in the names of kernels.
inline const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float16", "bfloat16", "float64"};
  return kNames[static_cast<int32_t>(dtype)];
}
inline const char* dtype_suffix(DType dtype) {
  constexpr const char* kSuffixes[] = {"f32", "f16", "bf16", "f64"};
  return kSuffixes[static_cast<int32_t>(dtype)];
}

}  // namespace mbv1
