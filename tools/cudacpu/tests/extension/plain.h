// What ops.cu and plain.cu share.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

// Both sources instantiate it with the same arguments.
template <class T, int Amount>
__global__ void shift_by(T* y, int64_t n) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) y[i] += Amount;
}

void scale_negatively(const float* x, float* y, int64_t n, float factor, cudaStream_t stream);
