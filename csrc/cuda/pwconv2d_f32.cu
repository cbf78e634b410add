#include "pwconv2d.cuh"

namespace mbv1::cuda {

MBV1_PWCONV2D_VARIANTS(MBV1_PWCONV2D_INSTANTIATE, float, false)

}  // namespace mbv1::cuda
