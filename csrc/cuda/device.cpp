#include "device.h"

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>

#include "devices.h"

namespace mbv1::cuda {
namespace {

thread_local const Device* modelled = nullptr;

int attribute(cudaDeviceAttr attr, int index, int otherwise) {
  int value = 0;
  const bool known = cudaDeviceGetAttribute(&value, attr, index) == cudaSuccess && value > 0;
  return known ? value : otherwise;
}

// The rule for any device: its own numbers, and what an SM of its architecture does each clock.
Device read_device(int index) {
  const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, index, 8) +
                         attribute(cudaDevAttrComputeCapabilityMinor, index, 0);
  Architecture architecture = kArchitectures[0];
  for (const Architecture& a : kArchitectures) {
    if (a.capability <= capability) architecture = a;
  }
  Device d{};
  d.name = "this device";
  d.capability = capability;
  d.sms = attribute(cudaDevAttrMultiProcessorCount, index, 1);
  d.clock_ghz = attribute(cudaDevAttrClockRate, index, 1'500'000) * 1e-6;  // kHz
  // Two transfers a clock (kHz) of the whole bus (bits).
  d.dram_gb_per_s = 2.0 * attribute(cudaDevAttrMemoryClockRate, index, 5'000'000) *
                    attribute(cudaDevAttrGlobalMemoryBusWidth, index, 256) / 8 * 1e-6;
  const double sm_clocks = d.sms * d.clock_ghz;
  d.l2_gb_per_s = sm_clocks * architecture.l2_bytes;
  d.fp32_tflops = sm_clocks * 2 * architecture.fp32_lanes * 1e-3;
  d.tensor_tflops = sm_clocks * architecture.tensor_flops * 1e-3;
  d.threads = attribute(cudaDevAttrMaxThreadsPerMultiProcessor, index, 1024);
  d.blocks = attribute(cudaDevAttrMaxBlocksPerMultiprocessor, index, 16);
  d.registers = attribute(cudaDevAttrMaxRegistersPerMultiprocessor, index, 65536);
  d.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, index, 65536);
  return d;
}

}  // namespace

const Device& current_device() {
  if (modelled != nullptr) return *modelled;
  int index = 0;
  if (cudaGetDevice(&index) != cudaSuccess) index = 0;
  constexpr int kMost = 64;
  static std::once_flag read[kMost];
  static Device devices[kMost];
  const int slot = index < kMost ? index : 0;
  std::call_once(read[slot], [&] { devices[slot] = read_device(slot); });
  return devices[slot];
}

bool is_modelled() { return modelled != nullptr; }

ModelledDevice::ModelledDevice(const Device& device) : before_(modelled) { modelled = &device; }
ModelledDevice::~ModelledDevice() { modelled = before_; }

const Device* find_device(const std::string& name) {
  for (const Device& device : kDevices) {
    if (name == device.name) return &device;
  }
  return nullptr;
}

}  // namespace mbv1::cuda
