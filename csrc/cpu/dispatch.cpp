// Choice of the instruction set, and the threads' scratch memory.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace mbv1::cpu {
namespace {

struct Isa {
  const char* name;
  bool available;
  const Kernels& (*kernels)();
  bool bf16_products;
};

const Isa& choose() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  static const Isa isas[] = {{"avx512bf16", avx512bf16, kernels_avx512, true},
                             {"avx512", avx512, kernels_avx512, false},
                             {"avx2", avx2, kernels_avx2, false},
                             {"portable", true, kernels_portable, false}};
#else
  static const Isa isas[] = {{"portable", true, kernels_portable, false}};
#endif
  const char* forced = std::getenv("MBV1_CPU_ISA");
  for (const Isa& isa : isas) {
    if (isa.available && (forced == nullptr || std::string(forced) == isa.name)) return isa;
  }
  std::string expected;
  for (const Isa& isa : isas) {
    if (isa.available) expected += std::string(expected.empty() ? "" : ", ") + isa.name;
  }
  throw std::runtime_error("mbv1: MBV1_CPU_ISA: expected one of " + expected + " on this processor, got '" + forced +
                           "'");
}

std::atomic<int64_t> scratch_total{0};

struct Buffer {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;

  ~Buffer() { scratch_total -= static_cast<int64_t>(bytes); }
};

thread_local Buffer buffers[static_cast<int>(Slot::kCount)];

const Isa& chosen() {
  static const Isa& isa = choose();
  return isa;
}

}  // namespace

const Kernels& kernels() { return chosen().kernels(); }
const char* isa_name() { return chosen().name; }
bool has_bf16_products() { return chosen().bf16_products; }

int64_t scratch_bytes() { return scratch_total; }

void* workspace_bytes(Slot slot, size_t bytes) {
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (buffer.bytes < bytes) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    buffer.memory.reset();
    scratch_total -= static_cast<int64_t>(buffer.bytes);
    buffer.bytes = 0;
    buffer.memory.reset(std::aligned_alloc(64, rounded));
    if (buffer.memory == nullptr) throw std::bad_alloc();
    buffer.bytes = rounded;
    scratch_total += static_cast<int64_t>(rounded);
  }
  return buffer.memory.get();
}

}  // namespace mbv1::cpu
