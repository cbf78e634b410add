// The ops on the CPU.
#include "../common/op.h"
#include "kernels.h"
#include "threads.h"

namespace mbv1::cpu {
namespace {

struct Backend {
  struct Scope {
    explicit Scope(const Tensor&) {}
  };

  static const auto& table(const DwConv2dParams&) { return kernels().dwconv2d; }
  static const auto& table(const PwConv2dParams&) { return kernels().pwconv2d; }
  static const auto& table(const SeparableConv2dParams&) { return kernels().separable_conv2d; }
  static const auto& table(const StemConv2dParams&) { return kernels().stem_conv2d; }
  static const auto& table(const PoolLinearParams&) { return kernels().pool_linear; }

  template <class Params>
  static const Kernel<Params>* pick(const Params& params) {
    return table(params).pick(params);
  }

  template <class Params>
  static void run(const Kernel<Params>& kernel, const Params& params, const Tensor&) {
    kernel.run(params, torch_threads());
  }

  template <class Params>
  static void tune(const Params&, const Tensor&) {}

  template <class Params>
  static std::string candidates(const Params& params, const std::string&) {
    std::string json;
    for (const Kernel<Params>& kernel : table(params)) {
      if (!kernel.matches(params)) continue;
      json += (json.empty() ? "[" : ", ") + ("{\"kernel\": \"" + full_name<Backend>(kernel, params) + "\"}");
    }
    return json + "]";
  }

  static std::string suffix() { return std::string("_") + isa_name(); }
  static const char* wanted() { return "float32, float16, bfloat16 or float64"; }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mbv1, CPU, m) { implement_ops<Backend>(m); }

STABLE_TORCH_LIBRARY_IMPL(mbv1, CompositeExplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&kernel_names<Backend>));
  m.impl("cpu_scratch_bytes", TORCH_BOX(&scratch_bytes));
}

}  // namespace mbv1::cpu
