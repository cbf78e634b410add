// Choice of the instruction set.
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "kernels.h"

namespace mbv1::cpu {
namespace {

struct Isa {
  const char* name;
  bool available;
  const Kernels& (*kernels)();
  bool bf16_products, amx;
  bool slow = false;  // runs only if it is forced
};

#if defined(__x86_64__)
// Whether the processor has AMX for BFloat16 and the system lets this process use it, which it has to be asked for.
bool amx_permitted() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM (Linux 5.16)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

const Isa& choose() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  // Intel's processors with AVX512-BF16 multiply as many pairs in two cycles as floats in one: widening is faster.
  const bool slow_pairs = __builtin_cpu_is("intel");
  const bool amx = avx512bf16 && __builtin_cpu_supports("avx512vbmi2") && amx_permitted();
  static const Isa isas[] = {{"amx", amx, kernels_avx512, true, true},
                             {"avx512bf16", avx512bf16, kernels_avx512, true, false, slow_pairs},
                             {"avx512", avx512, kernels_avx512, false, false},
                             {"avx2", avx2, kernels_avx2, false, false},
                             {"portable", true, kernels_portable, false, false}};
#else
  static const Isa isas[] = {{"portable", true, kernels_portable, false, false}};
#endif
  const char* forced = std::getenv("MBV1_CPU_ISA");
  for (const Isa& isa : isas) {
    if (isa.available && (forced == nullptr ? !isa.slow : std::string(forced) == isa.name)) return isa;
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
bool has_amx() { return chosen().amx; }

}  // namespace mbv1::cpu
