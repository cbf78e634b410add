// Launches, function attributes and occupancy.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/cudart.h"

using namespace cudacpu;

namespace {

std::atomic<uint64_t> launches{0};

std::vector<unsigned char> pack_parameters(const Kernel& kernel, void** arguments) {
  std::vector<unsigned char> packed(kernel.parameter_bytes);
  for (uint32_t i = 0; i < kernel.parameter_count; ++i)
    memcpy(&packed[kernel.parameters[i].offset], arguments[i], kernel.parameters[i].bytes);
  return packed;
}

cudaError_t launch_kernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared) {
  const HostFunction* function = find_function(host);
  if (!function) return fail_with(cudaErrorInvalidDeviceFunction, "launch of an unregistered kernel");
  if (!function->kernel)
    return fail_with(kNoKernelImage, "kernel " + readable_name(function->device_name) +
                                         " is not among the emulated sources (for PyTorch's own kernels use "
                                         "cudacpu.fallback.CpuFallbackMode)");
  const Kernel& kernel = *function->kernel;
  const Dim3 g{grid.x, grid.y, grid.z}, b{block.x, block.y, block.z};
  LaunchError error = check_launch(kernel, g, b, shared, function->dynamic_limit, device().limits);
  if (error) return fail_with(error.code, error.message);
  ++launches;
  error = launch(kernel, g, b, shared, pack_parameters(kernel, arguments).data());
  if (!error) return cudaSuccess;
  set_pending(error.code);
  return fail_with(error.code, error.message);
}

struct LaunchConfiguration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<LaunchConfiguration> configurations;

}  // namespace

extern "C" {

// For tests: kernels launched since the start of the process.
__attribute__((visibility("default"))) uint64_t cudacpu_launches() { return launches; }

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const LaunchConfiguration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<void**>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t) {
  return launch_kernel(function, grid, block, arguments, shared);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& a = config->attrs[i];
    const bool cooperative = a.id == cudaLaunchAttributeCooperative && a.val.cooperative;
    const bool cluster = a.id == cudaLaunchAttributeClusterDimension &&
                         a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z > 1;
    if (cooperative || cluster)
      return fail_with(cudaErrorNotSupported, "a cooperative or cluster launch is not emulated");
  }
  return launch_kernel(function, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes);
}

// CUDA 13: a kernel handle is the address of the host stub here.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  return __cudaGetKernel(kernel, function);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  return launch_kernel(kernel, grid, block, arguments, shared);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = device().capability;
  attributes->maxDynamicSharedSizeBytes = device().limits.default_shared_bytes;
  const HostFunction* function = find_function(host);
  if (!function) return fail_call(cudaErrorInvalidDeviceFunction);
  if (!function->kernel) return cudaSuccess;
  const Kernel& kernel = *function->kernel;
  if (kernel.max_threads) attributes->maxThreadsPerBlock = kernel.max_threads;
  attributes->sharedSizeBytes = static_shared_bytes(kernel);
  attributes->localSizeBytes = kernel.local_bytes;
  const int left = device().limits.default_shared_bytes - static_shared_bytes(kernel);
  attributes->maxDynamicSharedSizeBytes = function->dynamic_limit ? int(function->dynamic_limit) : left;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attr, int value) {
  HostFunction* function = find_function(host);
  if (!function) return fail_call(cudaErrorInvalidDeviceFunction);
  if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  const uint32_t fixed = function->kernel ? static_shared_bytes(*function->kernel) : 0;
  if (value < 0 || fixed + value > device().limits.opt_in_shared_bytes)
    return fail_with(kInvalidValue, "cudaFuncSetAttribute: " + std::to_string(fixed) + " static + " +
                                        std::to_string(value) +
                                        " dynamic bytes of shared memory exceed the device's " +
                                        std::to_string(device().limits.opt_in_shared_bytes) + "; kernel " +
                                        readable_name(function->device_name));
  function->dynamic_limit = value;
  return cudaSuccess;
}
cudaError_t cudaFuncSetCacheConfig(const void*, cudaFuncCache) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* host, int threads,
                                                                   size_t shared, unsigned) {
  const HostFunction* function = find_function(host);
  const size_t fixed = function && function->kernel ? static_shared_bytes(*function->kernel) : 0;
  if (threads < 1 || threads > 1024) return fail_call(cudaErrorInvalidValue);
  const size_t by_threads = device().threads_per_multiprocessor() / ((threads + 31) / 32 * 32);
  const size_t by_shared = device().shared_per_multiprocessor() / (fixed + shared + 1024);
  *blocks = std::min<size_t>({by_threads, by_shared, 32});
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host, int threads,
                                                          size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, host, threads, shared, 0);
}

}  // extern "C"
