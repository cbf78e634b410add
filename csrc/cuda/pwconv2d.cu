// The table of the pointwise kernels (pwconv2d.cuh), and what their launches do.
//
// pwconv2d_<layout>_<P>x<O>[_tf32]  a block's tile of P pixels and O output channels; tensor cores for float16,
//                                   bfloat16 and, where the caller allows it, float32 (sm_75: float16 only), else FMA
// pwconv2d_<layout>_splitk[_tf32]   32x32, whose warps share out K: for few pixels, as 7x7 at batch 1
// pwconv2d_any                      strides that neither layout has, without 16-byte loads of x

#include "kernels.h"
#include "matrix_work.h"
#include "pwconv2d.h"

namespace mbv1::cuda {
namespace {

// The copies of x: the pixels of `channels` channels, over all tiles, which `tiles` tiles of outputs share out.
template <class Traits>
void add_pixels(Work& work, const PwConv2dParams& p, const PwCopies& copies, double tiles, double channels) {
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(typename Tile::T);
  const double pixels = 1.0 * p.batch * p.h * p.w, staged = channels * Tile::kPixels * kBytes;
  if (Tile::kIsNhwc) {
    return add_copies(work, pixels * kBytes * p.in_channels * tiles, staged, kBytes, copies.word == Tile::kVec);
  }
  // Runs of pixels that may start anywhere in a sector end in another: those of tiles and of planes.
  const bool whole_sectors = p.x_stride.c * static_cast<int>(kBytes) % 32 == 0;
  const double runs = whole_sectors ? 0 : ceil_div(p.batch * p.h * p.w, Tile::kPixels) + p.batch;
  const double bytes = (pixels * kBytes + 30 * runs) * p.in_channels * tiles;
  work.l2_bytes += bytes;
  work.l1_bytes += bytes;
  if (copies.shifted > 0) {
    // Vectors to shared memory; from there a warp reads 64 elements in two steps, and puts them in place in one.
    work.l1_bytes += channels * (copies.shifted * kVectorBytes + Tile::kPixels * 6);
    work.instructions += channels * (copies.shifted * 20 + Tile::kPixels * 6);
  } else {
    work.l1_bytes += staged;
    work.instructions += staged / kBytes * (copies.word > 0 ? 7.5 / copies.word : 7);
  }
}

template <class T, bool kTf32, Layout kLayout, class Shape>
Work work_as(const PwConv2dParams& p) {
  using Traits = PwTraits<T, kTf32, kLayout, Shape>;
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(T);
  const double pixels = 1.0 * p.batch * p.h * p.w, outputs = p.out_channels, k = p.in_channels;
  const double pixel_tiles = ceil_div(p.batch * p.h * p.w, Tile::kPixels);
  const double output_tiles = ceil_div(p.out_channels, Tile::kOutputs);
  const double rounds = ceil_div(p.in_channels, Tile::kSlice * Tile::kGroups);
  Work work = product_work<Tile>(pixel_tiles * output_tiles, rounds * Tile::kGroups, pixels * outputs);
  const PwCopies copies = Traits::copies(p);
  work.shared_bytes = Traits::shared_bytes(copies);
  // As launch bounds allow on this device, see PwTraits: what ptxas used at most on any architecture.
  const int blocks = current_device().shared_bytes / (Traits::kSharedBytes + 1024);
  const bool all_blocks = blocks >= Traits::kSmThreads / Tile::kThreads;
  work.registers = Tile::kSums > 64 ? 255 : Traits::kIsWide ? 168 : all_blocks ? 128 : 152;
  work.dram_bytes = tensor_bytes(p);
  // Every tile of outputs reads its pixels, every tile of pixels the weights.
  const double channels = pixel_tiles * output_tiles * rounds * Tile::kGroups * Tile::kSlice;  // of all tiles
  add_pixels<Traits>(work, p, copies, output_tiles, channels);
  add_copies(work, outputs * k * kBytes * pixel_tiles, channels * Tile::kOutputs * kBytes, sizeof(T),
             copies.weight_vectors);
  add_outputs(work, p, kLayout);
  work.l1_bytes += work.blocks * Tile::kPixels * 56.;  // where the pixels lie, which single elements ask each time
  // Of a thread once, and of a pixel: where it lies in x, in y and in the residual.
  work.instructions += 1.0 * work.blocks * (Tile::kThreads * 130 + Tile::kPixels * 150);
  work.round_trips = 2 + (rounds - 1) / (Traits::kStages - 1);
  return work;
}

template <Layout kLayout, class Shape>
Work work(const PwConv2dParams& p) {
  return work_of_dtype(p.dtype,
                       [&](auto type) { return work_as<typename decltype(type)::type, false, kLayout, Shape>(p); });
}

template <Layout kLayout, class Shape>
cudaError_t launch(const PwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dtype, [&](auto type) {
    return launch_pwconv2d<typename decltype(type)::type, false, kLayout, Shape>(p, stream);
  });
}

template <Layout kLayout>
bool matches(const PwConv2dParams& p) {
  return has_cuda_kernels(p.dtype) && has_layout(p.x_stride, kLayout) && has_layout(p.y_stride, kLayout);
}

template <Layout kLayout>
bool matches_tf32(const PwConv2dParams& p) {
  return p.dtype == DType::kFloat32 && p.allow_tf32 && matches<kLayout>(p);
}

bool matches_any(const PwConv2dParams& p) { return has_cuda_kernels(p.dtype); }

Work work_any(const PwConv2dParams& p) {
  return p.y_stride.c == 1 ? work<Layout::kNhwc, Shape<128, 64>>(p) : work<Layout::kNchw, Shape<128, 64>>(p);
}

cudaError_t launch_any(const PwConv2dParams& p, cudaStream_t stream) {
  return p.y_stride.c == 1 ? launch<Layout::kNhwc, Shape<128, 64>>(p, stream)
                           : launch<Layout::kNchw, Shape<128, 64>>(p, stream);
}

template <Layout kLayout, class Shape>
constexpr Kernel<PwConv2dParams> line(const char* name) {
  return {name, matches<kLayout>, work<kLayout, Shape>, launch<kLayout, Shape>};
}

template <Layout kLayout, class Shape>
constexpr Kernel<PwConv2dParams> tf32_line(const char* name) {
  return {name, matches_tf32<kLayout>, work_as<float, true, kLayout, Shape>,
          launch_pwconv2d<float, true, kLayout, Shape>};
}

}  // namespace

KernelTable<Kernel<PwConv2dParams>> pwconv2d_kernels() {
  constexpr Layout kNhwc = Layout::kNhwc, kNchw = Layout::kNchw;
  static constexpr Kernel<PwConv2dParams> kKernels[] = {
      tf32_line<kNhwc, Shape<128, 128>>("pwconv2d_nhwc_128x128_tf32"),
      tf32_line<kNhwc, Shape<128, 64>>("pwconv2d_nhwc_128x64_tf32"),
      tf32_line<kNhwc, Shape<32, 32, 4>>("pwconv2d_nhwc_splitk_tf32"),
      tf32_line<kNchw, Shape<128, 128>>("pwconv2d_nchw_128x128_tf32"),
      tf32_line<kNchw, Shape<128, 64>>("pwconv2d_nchw_128x64_tf32"),
      tf32_line<kNchw, Shape<32, 32, 4>>("pwconv2d_nchw_splitk_tf32"),
      line<kNhwc, Shape<128, 128>>("pwconv2d_nhwc_128x128"),
      line<kNhwc, Shape<128, 64>>("pwconv2d_nhwc_128x64"),
      line<kNhwc, Shape<32, 32, 4>>("pwconv2d_nhwc_splitk"),
      line<kNchw, Shape<128, 128>>("pwconv2d_nchw_128x128"),
      line<kNchw, Shape<128, 64>>("pwconv2d_nchw_128x64"),
      line<kNchw, Shape<32, 32, 4>>("pwconv2d_nchw_splitk"),
      {"pwconv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
