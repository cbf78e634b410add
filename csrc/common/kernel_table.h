// An op's kernels on one backend, most specialised first. On the CPU dispatch runs the first that matches, on CUDA
// the one with the lowest prediction (csrc/cuda/choice.h); tests, benchmarks and `mbv1_kernels.explain` read the same
// table. A new kernel is one line in it.
//
// Names: <op>_<layout>_k<K>s<S>, with what a kernel is not specialised for left out; dispatch appends the dtype
// (and on the CPU the instruction set): dwconv2d_nhwc_k3_f16, dwconv2d_nchw_k5_f32_avx2, pwconv2d_any_f64_portable.
#pragma once

#include <string>

#include "params.h"

namespace mbv1 {

template <class Kernel>
struct KernelTable {
  const Kernel* first;
  const Kernel* last;

  template <int kSize>
  constexpr KernelTable(const Kernel (&kernels)[kSize]) : first(kernels), last(kernels + kSize) {}

  const Kernel* begin() const { return first; }
  const Kernel* end() const { return last; }

  // Null where no kernel takes these params.
  template <class Params>
  const Kernel* pick(const Params& params) const {
    for (const Kernel& kernel : *this) {
      if (kernel.matches(params)) return &kernel;
    }
    return nullptr;
  }

  std::string names() const {
    std::string text;
    for (const Kernel& kernel : *this) text += std::string(text.empty() ? "" : "\n") + kernel.name;
    return text;
  }
};

}  // namespace mbv1
