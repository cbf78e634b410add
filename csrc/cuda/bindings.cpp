// The ops on CUDA, and the Python module `mbv1_kernels._cuda` whose import registers them. The only file of this
// folder that sees torch.
#include <Python.h>
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../common/op.h"
#include "choice.h"
#include "report.h"

namespace mbv1::cuda {
namespace {

struct Backend {
  struct Scope {
    torch::stable::accelerator::DeviceGuard guard;
    explicit Scope(const Tensor& y) : guard(y.get_device_index()) {}
  };

  template <class Params>
  static auto table(const Params& params) {
    return kernels_of(params);
  }

  template <class Params>
  static const Kernel<Params>* pick(const Params& params) {
    return choose(params);
  }

  template <class Params>
  static void tune(const Params& params, const Tensor& y) {
    if (!autotune_enabled()) return;
    const cudaStream_t stream = stream_of(y);
    measure_candidates(params, stream,
                       [&](const Kernel<Params>& kernel) { return launch(kernel, params, y, stream); });
  }

  template <class Params>
  static void run(const Kernel<Params>& kernel, const Params& params, const Tensor& y) {
    STD_CUDA_CHECK(launch(kernel, params, y, stream_of(y)));
  }

  template <class Params>
  static std::string candidates(const Params& params, const std::string& device) {
    if (device.empty()) return describe(params);
    const ModelledDevice modelled(device_named(device));
    return describe(params);
  }

  static const char* suffix() { return ""; }
  static const char* wanted() { return "float32, float16 or bfloat16 on CUDA"; }

 private:
  static cudaStream_t stream_of(const Tensor& y) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(y.get_device_index(), &stream));
    return static_cast<cudaStream_t>(stream);
  }

  template <class Params>
  static cudaError_t launch(const Kernel<Params>& kernel, const Params& params, const Tensor& y,
                            cudaStream_t stream) {
    Params call = params;
    Tensor workspace;  // freed at the return, which the caching allocator orders after this stream's work
    if constexpr (requires { workspace_of(call); }) {
      if (kernel.workspace != nullptr) {
        workspace = torch::stable::new_empty(y, {kernel.workspace(params)}, torch::headeronly::ScalarType::Byte);
        workspace_of(call) = workspace.mutable_data_ptr();
      }
    }
    return kernel.launch(call, stream);
  }

  static void*& workspace_of(PwConv2dParams& p) { return p.workspace; }
  static void*& workspace_of(SeparableConv2dParams& p) { return p.pw.workspace; }
  static void*& workspace_of(PoolLinearParams& p) { return p.workspace; }

  template <class Params>
  static std::string describe(const Params& params) {
    const Kernel<Params>* chosen = choose(params);
    std::string json;
    for (const Candidate<Params>& candidate : cuda::candidates(params)) {
      json += (json.empty() ? "[" : ", ") + candidate_json(full_name<Backend>(*candidate.kernel, params),
                                                           candidate.kernel == chosen, candidate.works,
                                                           candidate.prediction);
    }
    return json + "]";
  }
};

std::string predict_works(const std::vector<double>& numbers, const std::string& device) {
  return prediction_json(predict(works_from(numbers), device_named(device)));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mbv1, CUDA, m) { implement_ops<Backend>(m); }

STABLE_TORCH_LIBRARY_IMPL(mbv1, CompositeExplicitAutograd, m) {
  m.impl("cuda_kernels", TORCH_BOX(&kernel_names<Backend>));
  m.impl("cuda_devices", TORCH_BOX(&devices_json));
  m.impl("cuda_predict", TORCH_BOX(&predict_works));
}

}  // namespace mbv1::cuda

PyMODINIT_FUNC PyInit__cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
