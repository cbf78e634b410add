#include "dwconv2d_nhwc.cuh"

namespace mbv1::cuda {

template bool matches_nhwc_strips<3, 1>(const DwConv2dParams&);
template bool matches_nhwc_strips<3, 2>(const DwConv2dParams&);
template Work work_nhwc_strips<3, 1>(const DwConv2dParams&);
template Work work_nhwc_strips<3, 2>(const DwConv2dParams&);
template cudaError_t launch_nhwc_strips<3, 1>(const DwConv2dParams&, cudaStream_t);
template cudaError_t launch_nhwc_strips<3, 2>(const DwConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
