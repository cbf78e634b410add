// Depthwise convolution.
//
// dwconv2d_nhwc_k*  A thread makes kStrip neighbours along W of one vector of channels, so that each weight vector
//                   read from shared memory serves kStrip outputs. 3x3 does 9 FMA an element of 2 or 4 bytes: it is
//                   bound by memory, and the 9 reads of an input meet in L1.
// dwconv2d_nchw_k*  A block stages the input tile of one or several planes in shared memory, which reads each input
//                   about once whatever the stride; a thread makes kColumn neighbours along H with the plane's
//                   weights in registers.
// dwconv2d_any      Any strides and window, one thread an output.

#include <algorithm>
#include <cmath>

#include "dwconv2d.h"
#include "numeric.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

constexpr int kThreads = 128;

// ---- NHWC ----

constexpr int kStrip = 4;

template <class T, int kKernel, int kVec>
struct NhwcTraits {
  // 8 vectors of 16 bytes, or 32 scalars: what a warp reads of a pixel is two to four full 32-byte sectors.
  static constexpr int kMaxLanes = kVec == 1 ? 32 : 8;
  static constexpr int kMaxChannels = kMaxLanes * kVec;
  static constexpr int kTaps = kKernel * kKernel;
  static_assert(kThreads % kMaxLanes == 0);
  static_assert(kTaps * kMaxChannels * sizeof(T) <= 48 * 1024);
};

struct NhwcGrid {
  int log2_lanes;
  int64_t channel_groups, strips_per_row, strips;
};

template <class T, int kKernel, int kVec>
__global__ void __launch_bounds__(kThreads) dwconv2d_nhwc_kernel(DwConv2dParams p, NhwcGrid grid) {
  using Traits = NhwcTraits<T, kKernel, kVec>;
  constexpr int kTaps = Traits::kTaps;
  __shared__ __align__(kVectorBytes) T weights[kTaps * Traits::kMaxChannels];  // [tap][channel]

  const DivMod block = divmod(blockIdx.x, grid.channel_groups);
  const int channels = kVec << grid.log2_lanes;
  const int64_t first_channel = block.remainder * channels;
  // Neighbouring threads follow the taps of a channel, which is how (C, 1, KH, KW) lies in memory.
  for (int e = threadIdx.x; e < channels * kTaps; e += kThreads) {
    const int channel = e / kTaps, tap = e % kTaps;
    if (first_channel + channel < p.channels) {
      weights[tap * channels + channel] =
          static_cast<const T*>(p.weight)[(first_channel + channel) * p.weight_stride_c +
                                          tap / kKernel * p.weight_stride_h + tap % kKernel * p.weight_stride_w];
    }
  }
  __syncthreads();

  const int lane = threadIdx.x & ((1 << grid.log2_lanes) - 1);
  const int64_t channel = first_channel + lane * kVec;
  const int64_t strip = block.quotient * (kThreads >> grid.log2_lanes) + (threadIdx.x >> grid.log2_lanes);
  if (channel >= p.channels || strip >= grid.strips) return;
  const DivMod row = divmod(strip, grid.strips_per_row);
  const DivMod image = divmod(row.quotient, p.out_h);
  const int ow = static_cast<int>(row.remainder) * kStrip;
  const int oh = static_cast<int>(image.remainder);

  float sums[kStrip][kVec];
#pragma unroll
  for (int v = 0; v < kVec; ++v) {
    const float bias = p.bias ? to_float(static_cast<const T*>(p.bias)[(channel + v) * p.bias_stride]) : 0.f;
#pragma unroll
    for (int s = 0; s < kStrip; ++s) sums[s][v] = bias;
  }

  const T* x = static_cast<const T*>(p.x) + image.quotient * p.x_stride.n + channel;
  const int in_h = static_cast<int>(p.in_h), in_w = static_cast<int>(p.in_w);
  const int top = oh * p.window.stride_h - p.window.pad_top;
  const int left = ow * p.window.stride_w - p.window.pad_left;
  // The rows of the larger windows stay a loop: unrolled, 7x7 is 1568 FMA and no longer fits the instruction cache.
#pragma unroll(kKernel <= 3 ? kKernel : 1)
  for (int i = 0; i < kKernel; ++i) {
    const int ih = top + i * p.window.dilation_h;
    if (!inside(ih, in_h)) continue;
    const T* x_row = x + ih * p.x_stride.h;
#pragma unroll
    for (int j = 0; j < kKernel; ++j) {
      const auto weight = load_pack<kVec>(weights + (i * kKernel + j) * channels + lane * kVec);
#pragma unroll
      for (int s = 0; s < kStrip; ++s) {
        const int iw = left + s * p.window.stride_w + j * p.window.dilation_w;
        if (!inside(iw, in_w)) continue;
        const auto pixel = load_pack<kVec>(x_row + iw * p.x_stride.w);
#pragma unroll
        for (int v = 0; v < kVec; ++v) sums[s][v] = fmaf(to_float(weight[v]), to_float(pixel[v]), sums[s][v]);
      }
    }
  }

  T* y = static_cast<T*>(p.y) + image.quotient * p.y_stride.n + oh * p.y_stride.h + channel;
#pragma unroll
  for (int s = 0; s < kStrip; ++s) {
    if (ow + s >= p.out_w) break;
    Pack<T, kVec> pack;
#pragma unroll
    for (int v = 0; v < kVec; ++v) pack[v] = from_float<T>(activate(sums[s][v], p.activation));
    store_pack(y + (ow + s) * p.y_stride.w, pack);
  }
}

NhwcGrid nhwc_grid(const DwConv2dParams& p, int vec) {
  const int most_lanes = vec == 1 ? 32 : 8;
  NhwcGrid grid{};
  while ((1 << grid.log2_lanes) < most_lanes && (vec << grid.log2_lanes) < p.channels) ++grid.log2_lanes;
  grid.channel_groups = ceil_div(p.channels, vec << grid.log2_lanes);
  grid.strips_per_row = ceil_div(p.out_w, kStrip);
  grid.strips = p.batch * p.out_h * grid.strips_per_row;
  return grid;
}

int64_t nhwc_blocks(const NhwcGrid& grid) {
  return grid.channel_groups * ceil_div(grid.strips, kThreads >> grid.log2_lanes);
}

template <class T, int kKernel, int kVec>
cudaError_t launch_nhwc_as(const DwConv2dParams& p, cudaStream_t stream) {
  const NhwcGrid grid = nhwc_grid(p, kVec);
  const int64_t blocks = nhwc_blocks(grid);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  dwconv2d_nhwc_kernel<T, kKernel, kVec><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, grid);
  return cudaGetLastError();
}

bool is_square(const DwConv2dParams& p, int kernel) {
  return has_cuda_kernels(p.dtype) && p.window.kernel_h == kernel && p.window.kernel_w == kernel &&
         coordinates_fit_int32(p);
}

template <int kKernel>
bool matches_nhwc(const DwConv2dParams& p) {
  return is_square(p, kKernel) && p.x_stride.c == 1 && p.y_stride.c == 1;
}

bool nhwc_vectors(const DwConv2dParams& p) {
  return p.channels % vector_size(p.dtype) == 0 && channels_are_vectors(p.x, p.x_stride, p.dtype) &&
         channels_are_vectors(p.y, p.y_stride, p.dtype);
}

template <int kKernel>
Work work_nhwc(const DwConv2dParams& p) {
  const int vec = nhwc_vectors(p) ? vector_size(p.dtype) : 1;
  const NhwcGrid grid = nhwc_grid(p, vec);
  const double bytes = element_bytes(p.dtype), macs = outputs(p) * taps(p.window);
  const int channels = vec << grid.log2_lanes;
  // A block makes strips that follow each other along W; its rows of x meet in L1.
  const double pixels = (kThreads >> grid.log2_lanes) * kStrip, rows = std::ceil(pixels / p.out_w);
  const double in_rows = (rows - 1) * p.window.stride_h + kKernel;
  const double in_columns = std::min<double>(p.in_w, pixels * p.window.stride_w + kKernel - 1);
  Work work{};
  work.blocks = nhwc_blocks(grid);
  work.threads = kThreads, work.registers = 80, work.shared_bytes = kKernel * kKernel * channels * bytes;
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = (work.blocks * in_rows * in_columns * channels + outputs(p)) * bytes;
  work.l1_bytes = (macs + macs / kStrip + outputs(p)) * bytes;
  work.ffma = macs;
  // Fitted to what tools/cudacpu counts for 3x3 to 7x7: an FMA has its share of a load, bounds and conversions.
  work.instructions = bytes == 2 ? macs * 3.4 + outputs(p) * 15 : macs * 2.3 + outputs(p) * 22;
  work.round_trips = 1 + kKernel;  // the weights, then row by row
  return work;
}

template <int kKernel>
cudaError_t launch_nhwc(const DwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return nhwc_vectors(p) ? launch_nhwc_as<T, kKernel, kVectorSize<T>>(p, stream)
                           : launch_nhwc_as<T, kKernel, 1>(p, stream);
  });
}

// ---- NCHW ----

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

template <int kKernel>
bool matches_nchw(const DwConv2dParams& p) {
  if (!is_square(p, kKernel) || p.x_stride.w != 1 || p.y_stride.w != 1) return false;
  const int64_t element_bytes = kVectorBytes / vector_size(p.dtype);
  return nchw_grid(p).fits(kMaxTileBytes / element_bytes);
}

int64_t nchw_blocks(const NchwGrid& grid) {
  return grid.tiles_w * grid.tiles_h * ceil_div(grid.planes, 1 << grid.log2_planes);
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
  // A lane's access to shared memory takes a bank of 4 bytes, whatever the dtype.
  work.l1_bytes = (staged + outputs(p)) * bytes + (staged + macs) * 4;
  work.ffma = macs;
  // Fitted to what tools/cudacpu counts for 3x3 to 7x7 at stride 1 and 2.
  work.instructions = macs * (bytes == 2 ? 3.5 : 2.65) + staged * 20 + outputs(p) * 25;
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

// ---- any ----

template <class T>
__global__ void __launch_bounds__(kThreads) dwconv2d_any_kernel(DwConv2dParams p, int64_t outputs) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= outputs) return;
  // Neighbouring threads follow the output's memory: channels of NHWC, pixels of NCHW.
  int64_t n, c, oh, ow;
  if (p.y_stride.c == 1) {
    const DivMod pixel = divmod(index, p.channels), row = divmod(pixel.quotient, p.out_w);
    const DivMod image = divmod(row.quotient, p.out_h);
    c = pixel.remainder, ow = row.remainder, oh = image.remainder, n = image.quotient;
  } else {
    const DivMod row = divmod(index, p.out_w), plane = divmod(row.quotient, p.out_h);
    const DivMod image = divmod(plane.quotient, p.channels);
    ow = row.remainder, oh = plane.remainder, c = image.remainder, n = image.quotient;
  }
  const T* x = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  const T* weight = static_cast<const T*>(p.weight) + c * p.weight_stride_c;
  const int64_t top = oh * p.window.stride_h - p.window.pad_top;
  const int64_t left = ow * p.window.stride_w - p.window.pad_left;
  float sum = p.bias ? to_float(static_cast<const T*>(p.bias)[c * p.bias_stride]) : 0.f;
  for (int i = 0; i < p.window.kernel_h; ++i) {
    const int64_t ih = top + static_cast<int64_t>(i) * p.window.dilation_h;
    if (!inside(ih, p.in_h)) continue;
    for (int j = 0; j < p.window.kernel_w; ++j) {
      const int64_t iw = left + static_cast<int64_t>(j) * p.window.dilation_w;
      if (!inside(iw, p.in_w)) continue;
      sum = fmaf(to_float(weight[i * p.weight_stride_h + j * p.weight_stride_w]),
                 to_float(x[ih * p.x_stride.h + iw * p.x_stride.w]), sum);
    }
  }
  static_cast<T*>(p.y)[n * p.y_stride.n + c * p.y_stride.c + oh * p.y_stride.h + ow * p.y_stride.w] =
      from_float<T>(activate(sum, p.activation));
}

bool matches_any(const DwConv2dParams& p) { return has_cuda_kernels(p.dtype); }

Work work_any(const DwConv2dParams& p) {
  const double bytes = element_bytes(p.dtype), macs = outputs(p) * taps(p.window);
  // Sectors of 32 bytes, which neighbouring threads share where their elements are neighbours.
  const double sector = (p.y_stride.c == 1 ? p.x_stride.c : p.x_stride.w) == 1 ? bytes : 32;
  Work work{};
  work.blocks = ceil_div(p.batch * p.channels * p.out_h * p.out_w, kThreads);
  work.threads = kThreads, work.registers = 64, work.shared_bytes = 0;
  work.dram_bytes = tensor_bytes(p);
  work.l2_bytes = covered(p, p.channels) * sector * std::max(1.0, taps(p.window) / 3) + outputs(p) * bytes;
  work.l1_bytes = macs * (sector + bytes) + outputs(p) * bytes;
  work.ffma = macs;
  work.instructions = macs * 20 + outputs(p) * 150;  // 64-bit offsets a tap; divisions an output
  work.round_trips = std::max(1.0, taps(p.window) / 4);
  return work;
}

cudaError_t launch_any(const DwConv2dParams& p, cudaStream_t stream) {
  const int64_t outputs = p.batch * p.channels * p.out_h * p.out_w;
  const int64_t blocks = ceil_div(outputs, kThreads);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  return dispatch_dtype(p.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dwconv2d_any_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, outputs);
    return cudaGetLastError();
  });
}

}  // namespace

KernelTable<Kernel<DwConv2dParams>> dwconv2d_kernels() {
  static constexpr Kernel<DwConv2dParams> kKernels[] = {
      {"dwconv2d_nhwc_k3s1", matches_nhwc_strips<3, 1>, work_nhwc_strips<3, 1>, launch_nhwc_strips<3, 1>},
      {"dwconv2d_nhwc_k3s2", matches_nhwc_strips<3, 2>, work_nhwc_strips<3, 2>, launch_nhwc_strips<3, 2>},
      {"dwconv2d_nhwc_k5s1", matches_nhwc_strips<5, 1>, work_nhwc_strips<5, 1>, launch_nhwc_strips<5, 1>},
      {"dwconv2d_nhwc_k5s2", matches_nhwc_strips<5, 2>, work_nhwc_strips<5, 2>, launch_nhwc_strips<5, 2>},
      {"dwconv2d_nhwc_k7s1", matches_nhwc_strips<7, 1>, work_nhwc_strips<7, 1>, launch_nhwc_strips<7, 1>},
      {"dwconv2d_nhwc_k7s2", matches_nhwc_strips<7, 2>, work_nhwc_strips<7, 2>, launch_nhwc_strips<7, 2>},
      {"dwconv2d_nchw_k3s1", matches_nchw_planes<3, 1>, work_nchw_planes<3, 1>, launch_nchw_planes<3, 1>},
      {"dwconv2d_nchw_k3s2", matches_nchw_planes<3, 2>, work_nchw_planes<3, 2>, launch_nchw_planes<3, 2>},
      {"dwconv2d_nchw_k5s1", matches_nchw_planes<5, 1>, work_nchw_planes<5, 1>, launch_nchw_planes<5, 1>},
      {"dwconv2d_nchw_k5s2", matches_nchw_planes<5, 2>, work_nchw_planes<5, 2>, launch_nchw_planes<5, 2>},
      {"dwconv2d_nchw_k7s1", matches_nchw_planes<7, 1>, work_nchw_planes<7, 1>, launch_nchw_planes<7, 1>},
      {"dwconv2d_nchw_k7s2", matches_nchw_planes<7, 2>, work_nchw_planes<7, 2>, launch_nchw_planes<7, 2>},
      {"dwconv2d_nhwc_k3", matches_nhwc<3>, work_nhwc<3>, launch_nhwc<3>},
      {"dwconv2d_nhwc_k5", matches_nhwc<5>, work_nhwc<5>, launch_nhwc<5>},
      {"dwconv2d_nhwc_k7", matches_nhwc<7>, work_nhwc<7>, launch_nhwc<7>},
      {"dwconv2d_nchw_k3", matches_nchw<3>, work_nchw<3>, launch_nchw<3>},
      {"dwconv2d_nchw_k5", matches_nchw<5>, work_nchw<5>, launch_nchw<5>},
      {"dwconv2d_nchw_k7", matches_nchw<7>, work_nchw<7>, launch_nchw<7>},
      {"dwconv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
