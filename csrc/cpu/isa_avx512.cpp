// The kernels for x86-64 processors with AVX-512 F, BW, DQ and VL.
#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw,prefer-vector-width=512")
#define MBV1_ISA avx512
#define MBV1_VECTOR_BYTES 64
#include "isa.h"
#pragma GCC pop_options
#endif
