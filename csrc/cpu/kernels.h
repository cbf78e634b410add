// The CPU kernels as their binding sees them. They are compiled once per instruction set (isa_*.cpp) from the same
// source; the best set that the processor has is chosen once, at the first call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/kernel_table.h"
#include "../common/params.h"

namespace mbv1::cpu {

// The caller's threads: `parallel_for` calls body(context, begin, end) for disjoint ranges that cover [0, items),
// on up to `count` threads.
struct Threads {
  void (*parallel_for)(int64_t items, void (*body)(const void* context, int64_t begin, int64_t end),
                       const void* context);
  int64_t count;
};

template <class Params>
struct Kernel {
  const char* name;
  bool (*matches)(const Params&);
  // Never called for an empty output.
  void (*run)(const Params&, const Threads&);
};

struct Kernels {
  KernelTable<Kernel<DwConv2dParams>> dwconv2d;
  KernelTable<Kernel<PwConv2dParams>> pwconv2d;
  KernelTable<Kernel<SeparableConv2dParams>> separable_conv2d;
  KernelTable<Kernel<StemConv2dParams>> stem_conv2d;
  KernelTable<Kernel<PoolLinearParams>> pool_linear;

  // Never called for an empty output.
  void (*chain)(const ChainParams&, const Threads&);
  // The weights of a layer of a chain: their size with PackedHeader, and packing into stage.packed, behind it.
  int64_t (*packed_bytes)(const ChainStage& stage, DType dtype);
  void (*pack)(const ChainStage& stage, DType dtype, const SeparableConv2dParams& weights, const Threads&);
};

// What packed weights begin with: for whom they are.
struct PackedHeader {
  char magic[8];
  char isa[16];
  int64_t dtype, separable, strassen, in_channels, out_channels, kernel_h, kernel_w;
};

const Kernels& kernels_portable();
const Kernels& kernels_avx2();    // x86-64 only: AVX2, FMA, F16C
const Kernels& kernels_avx512();  // x86-64 only: AVX-512 F, BW, DQ, VL

// What this processor runs, or what MBV1_CPU_ISA (portable, avx2, avx512, avx512bf16, amx) forces. Throws
// std::runtime_error where the variable names a set that is unknown or that the processor lacks.
const Kernels& kernels();
const char* isa_name();

// Whether the avx512 kernels multiply BFloat16 by AVX512-BF16 instructions, and what AMX takes by its.
bool has_bf16_products();
bool has_amx();

// Scratch memory of the calling thread, 64-byte aligned, valid until the thread's next call with the same slot.
// It is kept and reused, so that a steady state allocates nothing. Throws std::bad_alloc.
enum class Slot {
  kWeights,
  kBias,
  kDwWeights,
  kDwBias,
  kInput,
  kTile,
  kOffsets,
  kTileOffsets,
  kPlan,
  kMaps,
  kShared,
  kCount
};
void* workspace_bytes(Slot slot, size_t bytes);

// Scratch memory of all threads.
int64_t scratch_bytes();

// Where the system has them, whole huge pages for whole huge pages of memory: at its first use, or, if it is in use
// already, at once (Linux 6.1). Otherwise ordinary pages do as well.
constexpr size_t kHugePage = size_t{1} << 21;
void ask_for_huge_pages(void* begin, size_t bytes);

}  // namespace mbv1::cpu
