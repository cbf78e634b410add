// The five ops on one backend: what csrc/cpu/bindings.cpp and csrc/cuda/bindings.cpp have in common.
//
// A Backend has a type Scope(const Tensor& y), alive while the others are called for a call that makes y, and static
// functions
//   table(const Params&)                -> KernelTable<Kernel>   for the params of each op,
//   pick(const Params&)                 -> const Kernel*         the kernel that the call gets, null where none can,
//   tune(const Params&, const Tensor& y)                         before pick: may measure the kernels, into y,
//   run(const Kernel&, const Params&, const Tensor& y)           to fill y, which is not empty,
//   candidates(const Params&, const std::string& device) -> std::string   see csrc/ops.cpp,
//   suffix()                            -> std::string           what a kernel's name ends with,
//   wanted()                            -> const char*           the inputs it takes, for the error message.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "binding.h"
#include "kernel_table.h"

namespace mbv1 {

template <class Backend, auto kPrepare>
struct Op;

// As `explain` shows it: dwconv2d_nhwc_k3_f16.
template <class Backend, class Kernel, class Params>
std::string full_name(const Kernel& kernel, const Params& params) {
  return std::string(kernel.name) + "_" + dtype_suffix(dtype_of(params)) + Backend::suffix();
}

template <class Backend, class Params, class... Arguments, Call<Params> (*kPrepare)(Arguments...)>
struct Op<Backend, kPrepare> {
  static Tensor run(Arguments... arguments) {
    const Call<Params> call = kPrepare(arguments...);
    const typename Backend::Scope scope(call.y);
    if (call.y.numel() > 0) Backend::tune(call.params, call.y);
    const auto& kernel = pick(call.params);
    if (call.y.numel() > 0) Backend::run(kernel, call.params, call.y);
    return call.y;
  }

  // By the kernel of that full name.
  static Tensor run_with(Arguments... arguments, const std::string& name) {
    const Call<Params> call = kPrepare(arguments...);
    const typename Backend::Scope scope(call.y);
    std::string fitting;
    for (const auto& kernel : Backend::table(call.params)) {
      if (!kernel.matches(call.params)) continue;
      const std::string other = full_name<Backend>(kernel, call.params);
      if (other == name) {
        if (call.y.numel() > 0) Backend::run(kernel, call.params, call.y);
        return call.y;
      }
      fitting += (fitting.empty() ? "" : ", ") + other;
    }
    Checks(op_name(call.params)).fail("kernel", "one that takes these arguments: " + fitting, "'" + name + "'");
  }

  static std::string kernel_name(Arguments... arguments) {
    const Call<Params> call = kPrepare(arguments...);
    const typename Backend::Scope scope(call.y);
    return full_name<Backend>(pick(call.params), call.params);
  }

  static std::string candidates(Arguments... arguments, const std::string& device) {
    const Call<Params> call = kPrepare(arguments...);
    const typename Backend::Scope scope(call.y);
    pick(call.params);
    return Backend::candidates(call.params, device);
  }

  static const auto& pick(const Params& params) {
    const auto* kernel = Backend::pick(params);
    if (kernel == nullptr) Checks(op_name(params)).fail("x", Backend::wanted(), dtype_name(dtype_of(params)));
    return *kernel;
  }

  static void implement(torch::stable::detail::StableLibrary& m) {
    const std::string name = op_name(Params{});
    m.impl(name.c_str(), TORCH_BOX(&run));
    m.impl((name + "_with").c_str(), TORCH_BOX(&run_with));
    m.impl((name + "_kernel").c_str(), TORCH_BOX(&kernel_name));
    m.impl((name + "_candidates").c_str(), TORCH_BOX(&candidates));
  }
};

template <class Backend>
void implement_ops(torch::stable::detail::StableLibrary& m) {
  Op<Backend, prepare_dwconv2d>::implement(m);
  Op<Backend, prepare_pwconv2d>::implement(m);
  Op<Backend, prepare_separable_conv2d>::implement(m);
  Op<Backend, prepare_stem_conv2d>::implement(m);
  Op<Backend, prepare_pool_linear>::implement(m);
}

// The names of all kernels of an op, one a line.
template <class Backend>
std::string kernel_names(const std::string& op) {
  std::string names;
  const auto add = [&](const auto& params) {
    if (op == op_name(params)) names = Backend::table(params).names();
  };
  add(DwConv2dParams{}), add(PwConv2dParams{}), add(SeparableConv2dParams{}), add(StemConv2dParams{});
  add(PoolLinearParams{});
  if (names.empty()) Checks("kernels").fail("op", "the name of an op", "'" + op + "'");
  return names;
}

}  // namespace mbv1
