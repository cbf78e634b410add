// The kernels for any processor: 128-bit vectors, which every x86-64 and aarch64 has.
#define MBV1_ISA portable
#define MBV1_VECTOR_BYTES 16
#include "isa.h"
