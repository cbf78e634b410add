// The ops on CUDA, and the Python module `mbv1_kernels._cuda` whose import registers them. The only file of this
// folder that sees torch.
#include <Python.h>
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../common/op.h"
#include "kernels.h"

namespace mbv1::cuda {
namespace {

struct Backend {
  static auto table(const DwConv2dParams&) { return dwconv2d_kernels(); }
  static auto table(const PwConv2dParams&) { return pwconv2d_kernels(); }
  static auto table(const SeparableConv2dParams&) { return separable_conv2d_kernels(); }
  static auto table(const StemConv2dParams&) { return stem_conv2d_kernels(); }
  static auto table(const PoolLinearParams&) { return pool_linear_kernels(); }

  template <class Params>
  static void run(const Kernel<Params>& kernel, const Params& params, const Tensor& y) {
    const int32_t device = y.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    STD_CUDA_CHECK(kernel.launch(params, static_cast<cudaStream_t>(stream)));
  }

  static const char* suffix() { return ""; }
  static const char* wanted() { return "float32, float16 or bfloat16 on CUDA"; }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mbv1, CUDA, m) { implement_ops<Backend>(m); }

STABLE_TORCH_LIBRARY_IMPL(mbv1, CompositeExplicitAutograd, m) {
  m.impl("cuda_kernels", TORCH_BOX(&kernel_names<Backend>));
}

}  // namespace mbv1::cuda

PyMODINIT_FUNC PyInit__cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
