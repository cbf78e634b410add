#include "pwconv2d.cuh"

namespace mbv1::cuda {

MBV1_PWCONV2D_VARIANTS(MBV1_PWCONV2D_INSTANTIATE, __nv_bfloat16, false)

}  // namespace mbv1::cuda
