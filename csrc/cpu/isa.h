// One instruction set's kernels and tables. Included once by each isa_*.cpp, which sets MBV1_ISA, the size of its
// vectors and the compiler's target.
#include "chain.h"
#include "dwconv2d.h"
#include "pool_linear.h"
#include "pwconv2d.h"
#include "separable_conv2d.h"
#include "stem_conv2d.h"

#define MBV1_CONCAT_(a, b) a##b
#define MBV1_CONCAT(a, b) MBV1_CONCAT_(a, b)

namespace mbv1::cpu {

const Kernels& MBV1_CONCAT(kernels_, MBV1_ISA)() {
  static const Kernels kernels = {kDwConv2d,   kPwConv2d, kSeparableConv2d, kStemConv2d,
                                  kPoolLinear, run_chain, packed_bytes,     pack};
  return kernels;
}

}  // namespace mbv1::cpu
