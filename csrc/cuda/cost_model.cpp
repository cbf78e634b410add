#include "cost_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "devices.h"

namespace mbv1::cuda {
namespace {

// Per SM and clock, the same from sm_80 to sm_120. L1 and shared memory are one array with 128 bytes of width, the
// port to L2 has 64, and each of the 4 schedulers issues one instruction of 32 lanes.
constexpr double kL1Bytes = 128, kL2PortBytes = 64, kIssueLanes = 4 * 32;

// A load that misses the caches: 466 to 542 clocks on A100, H100 and RTX 4090 (arXiv 2402.13499, table IV).
constexpr double kMemoryClocks = 466;

// From the end of a kernel to the first instruction of the next one in the stream. A device that is fed by a CUDA
// graph needs about this; launched from the CPU it is several times as long, the same for every kernel.
constexpr double kLaunchUs = 1.0;

constexpr int kWarp = 32;
constexpr int kReservedShared = 1024;  // of each block, by the system, from sm_80 on
constexpr int kRegisterUnit = 256;     // a warp's registers are allocated in units of these

double ceil_div(double a, double b) { return std::ceil(a / b); }

}  // namespace

const char* limiter_name(Limiter limiter) {
  constexpr const char* kNames[kLimiters] = {"DRAM",     "L2",          "L1/LSU",  "issue slots",
                                             "FMA pipe", "tensor pipe", "latency", "launch"};
  return kNames[static_cast<int>(limiter)];
}

int resident_blocks(const Work& work, const Device& device) {
  const int warps = (work.threads + kWarp - 1) / kWarp;
  const int warp_registers = (work.registers * kWarp + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
  const int reserved = device.capability >= 80 ? kReservedShared : 0;
  int blocks = std::min(device.blocks, device.threads / (warps * kWarp));
  if (warp_registers > 0) blocks = std::min(blocks, device.registers / warp_registers / warps);
  return std::min(blocks, device.shared_bytes / std::max(1, work.shared_bytes + reserved));
}

Prediction predict(const Work& work, const Device& device) {
  Prediction result{};
  const int resident = resident_blocks(work, device);
  result.resident_blocks = resident;
  if (resident == 0) {
    result.us = std::numeric_limits<double>::infinity();
    result.limiter = Limiter::kLatency;
    return result;
  }
  const double blocks = static_cast<double>(std::max<int64_t>(1, work.blocks));
  const double share = ceil_div(blocks, device.sms) / blocks;  // of the SM that gets the most blocks
  const double waves = ceil_div(blocks, static_cast<double>(device.sms) * resident);
  result.waves = waves;
  const double clocks_per_us = device.clock_ghz * 1e3;
  const double sm_tera = 1e6 / device.sms;  // TFLOP/s of the device -> FLOP/us of an SM
  const auto set = [&](Limiter limiter, double us) { result.ceilings_us[static_cast<int>(limiter)] = us; };
  set(Limiter::kDram, work.dram_bytes / (device.dram_gb_per_s * 1e3));
  set(Limiter::kL2,
      std::max(work.l2_bytes / (device.l2_gb_per_s * 1e3), work.l2_bytes * share / (kL2PortBytes * clocks_per_us)));
  set(Limiter::kL1, work.l1_bytes * share / (kL1Bytes * clocks_per_us));
  set(Limiter::kIssue, work.instructions * share / (kIssueLanes * clocks_per_us));
  set(Limiter::kFma, 2 * work.ffma * share / (device.fp32_tflops * sm_tera));
  set(Limiter::kTensor, work.mma_flops * share / (device.tensor_tflops * sm_tera));
  set(Limiter::kLatency, waves * work.round_trips * kMemoryClocks / clocks_per_us);
  const auto highest = std::max_element(result.ceilings_us.begin(), result.ceilings_us.end());
  result.us = kLaunchUs + *highest;
  set(Limiter::kLaunch, kLaunchUs);
  result.limiter = static_cast<Limiter>(std::max_element(result.ceilings_us.begin(), result.ceilings_us.end()) -
                                        result.ceilings_us.begin());
  return result;
}

Prediction predict(const std::vector<Work>& works, const Device& device) {
  Prediction total{};
  double longest = -1;
  for (const Work& work : works) {
    const Prediction one = predict(work, device);
    if (longest < 0) total.resident_blocks = one.resident_blocks, total.waves = one.waves;
    total.us += one.us;
    for (int i = 0; i < kLimiters; ++i) total.ceilings_us[i] += one.ceilings_us[i];
    if (one.us > longest) longest = one.us, total.limiter = one.limiter;
  }
  return total;
}

const std::vector<Device>& known_devices() {
  static const std::vector<Device> devices(std::begin(kDevices), std::end(kDevices));
  return devices;
}

}  // namespace mbv1::cuda
