// From tensors to kernel arguments: checks a call, allocates its output and fills its params struct. The CPU and
// the CUDA bindings share these; only a binding sees torch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>
#include <vector>

#include "checks.h"
#include "params.h"

namespace mbv1 {

using OptionalTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

// A checked call: what the kernel is told, and the tensor that it fills.
template <class Params>
struct Call {
  Params params;
  Tensor y;
};

// Torch's rule (c10::is_channels_last_strides_2d); mbv1_kernels/layout.py has the same for fake tensors.
inline bool is_channels_last(const Tensor& x) {
  if (x.stride(1) == 0) return false;
  int64_t smallest = 0;
  for (int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) == 0 || x.stride(d) < smallest) return false;
    if (d == 0 && smallest == x.stride(1)) return false;
    smallest = x.stride(d);
    if (x.size(d) > 1) smallest *= x.size(d);
  }
  return true;
}

inline Strides4 strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

inline const void* data_of(const OptionalTensor& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

inline int64_t bias_stride(const OptionalTensor& bias) { return bias.has_value() ? bias->stride(0) : 0; }

// An uninitialised tensor with x's dtype and device. By the C interface: torch::stable::empty looks its operator up
// by name in every call, which takes longer than all else that the binding does.
template <size_t kRank>
Tensor new_empty_strided(const Tensor& x, const int64_t (&size)[kRank], const int64_t (&stride)[kRank]) {
  int32_t dtype = 0, device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(kRank, size, stride, dtype, device, x.get_device_index(), &made));
  return Tensor(made);
}

// An uninitialised output (N, C, H, W) with x's dtype and device.
inline Tensor new_output(const Checks& check, const Tensor& x, const int64_t (&size)[4], bool channels_last) {
  check.not_huge("an output", size);
  const auto [n, c, h, w] = size;
  return channels_last ? new_empty_strided(x, size, {c * h * w, 1, w * c, c})
                       : new_empty_strided(x, size, {c * h * w, h * w, w, 1});
}

// Fills window and out_h, out_w of a dw or stem call.
template <class Params>
void set_window(const Checks& check, Params& p, const Tensor& weight, const Ints& stride, const Ints& padding,
                const Ints& dilation) {
  check.integers("stride", stride, 2, 1);
  check.integers("padding", padding, 4, 0);
  check.integers("dilation", dilation, 2, 1);
  const int64_t kernel_h = weight.size(2), kernel_w = weight.size(3);
  p.out_h = check.output_size("height", p.in_h, padding[0], padding[1], kernel_h, stride[0], dilation[0]);
  p.out_w = check.output_size("width", p.in_w, padding[2], padding[3], kernel_w, stride[1], dilation[1]);
  const auto i32 = [](int64_t value) { return static_cast<int32_t>(value); };
  p.window = {i32(kernel_h),   i32(kernel_w),   i32(stride[0]),   i32(stride[1]),
              i32(padding[0]), i32(padding[2]), i32(dilation[0]), i32(dilation[1])};
}

// Everything of a depthwise convolution but its output, which separable_conv2d never has.
inline DwConv2dParams depthwise_params(const Checks& check, const char* weight_name, const char* bias_name,
                                       const char* activation_name, const Tensor& x, const Tensor& weight,
                                       const OptionalTensor& bias, const Ints& stride, const Ints& padding,
                                       const Ints& dilation, const std::string& activation) {
  DwConv2dParams p{};
  p.dtype = check.input(x);
  p.batch = x.size(0), p.channels = x.size(1), p.in_h = x.size(2), p.in_w = x.size(3);
  check.weight(weight_name, weight, 4, "(C, 1, KH, KW)");
  check.like(weight_name, weight, x, {p.channels, 1, weight.size(2), weight.size(3)});
  check.like(bias_name, bias, x, {p.channels});
  set_window(check, p, weight, stride, padding, dilation);
  p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.bias = data_of(bias);
  p.x_stride = strides_of(x);
  p.weight_stride_c = weight.stride(0), p.weight_stride_h = weight.stride(2), p.weight_stride_w = weight.stride(3);
  p.bias_stride = bias_stride(bias);
  p.activation = check.activation(activation_name, activation);
  return p;
}

// Everything of a pointwise convolution but its input, which separable_conv2d never has: `x` gives dtype, device
// and layout, `in_channels`, `h` and `w` the sizes.
inline Call<PwConv2dParams> pointwise_call(const Checks& check, const char* weight_name, const char* bias_name,
                                           const Tensor& x, DType dtype, int64_t in_channels, int64_t h, int64_t w,
                                           const Tensor& weight, const OptionalTensor& bias,
                                           const std::string& activation, const OptionalTensor& residual,
                                           bool allow_tf32) {
  PwConv2dParams p{};
  p.dtype = dtype;
  check.weight(weight_name, weight, 4, "(O, C, 1, 1)");
  p.batch = x.size(0), p.in_channels = in_channels, p.out_channels = weight.size(0), p.h = h, p.w = w;
  check.like(weight_name, weight, x, {p.out_channels, in_channels, 1, 1});
  check.like(bias_name, bias, x, {p.out_channels});
  check.like("residual", residual, x, {p.batch, p.out_channels, h, w});
  p.activation = check.activation("activation", activation);
  Tensor y = new_output(check, x, {p.batch, p.out_channels, h, w}, is_channels_last(x));
  p.weight = weight.const_data_ptr(), p.bias = data_of(bias), p.residual = data_of(residual);
  p.y = y.mutable_data_ptr();
  p.residual_stride = residual.has_value() ? strides_of(*residual) : Strides4{};
  p.y_stride = strides_of(y);
  p.weight_stride_o = weight.stride(0), p.weight_stride_k = weight.stride(1);
  p.bias_stride = bias_stride(bias);
  p.allow_tf32 = allow_tf32;
  return {p, y};
}

inline Call<DwConv2dParams> prepare_dwconv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                                             const Ints& stride, const Ints& padding, const Ints& dilation,
                                             const std::string& activation) {
  const Checks check("dwconv2d");
  DwConv2dParams p =
      depthwise_params(check, "weight", "bias", "activation", x, weight, bias, stride, padding, dilation, activation);
  Tensor y = new_output(check, x, {p.batch, p.channels, p.out_h, p.out_w}, is_channels_last(x));
  p.y = y.mutable_data_ptr();
  p.y_stride = strides_of(y);
  return {p, y};
}

inline Call<PwConv2dParams> prepare_pwconv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                                             const std::string& activation, const OptionalTensor& residual,
                                             bool allow_tf32) {
  const Checks check("pwconv2d");
  const DType dtype = check.input(x);
  Call<PwConv2dParams> call = pointwise_call(check, "weight", "bias", x, dtype, x.size(1), x.size(2), x.size(3),
                                             weight, bias, activation, residual, allow_tf32);
  call.params.x = x.const_data_ptr();
  call.params.x_stride = strides_of(x);
  return call;
}

inline Call<SeparableConv2dParams> prepare_separable_conv2d(const Tensor& x, const Tensor& dw_weight,
                                                            const OptionalTensor& dw_bias, const Tensor& pw_weight,
                                                            const OptionalTensor& pw_bias, const Ints& stride,
                                                            const Ints& padding, const Ints& dilation,
                                                            const std::string& dw_activation,
                                                            const std::string& activation,
                                                            const OptionalTensor& residual, bool allow_tf32) {
  const Checks check("separable_conv2d");
  const DwConv2dParams dw = depthwise_params(check, "dw_weight", "dw_bias", "dw_activation", x, dw_weight, dw_bias,
                                             stride, padding, dilation, dw_activation);
  const Call<PwConv2dParams> pw = pointwise_call(check, "pw_weight", "pw_bias", x, dw.dtype, dw.channels, dw.out_h,
                                                 dw.out_w, pw_weight, pw_bias, activation, residual, allow_tf32);
  return {{dw, pw.params}, pw.y};
}

inline Call<StemConv2dParams> prepare_stem_conv2d(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                                                  const Ints& stride, const Ints& padding,
                                                  const std::string& activation) {
  const Checks check("stem_conv2d");
  StemConv2dParams p{};
  p.dtype = check.input(x);
  p.batch = x.size(0), p.in_channels = x.size(1), p.in_h = x.size(2), p.in_w = x.size(3);
  check.weight("weight", weight, 4, "(O, C, KH, KW)");
  p.out_channels = weight.size(0);
  check.like("weight", weight, x, {p.out_channels, p.in_channels, weight.size(2), weight.size(3)});
  check.like("bias", bias, x, {p.out_channels});
  set_window(check, p, weight, stride, padding, {1, 1});
  p.activation = check.activation("activation", activation);
  Tensor y = new_output(check, x, {p.batch, p.out_channels, p.out_h, p.out_w}, is_channels_last(x));
  p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.bias = data_of(bias), p.y = y.mutable_data_ptr();
  p.x_stride = strides_of(x), p.y_stride = strides_of(y);
  p.weight_stride_o = weight.stride(0), p.weight_stride_c = weight.stride(1);
  p.weight_stride_h = weight.stride(2), p.weight_stride_w = weight.stride(3);
  p.bias_stride = bias_stride(bias);
  return {p, y};
}

inline Call<PoolLinearParams> prepare_pool_linear(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const Checks check("pool_linear");
  PoolLinearParams p{};
  p.dtype = check.input(x);
  p.batch = x.size(0), p.channels = x.size(1), p.h = x.size(2), p.w = x.size(3);
  check.weight("weight", weight, 2, "(O, C)");
  p.out_features = weight.size(0);
  check.like("weight", weight, x, {p.out_features, p.channels});
  check.like("bias", bias, x, {p.out_features});
  Tensor y = new_empty_strided(x, {p.batch, p.out_features}, {p.out_features, 1});
  p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr(), p.bias = data_of(bias), p.y = y.mutable_data_ptr();
  p.x_stride = strides_of(x);
  p.weight_stride_o = weight.stride(0), p.weight_stride_k = weight.stride(1);
  p.bias_stride = bias_stride(bias);
  return {p, y};
}

}  // namespace mbv1
