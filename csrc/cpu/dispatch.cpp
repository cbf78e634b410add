// Choice of the instruction set.
#include <cstdlib>
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

const Isa& chosen() {
  static const Isa& isa = choose();
  return isa;
}

}  // namespace

const Kernels& kernels() { return chosen().kernels(); }
const char* isa_name() { return chosen().name; }
bool has_bf16_products() { return chosen().bf16_products; }

}  // namespace mbv1::cpu
