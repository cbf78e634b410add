// The kernels of pool_linear that are two launches, in pool_linear_unfused.cu: means to the workspace, then the
// linear layer.
#pragma once

#include "kernels.h"

namespace mbv1::cuda {

template <bool kChannelsLast>
bool matches_means(const PoolLinearParams& p);
template <bool kChannelsLast>
Work work_means(const PoolLinearParams& p);
template <bool kChannelsLast>
cudaError_t launch_means(const PoolLinearParams& p, cudaStream_t stream);
int64_t workspace_means(const PoolLinearParams& p);
std::vector<Work> further_means(const PoolLinearParams& p);

}  // namespace mbv1::cuda
