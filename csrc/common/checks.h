// Argument checks of every binding. Each message names the op, the argument, what was expected and what came;
// mbv1_kernels/checks.py makes the same checks with the same words for the wrappers and fakes.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "params.h"

namespace mbv1 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
// Some integers that lie anywhere, in {} too.
using Integers = torch::headeronly::IntHeaderOnlyArrayRef;

inline std::string shape_string(const Tensor& tensor) {
  std::ostringstream out;
  out << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) out << (d ? ", " : "") << tensor.size(d);
  if (tensor.dim() == 1) out << ',';
  out << ')';
  return out.str();
}

inline std::string shape_string(Integers shape) {
  std::ostringstream out;
  out << '(';
  for (size_t d = 0; d < shape.size(); ++d) out << (d ? ", " : "") << shape[d];
  if (shape.size() == 1) out << ',';
  out << ')';
  return out.str();
}

// One op's checks: `Checks check("dwconv2d"); check.input(x); …`
class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  template <class Got>
  [[noreturn]] void fail(const std::string& argument, const std::string& expected, const Got& got) const {
    std::ostringstream out;
    out << "mbv1::" << op_ << ": " << argument << ": expected " << expected << ", got " << got;
    throw std::runtime_error(out.str());  // not STD_TORCH_CHECK, which puts this file and line before the message
  }

  // Rank 4, a dtype the ops know, no empty dimension but the batch.
  DType input(const Tensor& x) const {
    if (x.dim() != 4) {
      fail("x", "a 4-D tensor (N, C, H, W)", std::to_string(x.dim()) + "-D " + shape_string(x));
    }
    const DType dtype = this->dtype("x", x);
    for (int64_t d = 1; d < 4; ++d) {
      if (x.size(d) <= 0) fail("x", "C, H and W >= 1", shape_string(x));
    }
    return dtype;
  }

  void weight(const char* argument, const Tensor& weight, int64_t rank, const std::string& form) const {
    if (weight.dim() != rank) {
      fail(argument, "a " + std::to_string(rank) + "-D tensor " + form,
           std::to_string(weight.dim()) + "-D " + shape_string(weight));
    }
    for (int64_t d = 0; d < rank; ++d) {
      if (weight.size(d) <= 0) fail(argument, form + " with no empty dimension", shape_string(weight));
    }
  }

  DType dtype(const char* argument, const Tensor& tensor) const {
    const std::optional<DType> dtype = known_dtype(tensor.scalar_type());
    if (!dtype.has_value()) fail(argument, "float32, float16, bfloat16 or float64", name(tensor.scalar_type()));
    return *dtype;
  }

  // A weight, bias or residual: exactly `shape`, and the dtype and device of x.
  void like(const char* argument, const std::optional<Tensor>& tensor, const Tensor& x, Integers shape) const {
    if (!tensor.has_value()) return;
    bool same = tensor->dim() == static_cast<int64_t>(shape.size());
    for (size_t d = 0; same && d < shape.size(); ++d) same = tensor->size(d) == shape[d];
    if (!same) fail(argument, "shape " + shape_string(shape), shape_string(*tensor));
    if (tensor->scalar_type() != x.scalar_type()) {
      fail(argument, std::string("dtype ") + name(x.scalar_type()) + " as x", name(tensor->scalar_type()));
    }
    if (!(tensor->device() == x.device())) {
      fail(argument, "device " + device_string(x) + " as x", device_string(*tensor));
    }
  }

  // A contiguous 1-D tensor of bytes on the CPU.
  void bytes(const char* argument, const Tensor& tensor) const {
    const bool flat = tensor.dim() == 1 && (tensor.size(0) <= 1 || tensor.stride(0) == 1);
    if (!flat || !tensor.is_cpu() || tensor.scalar_type() != ScalarType::Byte) {
      fail(argument, "a contiguous 1-D uint8 tensor on the CPU",
           shape_string(tensor) + " " + name(tensor.scalar_type()) + " on " + device_string(tensor) +
               (tensor.dim() == 1 && !flat ? ", strided" : ""));
    }
  }

  // Of what `x` leads to: few enough elements that no product overflows, bytes of 64 such in whole vectors included.
  // Only here: what Python makes, torch allocates.
  void not_huge(const char* what, Integers shape) const {
    int64_t left = int64_t{1} << 50;
    for (int64_t size : shape) left = size > 0 ? left / size : left;
    if (left == 0) fail("x", std::string(what) + " of at most 2^50 elements", shape_string(shape));
  }

  // [top, bottom, left, right], or [vertical, horizontal], each between `low` and 2^31 - 1.
  void integers(const char* argument, Integers values, size_t count, int64_t low) const {
    bool good = values.size() == count;
    for (int64_t value : values) good = good && value >= low && value <= INT32_MAX;
    if (!good) {
      fail(argument, std::to_string(count) + " integers >= " + std::to_string(low), shape_string(values));
    }
  }

  Activation activation(const char* argument, const std::string& name) const {
    if (name == "none") return Activation::kNone;
    if (name == "relu") return Activation::kRelu;
    if (name == "relu6") return Activation::kRelu6;
    if (name == "hardswish") return Activation::kHardswish;
    if (name == "silu") return Activation::kSilu;
    fail(argument, "one of none, relu, relu6, hardswish, silu", "'" + name + "'");
  }

  // (size + before + after - dilation * (k - 1) - 1) / stride + 1
  int64_t output_size(const char* axis, int64_t size, int64_t before, int64_t after, int64_t kernel, int64_t stride,
                      int64_t dilation) const {
    const int64_t padded = size + before + after;
    const int64_t window = dilation * (kernel - 1) + 1;
    if (padded < window) {
      fail("x", std::string("padded ") + axis + " >= window " + std::to_string(window), padded);
    }
    return (padded - window) / stride + 1;
  }

 private:
  static std::optional<DType> known_dtype(ScalarType type) {
    switch (type) {
      case ScalarType::Float:
        return DType::kFloat32;
      case ScalarType::Half:
        return DType::kFloat16;
      case ScalarType::BFloat16:
        return DType::kBFloat16;
      case ScalarType::Double:
        return DType::kFloat64;
      default:
        return std::nullopt;
    }
  }

  static std::string name(ScalarType type) {
    const std::optional<DType> dtype = known_dtype(type);
    return dtype.has_value() ? dtype_name(*dtype) : torch::headeronly::toString(type);
  }

  static std::string device_string(const Tensor& tensor) {
    if (tensor.is_cpu()) return "cpu";
    return (tensor.is_cuda() ? "cuda:" : "device:") + std::to_string(tensor.get_device_index());
  }

  const char* op_;
};

}  // namespace mbv1
