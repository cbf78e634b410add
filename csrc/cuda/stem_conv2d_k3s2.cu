// stem_conv2d_nhwc_k3s2, stem_conv2d_nchw_k3s2: the first layer of MobileNet and its kin.

#include <algorithm>
#include <cmath>

#include "device.h"
#include "dwconv2d.h"
#include "stem_conv2d.h"
#include "stem_conv2d_fma.cuh"
#include "stem_conv2d_mma.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

// Calls f with the Type of the Part that multiplies these params' tiles.
template <bool kIsNhwc, class F>
auto with_part(const StemConv2dParams& p, F f) {
  if constexpr (kIsNhwc) {
    if (p.dtype == DType::kFloat16) return f(Type<StemMmaNhwc<__half>>());
    if (p.dtype == DType::kBFloat16) return f(Type<StemMmaNhwc<__nv_bfloat16>>());
    return f(Type<StemFmaNhwc>());
  } else {
    if (p.dtype == DType::kFloat16) return f(Type<StemMmaNchw<__half>>());
    if (p.dtype == DType::kBFloat16) return f(Type<StemMmaNchw<__nv_bfloat16>>());
    return p.window.pad_left == 0 ? f(Type<StemFmaNchw<0>>()) : f(Type<StemFmaNchw<1>>());
  }
}

template <class Part>
constexpr int kSharedBytes =
    (2 * Part::Tile::kElements + Part::kWeightElements) * static_cast<int>(sizeof(typename Part::Tile::T));

// As many blocks as the device holds at once, or fewer with the same number of tiles each.
template <class Part>
StemGrid stem_grid(const StemConv2dParams& p) {
  using Tile = typename Part::Tile;
  Work block{};
  block.threads = Tile::kThreads, block.registers = Part::kRegisters, block.shared_bytes = kSharedBytes<Part>;
  StemGrid grid{};
  // An empty output has a grid, too: it is asked for what it would do.
  const auto parts = [](int64_t size, int64_t part) { return std::max<int64_t>(1, ceil_div(size, part)); };
  grid.groups = parts(p.out_channels, Tile::kOutputs);
  grid.bands = static_cast<int>(parts(p.out_h, Tile::kHeight));
  grid.columns = static_cast<int>(parts(p.out_w, Tile::kWidth));
  const int64_t tiles = std::max<int64_t>(1, p.batch) * grid.bands * grid.columns;
  const Device& device = current_device();
  const int64_t most = std::max<int64_t>(1, device.sms * resident_blocks(block, device) / grid.groups);
  const int64_t blocks = ceil_div(tiles, ceil_div(tiles, most));
  grid.blocks = blocks * grid.groups;
  grid.step = grid.at(blocks);
  return grid;
}

bool multiples(const Strides4& stride, int64_t size) {
  return stride.n % size == 0 && stride.c % size == 0 && stride.h % size == 0;
}

}  // namespace

template <bool kIsNhwc>
bool matches_stem_k3s2(const StemConv2dParams& p) {
  using Tile = StemTile<float, kIsNhwc>;
  const Window& w = p.window;
  if (!has_cuda_kernels(p.dtype) || p.in_channels != Tile::kChannels || w.kernel_h != Tile::kKernel ||
      w.kernel_w != Tile::kKernel || w.stride_h != Tile::kStride || w.stride_w != Tile::kStride || w.pad_left > 1 ||
      !coordinates_fit_int32(p) || !is_aligned(p.x) || !is_aligned(p.y) ||
      (p.dtype == DType::kBFloat16 && current_device().capability < 80)) {
    return false;
  }
  const int64_t vec = vector_size(p.dtype);
  const Strides4 &x = p.x_stride, &y = p.y_stride;
  if (kIsNhwc) {
    return x.c == 1 && x.w == Tile::kChannels && x.n % vec == 0 && x.h % vec == 0 && p.out_channels % vec == 0 &&
           channels_are_vectors(p.y, y, p.dtype);
  }
  return x.w == 1 && multiples(x, vec) && y.w == 1 && multiples(y, vec) && p.out_w % vec == 0;
}

template <bool kIsNhwc>
Work work_stem_k3s2(const StemConv2dParams& p) {
  return with_part<kIsNhwc>(p, [&](auto type) {
    using Part = typename decltype(type)::type;
    using Tile = typename Part::Tile;
    const StemGrid grid = stem_grid<Part>(p);
    constexpr double kBytes = sizeof(typename Tile::T), kSector = 32, kWavefront = 128;
    const double y_bytes = kBytes * p.batch * p.out_channels * p.out_h * p.out_w;
    const double tiles = 1.0 * p.batch * grid.bands * grid.columns * grid.groups, items = Part::items(p);
    // Of x: the rows of all bands, times the sectors of a row that tiles side by side read.
    const double lines =
        p.batch * grid.groups * (Tile::kIsNhwc ? 1 : Tile::kChannels) *
        coordinates_of_tiles(p.in_h, grid.bands, Tile::kHeight, Tile::kRows, Tile::kStride, p.window.pad_top);
    double line_sectors = 0;
    for (int64_t column = 0; column < grid.columns; ++column) {
      const int64_t left = column * Tile::kWidth * Tile::kStride, pad = p.window.pad_left;
      const int64_t right = std::min(p.in_w, left + Tile::kWidth * Tile::kStride + 1 - pad);
      const double first = (left * Tile::kColumn - (left > 0 ? pad * Tile::kVec : 0)) * kBytes;
      line_sectors += std::ceil(right * Tile::kColumn * kBytes / kSector) - std::floor(first / kSector);
    }
    const double copied = lines * line_sectors * kSector;
    const double weights = std::min<double>(p.out_channels, Tile::kOutputs) * Tile::kTaps * kBytes;
    Work work{};
    work.blocks = grid.blocks;
    work.threads = Tile::kThreads, work.registers = Part::kRegisters, work.shared_bytes = kSharedBytes<Part>;
    work.dram_bytes = tensor_bytes(p);
    work.l2_bytes = copied + y_bytes + work.blocks * weights;
    // Copies are written to shared memory, with the zeros around x. The 27 weights of a channel start and end inside
    // a sector, and one or two more have its bias.
    work.l1_bytes = copied + tiles * Tile::kElements * kBytes + items * Part::kItemWavefronts * kWavefront + y_bytes +
                    work.blocks * (weights + 2 * Tile::kOutputs * kSector + Part::kSetupWavefronts * kWavefront);
    work.ffma = Part::kItemMma > 0 ? 0 : y_bytes / kBytes * Tile::kTaps;
    work.mma_flops = items * Part::kItemMma * 4096;
    // Of a thread about 570 to set up a block, and 200 to copy a tile.
    work.instructions = 32 * items * Part::kItemInstructions + Tile::kThreads * (work.blocks * 570 + tiles * 200);
    work.round_trips = tiles / work.blocks;
    return work;
  });
}

template <bool kIsNhwc>
cudaError_t launch_stem_k3s2(const StemConv2dParams& p, cudaStream_t stream) {
  return with_part<kIsNhwc>(p, [&](auto type) {
    using Part = typename decltype(type)::type;
    const StemGrid grid = stem_grid<Part>(p);
    if (const cudaError_t error = check_grid(grid.blocks); error != cudaSuccess) return error;
    stem_conv2d_k3s2_kernel<Part><<<static_cast<unsigned>(grid.blocks), Part::Tile::kThreads, 0, stream>>>(p, grid);
    return cudaGetLastError();
  });
}

template bool matches_stem_k3s2<true>(const StemConv2dParams&);
template Work work_stem_k3s2<true>(const StemConv2dParams&);
template cudaError_t launch_stem_k3s2<true>(const StemConv2dParams&, cudaStream_t);
template bool matches_stem_k3s2<false>(const StemConv2dParams&);
template Work work_stem_k3s2<false>(const StemConv2dParams&);
template cudaError_t launch_stem_k3s2<false>(const StemConv2dParams&, cudaStream_t);

}  // namespace mbv1::cuda
