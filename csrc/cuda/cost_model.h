// The model that picks kernels: what a launch does (Work), what a device can do (Device), and the lower bound on
// the time that follows (Prediction). It knows neither torch nor CUDA.
//
// A launch takes at least as long as each of its ceilings: bytes from DRAM, from L2 and through L1, instructions,
// FMAs and tensor-core FLOPs, each over the rate of the part that does them, and the round trips to memory of its
// waves of blocks. What happens inside an SM is bound by the SM that gets the most blocks.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace mbv1::cuda {

// Totals of one launch. Instructions are those of PTX, moves left out, as tools/cudacpu counts them for every lane
// that reaches them. Machine code has about as many: ptxas folds the addresses of copies and fragments (SASS / PTX is
// 0.9 in the inner loop of pwconv2d in float16), and packs and selects what PTX moves (up to 1.2, depthwise in
// float16).
struct Work {
  int64_t blocks;
  int threads, registers, shared_bytes;  // of a block; of a thread, as compiled or an upper bound; of a block
  double dram_bytes;                     // each distinct byte read or written once
  double l2_bytes;                       // requested from L2: all that misses L1 and shared memory, in sectors
  double l1_bytes;                       // through L1 and shared memory, loads and stores
  double ffma;                           // lane FMAs on the FMA pipe; a packed HFMA2 counts as one
  double mma_flops;                      // on tensor cores; a FLOP of TF32 counts as two, which is its cost
  double instructions;                   // lane instructions of all kinds, for the issue slots
  double round_trips = 1;                // to memory, that a block makes one after another
};

// Figures of a device: devices.h has those of data sheets, device.cpp those of the device at hand.
struct Device {
  const char* name;
  int capability;  // 10 * major + minor
  int sms;
  double clock_ghz;
  double dram_gb_per_s;
  double l2_gb_per_s;
  double fp32_tflops;    // FMA pipe
  double tensor_tflops;  // 16-bit factors, float32 sums, dense, as mma.sync reaches
  // Of an SM:
  int threads, blocks, registers, shared_bytes;
};

enum class Limiter { kDram, kL2, kL1, kIssue, kFma, kTensor, kLatency, kLaunch };
constexpr int kLimiters = 8;
const char* limiter_name(Limiter limiter);

struct Prediction {
  double us;  // a lower bound: the launch and the highest of the other ceilings
  Limiter limiter;
  std::array<double, kLimiters> ceilings_us;
  int resident_blocks;  // on an SM at once; 0: a block does not fit
  double waves;         // of blocks, of the first launch
};

// Infinite where a block does not fit an SM.
Prediction predict(const Work& work, const Device& device);

// Of launches one after another; the limiter is that of the longest, the ceilings are sums.
Prediction predict(const std::vector<Work>& works, const Device& device);

// Blocks that an SM holds at once; 0 where one does not fit.
int resident_blocks(const Work& work, const Device& device);

// The devices of devices.h.
const std::vector<Device>& known_devices();

}  // namespace mbv1::cuda
