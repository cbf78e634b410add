// The table of the depthwise-separable kernels, and what their launches do. Names:
//
// separable_conv2d_nhwc_k<K>_<P>x<O>[_tf32]  design A (separable_resident.cuh): patches of P pixels with all channels
//                                            in shared memory, O output channels at a time; stride 1 and 2
// separable_conv2d_nhwc_k3_split[_tf32]      the same for few pixels: 32x64 a block, whose warps share out K
// separable_conv2d_nhwc_k3[_tf32]            design B (separable_slices.cuh): 64 pixels and 128 outputs a block,
// slices
//                                            of channels; K that shared memory cannot hold
// separable_conv2d_nchw_k3[_tf32]            design B for NCHW (separable_bands.cuh): whole rows of outputs
// separable_conv2d_<layout>[_tf32]           separable_slices.cuh for any window, of pixels read one by one in NCHW
// separable_conv2d_any                       strides that neither layout has
// separable_conv2d_unfused                   dwconv2d and pwconv2d, one after the other

#include <cmath>
#include <numeric>

#include "kernels.h"
#include "matrix_work.h"
#include "separable_bands.h"
#include "separable_conv2d.h"

namespace mbv1::cuda {
namespace {

bool matches_any(const SeparableConv2dParams& p) { return has_cuda_kernels(p.dw.dtype); }

// The calls that the kernels for kernel x kernel windows can take: none that is empty, and whole K is an int.
bool has_plain_window(const SeparableConv2dParams& p, int kernel) {
  const Window& w = p.dw.window;
  return matches_any(p) && outputs(p.dw) > 0 && p.dw.channels <= INT16_MAX && w.kernel_h == kernel &&
         w.kernel_w == kernel && w.stride_h == w.stride_w && w.stride_h <= 2 && w.dilation_h == 1 &&
         w.dilation_w == 1 && coordinates_fit_int32(p.dw);
}

// Shared memory that one block can have.
int block_shared(const Device& device) { return device.shared_bytes - (device.capability >= 80 ? 1024 : 0); }

// Of `out` windows, those whose tap at `first` from the window's start (less the padding) lies inside `in`.
int64_t windows_inside(int64_t in, int64_t out, int64_t stride, int64_t first) {
  const int64_t before = first < 0 ? ceil_div(-first, stride) : 0;
  const int64_t up_to = first < in ? std::min(out, ceil_div(in - first, stride)) : 0;
  return std::max<int64_t>(0, up_to - before);
}

// Rows of windows that lie inside x, over all output rows of an image.
double window_rows(const DwConv2dParams& p) {
  const Window& w = p.window;
  double rows = 0;
  for (int64_t i = 0; i < w.kernel_h; ++i) {
    rows += windows_inside(p.in_h, p.out_h, w.stride_h, i * w.dilation_h - w.pad_top);
  }
  return rows;
}

// Rows of x under patches of `height` output rows of the stack of all images: of every stretch of a patch inside one
// image, with the rows that its windows overhang.
double rows_under(const DwConv2dParams& p, int64_t height, int64_t patches) {
  const double rows = 1.0 * p.batch * p.out_h, step = std::lcm<int64_t>(height, p.out_h);
  const double stretches = patches + p.batch - std::ceil(rows / step);
  const double overhang = p.window.kernel_h - p.window.stride_h;
  return rows * p.window.stride_h + (stretches - p.batch) * overhang;
}

// The depthwise half: FMAs, and elements of x, of its weights and of its result that pass through L1 or shared
// memory.
struct Depthwise {
  double macs, loads, taps, stores;
};

void add_depthwise(Work& work, const Depthwise& dw, DType dtype, bool vectors) {
  const double bytes = element_bytes(dtype);
  work.l1_bytes += (dw.loads + dw.taps + dw.stores) * bytes;
  work.ffma += dw.macs;
  // FMA; conversions where x has 2 bytes; a load with its bounds and address; activation and rounding.
  const double converted = bytes == 2 ? dw.loads + dw.taps : 0;
  work.instructions +=
      dw.macs + converted + (vectors ? dw.loads * bytes / kVectorBytes * 6 : dw.loads * 14) + dw.stores * 4;
}

// ---- design A ----

// Of one row of x, the elements that the strips of an output row read.
double columns_of_strips(const DwConv2dParams& p, const ResidentGrid& grid) {
  const int64_t inputs = (kResidentStrip - 1) * p.window.stride_w + p.window.kernel_w;
  double columns = 0;
  for (int64_t patch = 0; patch < grid.columns; ++patch) {
    for (int64_t strip = 0; strip < grid.strips_per_row; ++strip) {
      const int64_t column = patch * grid.width + strip * kResidentStrip;
      const int64_t left = column * p.window.stride_w - p.window.pad_left;
      columns += std::max<int64_t>(0, std::min(left + inputs, p.in_w) - std::max<int64_t>(left, 0));
    }
  }
  return columns;
}

template <class T, bool kTf32, int kKernel, class Shape>
Work resident_work(const SeparableConv2dParams& p) {
  using Traits = ResidentTraits<T, kTf32, kKernel, Shape>;
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(T);
  const ResidentGrid grid = Traits::Plan::grid(p, current_device().sms);
  const double pixels = 1.0 * p.dw.batch * p.dw.out_h * p.dw.out_w, outputs = p.pw.out_channels;
  const double patches = grid.patches(), channels = p.dw.channels, groups = grid.output_groups;
  const double slices = grid.padded_k / Tile::kSlice;
  Work work = product_work<Tile>(patches * grid.output_tiles, slices, pixels * outputs);
  work.blocks = grid.blocks();
  work.registers = kKernel == 3 ? 128 : 168;
  work.shared_bytes =
      static_cast<int>(Traits::Plan::shared_bytes(grid, kKernel * kKernel)) + Traits::Plan::kStaticBytes;
  work.dram_bytes = tensor_bytes(p);

  const Window& w = p.dw.window;
  const double in_rows = rows_under(p.dw, grid.height, grid.patch_rows);
  const double in_columns = covered_width(p.dw) + (grid.columns - 1) * (kKernel - w.stride_w);
  work.l2_bytes = in_rows * in_columns * channels * kBytes * groups;
  // A strip reads its weights anew for each row, and once its bias and where its row lies.
  const double window_rows_made = p.dw.batch * window_rows(p.dw) * channels * groups;
  const double strips = window_rows_made * grid.columns * grid.strips_per_row;
  add_depthwise(work,
                {.macs = strips * kKernel * kResidentStrip,
                 .loads = window_rows_made * columns_of_strips(p.dw, grid),
                 .taps = strips * kKernel + pixels / kResidentStrip * 2 * channels * groups,
                 .stores = pixels * channels * groups},
                p.dw.dtype, true);
  const double tap_bytes = grid.blocks() * channels * (taps(w) + (p.dw.bias != nullptr)) * kBytes;
  add_copies(work, tap_bytes, tap_bytes, sizeof(T), false);
  add_copies(work, patches * outputs * channels * kBytes,
             patches * grid.output_tiles * Tile::kOutputs * grid.padded_k * kBytes, sizeof(T),
             weights_are_vectors(p.pw));
  add_outputs(work, p.pw, Layout::kNhwc);

  // Taps, then rows of x for every strip of every group of channels; the weights arrive meanwhile, in the ring.
  const double strip_rounds =
      std::ceil(1.0 * grid.height * grid.strips_per_row / (Shape::kThreads >> grid.log2_lanes));
  const double channel_rounds = std::ceil(channels / (Tile::kVec << grid.log2_lanes));
  work.round_trips = 1 + channel_rounds * strip_rounds * kKernel +
                     grid.tiles_per_block * slices / Shape::kGroups / (Traits::Plan::kStages - 1);
  return work;
}

template <class T, bool kTf32, int kKernel, class Shape>
bool resident_matches_as(const SeparableConv2dParams& p) {
  using Plan = typename ResidentTraits<T, kTf32, kKernel, Shape>::Plan;
  const Device& device = current_device();
  const ResidentGrid grid = Plan::grid(p, device.sms);
  return Plan::shared_bytes(grid, kKernel * kKernel) + Plan::kStaticBytes <= block_shared(device);
}

// NHWC with whole 16-byte vectors of channels, and what fits the shared memory of the current device.
template <int kKernel, class Shape>
bool resident_matches(const SeparableConv2dParams& p) {
  if (!has_plain_window(p, kKernel) || p.pw.y_stride.c != 1) return false;
  if (p.dw.channels % vector_size(p.dw.dtype) != 0 || !channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype)) {
    return false;
  }
  return p.dw.dtype == DType::kFloat32 ? resident_matches_as<float, false, kKernel, Shape>(p)
                                       : resident_matches_as<__half, false, kKernel, Shape>(p);
}

template <int kKernel, class Shape>
bool resident_matches_tf32(const SeparableConv2dParams& p) {
  return p.dw.dtype == DType::kFloat32 && p.pw.allow_tf32 && resident_matches<kKernel, Shape>(p);
}

template <int kKernel, class Shape>
constexpr Kernel<SeparableConv2dParams> resident(const char* name) {
  return {name, resident_matches<kKernel, Shape>,
          [](const SeparableConv2dParams& p) {
            return work_of_dtype(p.dw.dtype, [&](auto type) {
              return resident_work<typename decltype(type)::type, false, kKernel, Shape>(p);
            });
          },
          [](const SeparableConv2dParams& p, cudaStream_t stream) {
            return dispatch_dtype(p.dw.dtype, [&](auto type) {
              return launch_separable_resident<typename decltype(type)::type, false, kKernel, Shape>(p, stream);
            });
          }};
}

template <int kKernel, class Shape>
constexpr Kernel<SeparableConv2dParams> resident_tf32(const char* name) {
  return {name, resident_matches_tf32<kKernel, Shape>, resident_work<float, true, kKernel, Shape>,
          launch_separable_resident<float, true, kKernel, Shape>};
}

// ---- design B, NCHW ----

template <class T, bool kTf32>
Work bands_work(const SeparableConv2dParams& p) {
  using Traits = BandTraits<T, kTf32>;
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(T), kWavefront = 128;
  const BandGrid grid = Traits::grid(p);
  const Window& w = p.dw.window;
  const double pixels = 1.0 * p.dw.batch * p.dw.out_h * p.dw.out_w, outputs = p.pw.out_channels;
  const double slices = ceil_div(p.dw.channels, Tile::kSlice), channels = p.dw.channels;
  Work work = product_work<Tile>(grid.blocks(), slices, pixels * outputs);
  work.shared_bytes = static_cast<int>(Traits::shared_bytes(grid)) + Traits::kStaticBytes;
  work.dram_bytes = tensor_bytes(p);
  // A band's rows of a channel lie together, in all but the outermost sectors.
  const bool aligned = grid.row_vectors * Tile::kVec == p.dw.in_w;
  const double x_bytes =
      rows_under(p.dw, grid.height, grid.bands) * p.dw.in_w * kBytes + grid.bands * (aligned ? 0 : 30);
  const double staged = grid.blocks() * slices * Tile::kSlice;
  add_copies(work, x_bytes * channels * grid.output_tiles, staged * grid.copies * kVectorBytes, sizeof(T), true);
  add_copies(work, grid.bands * outputs * channels * kBytes, staged * Tile::kOutputs * kBytes, sizeof(T),
             weights_are_vectors(p.pw));
  const double tap_bytes = grid.blocks() * channels * (taps(w) + 1) * kBytes;
  add_copies(work, tap_bytes, tap_bytes, sizeof(T), false);
  add_outputs(work, p.pw, Layout::kNchw, grid.starts_with_vectors(p.dw.out_w, Tile::kVec));
  // A warp's 32 pixels of a channel: 9 elements each, which are 8 bytes apart at stride 2 of float32; three rows of
  // taps by 16 bytes, four wavefronts each; and for pixels that are not there, too, the bias and a store.
  const double made = grid.blocks() * slices * Tile::kSlice * Tile::kPixels;
  const double band = 1.0 * grid.height * p.dw.out_w, last = pixels - (grid.bands - 1) * band;
  const double warps = (grid.bands - 1) * std::ceil(band / 32) + std::ceil(last / 32);
  const bool rows_share_banks = grid.row_vectors * kVectorBytes * w.stride_h % 128 == 0;
  const double element_wavefronts =
      std::max(kBytes * w.stride_w > 4 ? 2. : 1., rows_share_banks ? 32. / p.dw.out_w : 1.);
  work.l1_bytes += warps * grid.output_tiles * slices * Tile::kSlice *
                       (taps(w) * element_wavefronts + 4 * w.kernel_h) * kWavefront +
                   made / 32 * 2 * kWavefront;
  const double macs =
      p.dw.batch * window_rows(p.dw) * p.dw.out_w * w.kernel_w * slices * Tile::kSlice * grid.output_tiles;
  work.ffma += macs;
  work.instructions += made * (taps(w) * (kBytes == 2 ? 8 : 7) + 20);  // addresses, loads, selections, conversions
  work.round_trips = 1 + std::ceil(slices / (grid.stages - 1));
  return work;
}

template <class T, bool kTf32>
bool bands_match_as(const SeparableConv2dParams& p) {
  using Traits = BandTraits<T, kTf32>;
  const Device& device = current_device();
  const BandGrid grid = Traits::grid(p);
  return grid.copies <= Traits::kThreads && Traits::shared_bytes(grid) + Traits::kStaticBytes <= block_shared(device);
}

bool bands_match(const SeparableConv2dParams& p) {
  const bool is_nchw = has_layout(p.dw.x_stride, Layout::kNchw) && has_layout(p.pw.y_stride, Layout::kNchw);
  if (!has_plain_window(p, 3) || !is_nchw || !is_aligned(p.dw.x)) return false;
  if (p.dw.out_w > kBandPixels) return false;
  return p.dw.dtype == DType::kFloat32 ? bands_match_as<float, false>(p) : bands_match_as<__half, false>(p);
}

bool bands_match_tf32(const SeparableConv2dParams& p) {
  return p.dw.dtype == DType::kFloat32 && p.pw.allow_tf32 && bands_match(p);
}

Work bands_work_of(const SeparableConv2dParams& p) {
  return work_of_dtype(p.dw.dtype, [&](auto type) { return bands_work<typename decltype(type)::type, false>(p); });
}

cudaError_t launch_bands(const SeparableConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(
      p.dw.dtype, [&](auto type) { return launch_separable_bands<typename decltype(type)::type, false>(p, stream); });
}

// ---- design B ----

template <class T, bool kTf32, Layout kLayout, int kKernel>
Work slices_work(const SeparableConv2dParams& p) {
  using Traits = SlicesTraits<T, kTf32, kLayout, kKernel>;
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(T);
  const double pixels = 1.0 * p.dw.batch * p.dw.out_h * p.dw.out_w, outputs = p.pw.out_channels;
  const double pixel_tiles = std::ceil(pixels / Tile::kPixels), channels = p.dw.channels;
  const double output_tiles = ceil_div(p.pw.out_channels, Tile::kOutputs);
  const double slices = ceil_div(p.dw.channels, Tile::kSlice);
  Work work = product_work<Tile>(pixel_tiles * output_tiles, slices, pixels * outputs);
  work.shared_bytes = Traits::kSharedBytes;
  work.dram_bytes = tensor_bytes(p);
  // A tile is a run of pixels: the rows of x that its windows share meet in L1, those of its neighbours in L2.
  const Window& w = p.dw.window;
  const double tile_rows = Tile::kPixels / static_cast<double>(p.dw.out_w) + 1;
  const double in_rows = std::min((tile_rows - 1) * w.stride_h + w.kernel_h * 1.0, 1.0 * p.dw.in_h * p.dw.batch);
  const double run = std::min<double>(covered_width(p.dw), Tile::kPixels * w.stride_w + w.kernel_w);
  work.l2_bytes = pixel_tiles * output_tiles * in_rows * run * channels * kBytes;
  const bool x_vectors = kLayout == Layout::kNhwc && channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype);
  const double middle = pixels * channels * output_tiles, macs = middle * taps(w);
  add_depthwise(work, {.macs = macs, .loads = macs, .taps = macs, .stores = middle}, p.dw.dtype, x_vectors);
  const double tap_bytes = work.blocks * channels * taps(w) * kBytes;
  add_copies(work, tap_bytes, tap_bytes, sizeof(T), false);
  add_copies(work, pixel_tiles * outputs * channels * kBytes,
             work.blocks * slices * Tile::kSlice * Tile::kOutputs * kBytes, sizeof(T), weights_are_vectors(p.pw));
  add_outputs(work, p.pw, kLayout);
  work.round_trips = 1 + slices * (kKernel == 3 ? 3 : taps(w) / 2);
  return work;
}

template <Layout kLayout, int kKernel>
Work slices_work_of(const SeparableConv2dParams& p) {
  return work_of_dtype(
      p.dw.dtype, [&](auto type) { return slices_work<typename decltype(type)::type, false, kLayout, kKernel>(p); });
}

template <Layout kLayout, int kKernel>
cudaError_t launch_slices(const SeparableConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dw.dtype, [&](auto type) {
    return launch_separable_slices<typename decltype(type)::type, false, kLayout, kKernel>(p, stream);
  });
}

// What bands take they do with copies of 16 bytes, where these kernels load a value at a time.
bool matches_any_strides(const SeparableConv2dParams& p) { return matches_any(p) && !bands_match(p); }

template <Layout kLayout, int kKernel>
bool slices_matches(const SeparableConv2dParams& p) {
  const Window& window = p.dw.window;
  return matches_any_strides(p) && has_layout(p.dw.x_stride, kLayout) && has_layout(p.pw.y_stride, kLayout) &&
         (kKernel == kAnyKernel || (window.kernel_h == kKernel && window.kernel_w == kKernel));
}

template <Layout kLayout, int kKernel>
bool slices_matches_tf32(const SeparableConv2dParams& p) {
  return p.dw.dtype == DType::kFloat32 && p.pw.allow_tf32 && slices_matches<kLayout, kKernel>(p);
}

Work work_any(const SeparableConv2dParams& p) {
  return p.pw.y_stride.c == 1 ? slices_work_of<Layout::kNhwc, kAnyKernel>(p)
                              : slices_work_of<Layout::kNchw, kAnyKernel>(p);
}

cudaError_t launch_any(const SeparableConv2dParams& p, cudaStream_t stream) {
  return p.pw.y_stride.c == 1 ? launch_slices<Layout::kNhwc, kAnyKernel>(p, stream)
                              : launch_slices<Layout::kNchw, kAnyKernel>(p, stream);
}

template <Layout kLayout, int kKernel>
constexpr Kernel<SeparableConv2dParams> slices(const char* name) {
  return {name, slices_matches<kLayout, kKernel>, slices_work_of<kLayout, kKernel>, launch_slices<kLayout, kKernel>};
}

template <Layout kLayout, int kKernel>
constexpr Kernel<SeparableConv2dParams> slices_tf32(const char* name) {
  return {name, slices_matches_tf32<kLayout, kKernel>, slices_work<float, true, kLayout, kKernel>,
          launch_separable_slices<float, true, kLayout, kKernel>};
}

}  // namespace

KernelTable<Kernel<SeparableConv2dParams>> separable_conv2d_kernels() {
  constexpr Layout kNhwc = Layout::kNhwc, kNchw = Layout::kNchw;
  static constexpr Kernel<SeparableConv2dParams> kKernels[] = {
      resident_tf32<3, Shape<128, 128>>("separable_conv2d_nhwc_k3_128x128_tf32"),
      resident_tf32<3, Shape<64, 64>>("separable_conv2d_nhwc_k3_64x64_tf32"),
      resident_tf32<3, Shape<32, 64, 4>>("separable_conv2d_nhwc_k3_split_tf32"),
      resident_tf32<5, Shape<64, 64>>("separable_conv2d_nhwc_k5_64x64_tf32"),
      slices_tf32<kNhwc, 3>("separable_conv2d_nhwc_k3_tf32"),
      {"separable_conv2d_nchw_k3_tf32", bands_match_tf32, bands_work<float, true>,
       launch_separable_bands<float, true>},
      slices_tf32<kNhwc, kAnyKernel>("separable_conv2d_nhwc_tf32"),
      slices_tf32<kNchw, kAnyKernel>("separable_conv2d_nchw_tf32"),
      resident<3, Shape<128, 128>>("separable_conv2d_nhwc_k3_128x128"),
      resident<3, Shape<64, 64>>("separable_conv2d_nhwc_k3_64x64"),
      resident<3, Shape<32, 64, 4>>("separable_conv2d_nhwc_k3_split"),
      resident<5, Shape<64, 64>>("separable_conv2d_nhwc_k5_64x64"),
      slices<kNhwc, 3>("separable_conv2d_nhwc_k3"),
      {"separable_conv2d_nchw_k3", bands_match, bands_work_of, launch_bands},
      slices<kNhwc, kAnyKernel>("separable_conv2d_nhwc"),
      slices<kNchw, kAnyKernel>("separable_conv2d_nchw"),
      {"separable_conv2d_any", matches_any_strides, work_any, launch_any},
      {"separable_conv2d_unfused", matches_unfused, work_unfused, launch_unfused, workspace_unfused, further_unfused},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
