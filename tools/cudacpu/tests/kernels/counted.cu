// Kernels whose counts are known by hand (test_counts.py).
#include <cstdint>

extern "C" {

__global__ void copy_floats(const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i];
}

__global__ void copy_vectors(const float4* x, float4* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i];
}

// Every lane reads a sector of its own, and uses 4 of its 32 bytes.
__global__ void gather(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x * 8]; }

// All lanes read the same address, block after block.
__global__ void broadcast(const float* x, float* y) { y[blockIdx.x * blockDim.x + threadIdx.x] = x[0]; }

// Lanes leave iterations out at both ends, as at the borders of an image: the n-th load of a lane is not the n-th
// of its neighbours.
__global__ void windows(const float* x, float* y, int size, int taps) {
  const int i = threadIdx.x;
  float sum = 0;
#pragma unroll 1
  for (int t = 0; t < taps; ++t) {
    const int at = i + t - taps / 2;
    if (at < 0 || at >= size) continue;
    sum = fmaf(x[at], 0.5f, sum);
  }
  y[i] = sum;
}

// Row r of a matrix of `pitch` floats is written by lane r, then read column by column.
__global__ void transpose(const float* x, float* y, int pitch) {
  extern __shared__ float tile[];
  const int lane = threadIdx.x;
  tile[lane * pitch] = x[lane];
  __syncthreads();
  y[lane] = tile[lane * pitch];
}

__global__ void shared_vectors(float* y) {
  extern __shared__ float4 vectors[];
  vectors[threadIdx.x] = make_float4(1, 2, 3, 4);
  __syncthreads();
  y[threadIdx.x] = vectors[threadIdx.x ^ 1].x;
}

__global__ void copy_async(const float4* x, float4* y) {
  __shared__ float4 tile[32];
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(&tile[threadIdx.x]));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;" ::"r"(to),
               "l"(x + threadIdx.x)
               : "memory");
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

// Two calls of a function that is not inlined are two requests.
__device__ __noinline__ float load(const float* x, int i) { return x[i]; }
__global__ void calls(const float* x, float* y) {
  const int i = threadIdx.x;
  y[i] = load(x, i) + load(x, i + 32);
}

__global__ void arithmetic(const float* x, float* y, int n) {
  const int i = threadIdx.x;
  float sum = x[i];
#pragma unroll 1
  for (int k = 0; k < n; ++k) sum = fmaf(sum, 0.5f, 1.0f);
  y[i] = sum;
}

}  // extern "C"
