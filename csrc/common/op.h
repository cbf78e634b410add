// The five ops on one backend: what csrc/cpu/bindings.cpp and csrc/cuda/bindings.cpp have in common.
//
// A Backend has static functions
//   table(const Params&)                -> KernelTable<Kernel>   for the params of each op,
//   run(const Kernel&, const Params&, const Tensor& y)           to fill y, which is not empty,
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

template <class Backend, class Params, class... Arguments, Call<Params> (*kPrepare)(Arguments...)>
struct Op<Backend, kPrepare> {
  static Tensor run(Arguments... arguments) {
    const Call<Params> call = kPrepare(arguments...);
    const auto& kernel = pick(call.params);
    if (call.y.numel() > 0) Backend::run(kernel, call.params, call.y);
    return call.y;
  }

  static std::string kernel_name(Arguments... arguments) {
    const Params params = kPrepare(arguments...).params;
    return std::string(pick(params).name) + "_" + dtype_suffix(dtype_of(params)) + Backend::suffix();
  }

  static const auto& pick(const Params& params) {
    const auto* kernel = Backend::table(params).pick(params);
    if (kernel == nullptr) Checks(op_name(params)).fail("x", Backend::wanted(), dtype_name(dtype_of(params)));
    return *kernel;
  }

  static void implement(torch::stable::detail::StableLibrary& m) {
    const std::string name = op_name(Params{});
    m.impl(name.c_str(), TORCH_BOX(&run));
    m.impl((name + "_kernel").c_str(), TORCH_BOX(&kernel_name));
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
