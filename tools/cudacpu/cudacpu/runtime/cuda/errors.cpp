// Errors of calls, and errors of kernels until a call reports them.
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/cudart.h"

namespace cudacpu {
namespace {

std::mutex error_mutex;
std::atomic<int> pending_error{0};
int described_error = 0;
std::string description;
thread_local cudaError_t last_error = cudaSuccess;

const char* error_text(int code) {
  switch (code) {
    case 0:
      return "no error";
    case kInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case kInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidSymbol:
      return "invalid device symbol";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case kNoKernelImage:
      return "no kernel image is available for execution on the device";
    case cudaErrorNotReady:
      return "device not ready";
    case kIllegalAddress:
      return "an illegal memory access was encountered";
    case kLaunchOutOfResources:
      return "too many resources requested for launch";
    case kLaunchTimeout:
      return "the launch timed out and was terminated";
    case kAssert:
      return "device-side assert triggered";
    case kMisalignedAddress:
      return "misaligned address";
    case kLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "error";
  }
}

}  // namespace

cudaError_t fail_call(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

cudaError_t fail_with(int code, const std::string& message) {
  {
    std::lock_guard<std::mutex> lock(error_mutex);
    described_error = code;
    description = message;
  }
  fprintf(stderr, "cudacpu: CUDA error %d: %s\n", code, message.c_str());
  return fail_call(static_cast<cudaError_t>(code));
}

cudaError_t report_pending() {
  const int code = pending_error.exchange(0);
  return code ? fail_call(static_cast<cudaError_t>(code)) : cudaSuccess;
}

void set_pending(int code) { pending_error = code; }

}  // namespace cudacpu

using namespace cudacpu;

extern "C" {

int cudacpu_unimplemented(const char* name) {
  return fail_with(cudaErrorNotSupported, std::string(name) + " is not emulated");
}

cudaError_t cudaGetLastError() {
  report_pending();
  const cudaError_t code = last_error;
  last_error = cudaSuccess;
  return code;
}
cudaError_t cudaPeekAtLastError() {
  report_pending();
  return last_error;
}
const char* cudaGetErrorName(cudaError_t code) { return code == cudaSuccess ? "cudaSuccess" : "cudaError"; }

// The text of an error that has a description includes it: PyTorch puts it into its exception.
const char* cudaGetErrorString(cudaError_t code) {
  std::lock_guard<std::mutex> lock(error_mutex);
  if (code == cudaSuccess || code != described_error) return error_text(code);
  static auto* texts = new std::vector<std::string>;  // the caller may keep the pointer
  texts->reserve(10000);
  if (texts->size() == texts->capacity()) return error_text(code);
  texts->push_back(std::string(error_text(code)) + ": " + description);
  return texts->back().c_str();
}

}  // extern "C"
