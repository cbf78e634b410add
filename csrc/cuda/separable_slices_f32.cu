#include "separable_slices.cuh"

namespace mbv1::cuda {

MBV1_SEPARABLE_SLICES_VARIANTS(MBV1_SEPARABLE_SLICES_INSTANTIATE, float, false)

}  // namespace mbv1::cuda
