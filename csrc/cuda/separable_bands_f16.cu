#include "separable_bands.cuh"

namespace mbv1::cuda {

MBV1_SEPARABLE_BANDS_VARIANTS(MBV1_SEPARABLE_BANDS_INSTANTIATE, __half, false)

}  // namespace mbv1::cuda
