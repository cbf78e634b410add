// Every operator's schema, and the Python module `mbv1_kernels._C` whose import registers them.
//
// Kernels: csrc/cpu/bindings.cpp and csrc/cuda/bindings.cpp. Fakes, autograd and autocast: mbv1_kernels/ops/.
// Each op `foo` has, with the same arguments,
//   foo_kernel                  the name of the kernel that would run,
//   foo_candidates(…, device)   JSON: every kernel that could run the call, in the order of the table, and on CUDA
//                               what the cost model predicts for it on this device or on a named one of cuda_devices,
//   foo_with(…, kernel)         the op by the kernel of that name.

#include <Python.h>
#include <torch/csrc/stable/library.h>

#define MBV1_DEF(m, name, arguments)                                 \
  m.def(name "(" arguments ") -> Tensor");                           \
  m.def(name "_kernel(" arguments ") -> str");                       \
  m.def(name "_candidates(" arguments ", *, str device='') -> str"); \
  m.def(name "_with(" arguments ", *, str kernel) -> Tensor")

STABLE_TORCH_LIBRARY(mbv1, m) {
  MBV1_DEF(m, "dwconv2d",
           "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, str activation");
  MBV1_DEF(m, "pwconv2d",
           "Tensor x, Tensor weight, Tensor? bias, str activation, Tensor? residual, bool allow_tf32=False");
  MBV1_DEF(m, "separable_conv2d",
           "Tensor x, Tensor dw_weight, Tensor? dw_bias, Tensor pw_weight, Tensor? pw_bias, int[] stride, "
           "int[] padding, int[] dilation, str dw_activation, str activation, Tensor? residual, "
           "bool allow_tf32=False");
  MBV1_DEF(m, "stem_conv2d", "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, str activation");
  MBV1_DEF(m, "pool_linear", "Tensor x, Tensor weight, Tensor? bias");

  // CPU only; mbv1_kernels/chain.py is their interface. `layers` is (layers, 13) int64: kernel, stride (height,
  // width), padding (top, bottom, left, right), dilation, output channels, the two activations; a tensor, as it costs
  // microseconds to hand over so many integers. `packed` has what chain_pack makes of each, one after another. `size`
  // is (C, H, W) of the last layer's output. With a weight the result is pool_linear's of that.
  m.def("chain_pack(Tensor? dw_weight, Tensor? dw_bias, Tensor weight, Tensor? bias, bool strassen=True) -> Tensor");
  m.def(
      "chain(Tensor x, Tensor packed, Tensor layers, int[] size, Tensor? weight=None, Tensor? bias=None) -> Tensor");
  // 1-D tensors of uint8 one after another, in memory of which the system makes huge pages, if it has them.
  m.def("in_huge_pages(Tensor[] parts) -> Tensor");

  // Memory that the CPU kernels of all threads keep between calls.
  m.def("cpu_scratch_bytes() -> int");

  // The names of all kernels of an op on a backend, one a line.
  m.def("cpu_kernels(str op) -> str");
  m.def("cuda_kernels(str op) -> str");

  // The cost model itself: its devices as JSON, and its prediction for launches that are not ours. `work` holds the
  // members of Work (csrc/cuda/cost_model.h) in order, for one launch after another.
  m.def("cuda_devices() -> str");
  m.def("cuda_predict(float[] work, str device) -> str");
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr && PyModule_AddStringConstant(module, "__version__", MBV1_VERSION) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
