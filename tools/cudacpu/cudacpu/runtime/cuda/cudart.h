// A CUDA runtime without a GPU. It has the real library's name and symbol versions, so that a
// program linked against libcudart runs on it unchanged when it is preloaded.
//
// Device memory is host memory (memory.h), streams are synchronous, and a launch looks the kernel's
// name up among the translated kernels of the libraries named in $CUDACPU_KERNELS and runs the grid
// before it returns. An error in a kernel is kept, as on a GPU, for the next call that reports
// asynchronous errors; unlike on a GPU it is then forgotten, so that later tests still run.
//
// Functions that are not defined here are weak stubs, generated at build time, that fail by name.
#pragma once
#include <cuda_runtime_api.h>

#include <string>

#include "scheduler/scheduler.h"

namespace cudacpu {

// Configured by environment variables (see the README).
struct Device {
  int capability;
  int multiprocessors;
  size_t memory;
  DeviceLimits limits;

  Device();
  int threads_per_multiprocessor() const {
    return capability == 75 ? 1024 : capability == 86 || capability == 89 ? 1536 : 2048;
  }
  size_t shared_per_multiprocessor() const { return limits.opt_in_shared_bytes + 1024; }
};

const Device& device();
int attribute(cudaDeviceAttr attr);

// ---- errors ----

cudaError_t fail_call(cudaError_t code);
// Also prints the message and keeps it for cudaGetErrorString.
cudaError_t fail_with(int code, const std::string& message);
// For calls that report errors of earlier asynchronous work.
cudaError_t report_pending();
// An error of a kernel: the launch succeeds, and a later call reports it.
void set_pending(int code);

// ---- kernels and variables ----

// What is known about a host-side launch stub.
struct HostFunction {
  const char* device_name = nullptr;
  const Kernel* kernel = nullptr;
  bool resolved = false;
  uint32_t dynamic_limit = 0;
};

// A mangled name without what differs between the extension's build and ours.
std::string comparable(const std::string& name);
HostFunction* find_function(const void* host);
char* symbol_address(const void* symbol);

}  // namespace cudacpu
