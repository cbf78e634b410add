// Allocation, copies and fills, with their ranges checked.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "cuda/cudart.h"

using namespace cudacpu;

namespace {

cudaError_t check_range(const void* p, size_t bytes, const char* what) {
  if (!bytes || !is_device_pointer(p) || addressable_range(reinterpret_cast<uint64_t>(p), bytes))
    return cudaSuccess;
  char text[160];
  snprintf(text, sizeof text, "%s of %zu bytes at %p leaves its allocation: ", what, bytes, p);
  return fail_with(kInvalidValue, text + describe_address(reinterpret_cast<uint64_t>(p)));
}

cudaError_t copy(void* to, const void* from, size_t bytes) {
  cudaError_t status = report_pending();
  if (status == cudaSuccess) status = check_range(to, bytes, "copy to a range");
  if (status == cudaSuccess) status = check_range(from, bytes, "copy from a range");
  if (status == cudaSuccess && bytes) memmove(to, from, bytes);
  return status;
}

cudaError_t copy_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                    size_t height) {
  cudaError_t status = cudaSuccess;
  for (size_t row = 0; row < height && status == cudaSuccess; ++row)
    status = copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
  return status;
}

cudaError_t set(void* to, int value, size_t bytes) {
  cudaError_t status = report_pending();
  if (status == cudaSuccess) status = check_range(to, bytes, "memset of a range");
  if (status == cudaSuccess && bytes) memset(to, value, bytes);
  return status;
}

cudaError_t allocate(void** pointer, size_t bytes, const char* what) {
  *pointer = nullptr;
  if (!bytes) return cudaSuccess;
  if (device_bytes_in_use() + bytes > device().memory) return fail_call(cudaErrorMemoryAllocation);
  *pointer = device_alloc(bytes, what);
  return *pointer ? cudaSuccess : fail_call(cudaErrorMemoryAllocation);
}

cudaError_t release(void* pointer) {
  if (!pointer || device_free(pointer)) return cudaSuccess;
  char text[64];
  snprintf(text, sizeof text, "free of %p: ", pointer);
  return fail_with(kInvalidValue, text + describe_address(reinterpret_cast<uint64_t>(pointer)));
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** p, size_t bytes) { return allocate(p, bytes, "cudaMalloc"); }
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  return allocate(p, bytes, "cudaMallocAsync");
}
cudaError_t cudaMallocManaged(void** p, size_t bytes, unsigned) {
  return allocate(p, bytes, "cudaMallocManaged");
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return allocate(p, bytes, "cudaHostAlloc"); }
cudaError_t cudaMallocHost(void** p, size_t bytes) { return allocate(p, bytes, "cudaHostAlloc"); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return release(p); }
cudaError_t cudaFreeHost(void* p) { return release(p); }
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaHostGetDevicePointer(void** to, void* host, unsigned) {
  *to = host;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = device().memory;
  *free_bytes = *total - std::min(*total, device_bytes_in_use());
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  memset(attributes, 0, sizeof *attributes);
  const BlockInfo block = find_block(p);
  attributes->type = cudaMemoryTypeUnregistered;
  attributes->device = -2;
  if (!block.what) return cudaSuccess;
  const bool host = !strcmp(block.what, "cudaHostAlloc");
  attributes->type = host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = 0;
  attributes->devicePointer = const_cast<void*>(p);
  if (host) attributes->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return copy(to, from, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return copy(to, from, bytes);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
  return copy(to, from, bytes);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind) {
  return copy_2d(to, to_pitch, from, from_pitch, width, height);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  return copy_2d(to, to_pitch, from, from_pitch, width, height);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return set(to, value, bytes); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return set(to, value, bytes); }

cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  *address = symbol_address(symbol);
  return *address ? cudaSuccess
                  : fail_with(cudaErrorInvalidSymbol, "symbol of a variable outside the emulated sources");
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               cudaMemcpyKind) {
  void* to;
  const cudaError_t status = cudaGetSymbolAddress(&to, symbol);
  return status != cudaSuccess ? status : copy(static_cast<char*>(to) + offset, from, bytes);
}
cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpyToSymbol(symbol, from, bytes, offset, kind);
}
cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset, cudaMemcpyKind) {
  void* from;
  const cudaError_t status = cudaGetSymbolAddress(&from, symbol);
  return status != cudaSuccess ? status : copy(to, static_cast<char*>(from) + offset, bytes);
}

// ---- memory pools: accepted and ignored ----

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  static int placeholder;
  *pool = reinterpret_cast<cudaMemPool_t>(&placeholder);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  memset(value, 0, sizeof(uint64_t));
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return cudaSuccess; }

}  // extern "C"
