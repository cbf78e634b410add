// dwconv2d_nchw_k*: rows of neighbouring pixels, any stride and dilation. A block stages the input tile of one or
// several planes in shared memory, which reads each input about once whatever the stride; a thread makes kColumn
// neighbours along H with the plane's weights in registers.

#include <algorithm>
#include <cmath>

#include "dwconv2d.h"
#include "numeric.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kThreads = 128;

constexpr int kColumn = 8;
constexpr int kTileOutputs = kThreads * kColumn;
constexpr int kMaxTileWidth = 32;   // a warp's loads and stores are contiguous along W
constexpr int kMaxTileHeight = 32;  // the halo of a 3x3 window adds 13% to a tile of 32x32
constexpr int kMaxPlanes = kTileOutputs / kColumn;
constexpr int kMaxTileBytes = 46 * 1024;
static_assert(kMaxTileBytes + kMaxPlanes * sizeof(int64_t) <= 48 * 1024);

// A block makes planes * height * width = kTileOutputs outputs, each factor a power of two.
struct NchwGrid {
  int log2_width, log2_height, log2_planes;
  int in_height, in_width;  // of a plane's input tile
  int log2_loaders;         // threads that load one input row
  bool vectors;             // which they read 16 bytes at a time
  int64_t tiles_w, tiles_h, planes;

  bool fits(int64_t most) const { return in_height <= most && in_width <= most && tile_elements() <= most; }
  int64_t tile_elements() const { return (int64_t{1} << log2_planes) * in_height * in_width; }
};

int log2_covering(int64_t size, int most) {
  int log2 = 0;
  while ((1 << log2) < size && (1 << log2) < most) ++log2;
  return log2;
}

NchwGrid nchw_grid(const DwConv2dParams& p) {
  NchwGrid grid{};
  grid.log2_width = log2_covering(p.out_w, kMaxTileWidth);
  grid.log2_height = log2_covering(p.out_h, kMaxTileHeight);
  const int log2_column = log2_covering(kColumn, kColumn), log2_outputs = log2_covering(kTileOutputs, kTileOutputs);
  if (grid.log2_height < log2_column) grid.log2_height = log2_column;
  grid.log2_planes = log2_outputs - grid.log2_width - grid.log2_height;
  const Window& w = p.window;
  const int height = static_cast<int>(std::min<int64_t>(p.out_h, 1 << grid.log2_height));
  const int width = static_cast<int>(std::min<int64_t>(p.out_w, 1 << grid.log2_width));
  grid.in_height = (height - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1;
  grid.in_width = (width - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1;
  const int size = vector_size(p.dtype);
  grid.vectors = is_aligned(p.x) && p.x_stride.n % size == 0 && p.x_stride.c % size == 0 && p.x_stride.h % size == 0;
  // A row of the tile may begin and end inside a vector.
  grid.log2_loaders = log2_covering(grid.vectors ? ceil_div(grid.in_width, size) + 1 : grid.in_width, 32);
  grid.tiles_w = ceil_div(p.out_w, 1 << grid.log2_width);
  grid.tiles_h = ceil_div(p.out_h, 1 << grid.log2_height);
  grid.planes = p.batch * p.channels;
  return grid;
}

// Loads kVec elements of x at a time: 1, or a vector, where rows start at whole vectors of memory.
template <int kVec, class T>
__device__ void load_plane_tile(const DwConv2dParams& p, const NchwGrid& grid, int top, int left,
                                const int64_t* plane_offset, T* tile) {
  const int in_h = static_cast<int>(p.in_h), in_w = static_cast<int>(p.in_w);
  const int loaders = 1 << grid.log2_loaders;
  const int rows = grid.in_height << grid.log2_planes;
  const int first = left & ~(kVec - 1);  // the vector that holds the tile's first column, also for a negative one
  for (int row = threadIdx.x >> grid.log2_loaders; row < rows; row += kThreads >> grid.log2_loaders) {
    const int plane = row / grid.in_height;
    const int ih = top + row - plane * grid.in_height;
    const int64_t offset = plane_offset[plane];
    const bool row_inside = offset >= 0 && inside(ih, in_h);
    const T* x_row = static_cast<const T*>(p.x) + offset + ih * p.x_stride.h;
    T* tile_row = tile + row * grid.in_width - left;
    for (int iw = first + (threadIdx.x & (loaders - 1)) * kVec; iw < left + grid.in_width; iw += loaders * kVec) {
      Pack<T, kVec> pack;
      if (row_inside && iw >= 0 && iw + kVec <= in_w) {
        pack = load_pack<kVec>(x_row + iw);
      } else {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          pack[v] = row_inside && inside(iw + v, in_w) ? x_row[iw + v] : from_float<T>(0.f);
        }
      }
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        if (inside(iw + v - left, grid.in_width)) tile_row[iw + v] = pack[v];
      }
    }
  }
}

template <class T, int kKernel>
__global__ void __launch_bounds__(kThreads) dwconv2d_nchw_kernel(DwConv2dParams p, NchwGrid grid) {
  constexpr int kTaps = kKernel * kKernel;
  __shared__ int64_t plane_offset[kMaxPlanes];
  extern __shared__ __align__(kVectorBytes) unsigned char tile_bytes[];
  T* tile = reinterpret_cast<T*>(tile_bytes);  // [plane][in_height][in_width]

  const DivMod block_w = divmod(blockIdx.x, grid.tiles_w);
  const DivMod block_h = divmod(block_w.quotient, grid.tiles_h);
  const int64_t first_plane = block_h.quotient << grid.log2_planes;
  const int first_oh = static_cast<int>(block_h.remainder) << grid.log2_height;
  const int first_ow = static_cast<int>(block_w.remainder) << grid.log2_width;
  if (threadIdx.x < 1 << grid.log2_planes) {
    const int64_t plane = first_plane + threadIdx.x;
    const DivMod image = divmod(plane, p.channels);
    plane_offset[threadIdx.x] =
        plane < grid.planes ? image.quotient * p.x_stride.n + image.remainder * p.x_stride.c : -1;
  }
  __syncthreads();
  const int top = first_oh * p.window.stride_h - p.window.pad_top;
  const int left = first_ow * p.window.stride_w - p.window.pad_left;
  if (grid.vectors) {
    load_plane_tile<kVectorSize<T>>(p, grid, top, left, plane_offset, tile);
  } else {
    load_plane_tile<1>(p, grid, top, left, plane_offset, tile);
  }
  __syncthreads();

  const int column = threadIdx.x & ((1 << grid.log2_width) - 1);
  const int stacked_row = (threadIdx.x >> grid.log2_width) * kColumn;  // over the planes of the block
  const int plane_in_tile = stacked_row >> grid.log2_height;
  const int row = stacked_row & ((1 << grid.log2_height) - 1);
  const int64_t plane = first_plane + plane_in_tile;
  const int ow = first_ow + column;
  if (plane >= grid.planes || ow >= p.out_w) return;
  const DivMod image = divmod(plane, p.channels);
  const int64_t channel = image.remainder;

  float weights[kTaps];
  const T* weight = static_cast<const T*>(p.weight) + channel * p.weight_stride_c;
#pragma unroll
  for (int i = 0; i < kTaps; ++i) {
    weights[i] = to_float(weight[i / kKernel * p.weight_stride_h + i % kKernel * p.weight_stride_w]);
  }
  const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[channel * p.bias_stride]) : 0.f;

  const T* corner =
      tile + (plane_in_tile * grid.in_height + row * p.window.stride_h) * grid.in_width + column * p.window.stride_w;
  T* y = static_cast<T*>(p.y) + image.quotient * p.y_stride.n + channel * p.y_stride.c + ow * p.y_stride.w;
  const int rows = min(kColumn, static_cast<int>(p.out_h) - (first_oh + row));
  for (int r = 0; r < rows; ++r) {
    float sum = bias;
#pragma unroll
    for (int i = 0; i < kKernel; ++i) {
      const T* x_row = corner + (r * p.window.stride_h + i * p.window.dilation_h) * grid.in_width;
#pragma unroll
      for (int j = 0; j < kKernel; ++j) {
        sum = fmaf(weights[i * kKernel + j], to_float(x_row[j * p.window.dilation_w]), sum);
      }
    }
    y[(first_oh + row + r) * p.y_stride.h] = from_float<T>(activate(sum, p.activation));
  }
}

int64_t nchw_blocks(const NchwGrid& grid) {
  return grid.tiles_w * grid.tiles_h * ceil_div(grid.planes, 1 << grid.log2_planes);
}

}  // namespace

template <int kKernel>
bool matches_nchw(const DwConv2dParams& p) {
  if (!is_square(p, kKernel) || p.x_stride.w != 1 || p.y_stride.w != 1) return false;
  const int64_t element_bytes = kVectorBytes / vector_size(p.dtype);
  return nchw_grid(p).fits(kMaxTileBytes / element_bytes);
}

template <int kKernel>
Work work_nchw(const DwConv2dParams& p) {
  const NchwGrid grid = nchw_grid(p);
  const double bytes = element_bytes(p.dtype), macs = outputs(p) * taps(p.window);
  Work work{};
  work.blocks = nchw_blocks(grid);
  const double staged = 1.0 * work.blocks * grid.tile_elements();
  work.threads = kThreads, work.registers = 96, work.shared_bytes = grid.tile_elements() * bytes + 1024;
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = (staged + outputs(p)) * bytes;
  // A lane's access to shared memory takes a bank of 4 bytes, whatever the dtype: elements of vectors are stored 16
  // bytes apart. A warp reads where its columns start.
  const double columns = 1.0 * p.batch * p.channels * p.out_h * grid.tiles_w * (1 << grid.log2_width);
  const double conflict = std::max(1., p.window.stride_w * bytes / 4);
  work.l1_bytes = (staged + outputs(p)) * bytes + staged * (grid.vectors ? kVectorBytes : 4) +
                  columns * taps(p.window) * 4 * conflict;
  work.ffma = macs;
  // An FMA has its share of a load and of conversions; an element of the tile its bounds, alone or in a vector; a
  // thread its place and its plane's weights.
  work.instructions = macs * (2.65 + 0.85 * conversions(p.dtype)) + staged * (grid.vectors ? 16 : 40) +
                      outputs(p) * 25 + work.blocks * kThreads * 150.;
  work.round_trips = 2;  // the tile, then the weights
  return work;
}

template <int kKernel>
cudaError_t launch_nchw(const DwConv2dParams& p, cudaStream_t stream) {
  const NchwGrid grid = nchw_grid(p);
  const int64_t blocks = nchw_blocks(grid);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const size_t bytes = grid.tile_elements() * sizeof(T);
    dwconv2d_nchw_kernel<T, kKernel><<<static_cast<unsigned>(blocks), kThreads, bytes, stream>>>(p, grid);
    return cudaGetLastError();
  });
}

template bool matches_nchw<3>(const DwConv2dParams&);
template Work work_nchw<3>(const DwConv2dParams&);
template cudaError_t launch_nchw<3>(const DwConv2dParams&, cudaStream_t);
template bool matches_nchw<5>(const DwConv2dParams&);
template Work work_nchw<5>(const DwConv2dParams&);
template cudaError_t launch_nchw<5>(const DwConv2dParams&, cudaStream_t);
template bool matches_nchw<7>(const DwConv2dParams&);
template Work work_nchw<7>(const DwConv2dParams&);
template cudaError_t launch_nchw<7>(const DwConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
