// Figures of devices. Units as in Device; the sources are named with the figures. The bandwidths of L2, but for
// A100's, and what mma.sync reaches are estimates, to be replaced by what is measured on such a device.
#pragma once

#include "cost_model.h"

namespace mbv1::cuda {

// What an SM of an architecture does each clock; from it follow the peaks of a device that kDevices lacks.
struct Architecture {
  int capability;
  int fp32_lanes;    // FMAs
  int tensor_flops;  // 16-bit factors, float32 sums, dense, as mma.sync reaches
  int l2_bytes;      // that L2 delivers, per SM
};

// CUDA C++ programming guide, "Arithmetic instructions" (FMA lanes); the white papers of Turing, A100, Ada, H100 and
// Blackwell (tensor FLOPs; GeForce chips do half of it with float32 sums). mma.sync reaches 63% of H100's 4096 FLOP
// (arXiv 2402.13499); on sm_100 the same share is assumed.
constexpr Architecture kArchitectures[] = {
    {75, 64, 1024, 32},  {80, 64, 2048, 47},   {86, 128, 1024, 32},  {87, 128, 1024, 32},  {89, 128, 1024, 16},
    {90, 128, 2580, 23}, {100, 128, 2580, 23}, {103, 128, 2580, 23}, {120, 128, 1024, 16},
};

constexpr Device kDevices[] = {
    // H100 SXM5: white paper (132 SMs, 66.9 and 989 TFLOP/s at 1.98 and 1.83 GHz, 3.35 TB/s). Tensor cores as
    // mma.sync reaches them: 63%.
    {"H100", 90, 132, 1.83, 3350, 5500, 66.9, 623, 2048, 32, 65536, 233472},
    // A100 SXM4 40 GB: white paper (108 SMs, 1.41 GHz, 19.5 and 312 TFLOP/s, 1555 GB/s, L2 5120 bytes a clock).
    {"A100", 80, 108, 1.41, 1555, 7219, 19.5, 312, 2048, 32, 65536, 167936},
    // L4: data sheet (30.3 and 121 TFLOP/s dense, 300 GB/s, 58 SMs at 2.04 GHz); L2 as for RTX 4090, by SMs and
    // clock.
    {"L4", 89, 58, 2.04, 300, 1900, 30.3, 121, 1536, 24, 65536, 102400},
    // RTX 4090: Ada white paper (128 SMs, 2.52 GHz, 82.6 and 165.2 TFLOP/s with float32 sums, 1008 GB/s).
    {"RTX 4090", 89, 128, 2.52, 1008, 5000, 82.6, 165.2, 1536, 24, 65536, 102400},
};

}  // namespace mbv1::cuda
