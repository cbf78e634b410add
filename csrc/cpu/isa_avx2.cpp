// The kernels for x86-64 processors with AVX2, FMA and F16C. PREFETCHW (prfchw) does nothing on those that lack it.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,prfchw")
#define MBV1_ISA avx2
#define MBV1_VECTOR_BYTES 32
#include "isa.h"
#pragma GCC pop_options
#endif
