// The kernels of stem_conv2d that are compiled in a file of their own.
#pragma once

#include "kernels.h"

namespace mbv1::cuda {

// 3x3 at stride 2 from 3 channels, rows of x and vectors of y aligned: stem_conv2d_k3s2.cu.
template <bool kIsNhwc>
bool matches_stem_k3s2(const StemConv2dParams& p);
template <bool kIsNhwc>
Work work_stem_k3s2(const StemConv2dParams& p);
template <bool kIsNhwc>
cudaError_t launch_stem_k3s2(const StemConv2dParams& p, cudaStream_t stream);

}  // namespace mbv1::cuda
