#include "separable_resident.cuh"

namespace mbv1::cuda {

MBV1_SEPARABLE_RESIDENT_VARIANTS(MBV1_SEPARABLE_RESIDENT_INSTANTIATE, __nv_bfloat16, false)

}  // namespace mbv1::cuda
