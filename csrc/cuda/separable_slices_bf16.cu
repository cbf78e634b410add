#include "separable_slices.cuh"

namespace mbv1::cuda {

MBV1_SEPARABLE_SLICES_VARIANTS(MBV1_SEPARABLE_SLICES_INSTANTIATE, __nv_bfloat16, false)

}  // namespace mbv1::cuda
