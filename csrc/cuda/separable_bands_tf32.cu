#include "separable_bands.cuh"

namespace mbv1::cuda {

template cudaError_t launch_separable_bands<float, true>(const SeparableConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
