// A small PyTorch extension (stable ABI) with the things that a launch path can contain.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "plain.h"

using torch::stable::Tensor;

namespace {

__constant__ float bias;

__global__ void scale_kernel(const float* x, float* y, int64_t n, float factor) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) y[i] = x[i] * factor + bias;
}

// Reads one element too many.
__global__ void shift_kernel(const float* x, float* y, int64_t n) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) y[i] = x[i + 1];
}

// Sums rows in dynamic shared memory, larger than 48 KiB for long rows.
template <class T>
__global__ void row_sum_kernel(const T* x, T* y, int columns) {
  extern __shared__ float row[];
  for (int i = threadIdx.x; i < columns; i += blockDim.x) row[i] = x[int64_t(blockIdx.x) * columns + i];
  __syncthreads();
  for (int width = columns; width > 1; width = (width + 1) / 2) {
    const int half = (width + 1) / 2;
    for (int i = threadIdx.x; i + half < width; i += blockDim.x) row[i] += row[i + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[blockIdx.x] = row[0];
}

// Lacks a barrier between the store and the load of another thread's element.
__global__ void racy_reverse_kernel(const float* x, float* y) {
  __shared__ float tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

cudaStream_t current_stream(const Tensor& x) {
  void* stream;
  aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream);
  return static_cast<cudaStream_t>(stream);
}

const float* input(const Tensor& x) { return static_cast<const float*>(x.data_ptr()); }
float* output(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }
unsigned blocks(int64_t n) { return (n + 255) / 256; }

Tensor scale(const Tensor& x, double factor, double offset) {
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const float value = offset;
  cudaMemcpyToSymbol(bias, &value, sizeof value);
  Tensor contiguous = torch::stable::contiguous(x);
  Tensor y = torch::stable::empty_like(contiguous);
  scale_kernel<<<blocks(x.numel()), 256, 0, current_stream(x)>>>(input(contiguous), output(y), x.numel(),
                                                                 float(factor));
  return y;
}

// -x * factor + 3 by the kernels of plain.cu, and + 3 once more by the template's instance here.
Tensor scale_negatively_twice_shifted(const Tensor& x, double factor) {
  Tensor y = torch::stable::empty_like(x);
  scale_negatively(input(x), output(y), x.numel(), float(factor), current_stream(x));
  shift_by<float, 3><<<blocks(x.numel()), 256, 0, current_stream(x)>>>(output(y), x.numel());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

Tensor shift(const Tensor& x) {
  Tensor y = torch::stable::empty_like(x);
  shift_kernel<<<blocks(x.numel()), 256, 0, current_stream(x)>>>(input(x), output(y), x.numel());
  return y;
}

Tensor racy_reverse(const Tensor& x) {
  Tensor y = torch::stable::empty_like(x);
  racy_reverse_kernel<<<1, 128, 0, current_stream(x)>>>(input(x), output(y));
  return y;
}

Tensor row_sum(const Tensor& x, bool raise_limit) {
  const int rows = x.size(0), columns = x.size(1), bytes = columns * sizeof(float);
  Tensor y = torch::stable::new_empty(x, {rows});
  if (raise_limit)
    cudaFuncSetAttribute(row_sum_kernel<float>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  row_sum_kernel<float><<<rows, 128, bytes, current_stream(x)>>>(input(x), output(y), columns);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY(cudacpu_test, m) {
  m.def("scale(Tensor x, float factor, float offset) -> Tensor");
  m.def("scale_negatively_twice_shifted(Tensor x, float factor) -> Tensor");
  m.def("shift(Tensor x) -> Tensor");
  m.def("racy_reverse(Tensor x) -> Tensor");
  m.def("row_sum(Tensor x, bool raise_limit) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(cudacpu_test, CUDA, m) {
  m.impl("scale", TORCH_BOX(&scale));
  m.impl("scale_negatively_twice_shifted", TORCH_BOX(&scale_negatively_twice_shifted));
  m.impl("shift", TORCH_BOX(&shift));
  m.impl("racy_reverse", TORCH_BOX(&racy_reverse));
  m.impl("row_sum", TORCH_BOX(&row_sum));
}
