// The table of the depthwise-separable kernels. Names:
//
// separable_conv2d_nhwc_k<K>_<P>x<O>[_tf32]  design A (separable_resident.cuh): patches of P pixels with all channels
//                                            in shared memory, O output channels at a time; stride 1 and 2
// separable_conv2d_nhwc_k3_split[_tf32]      the same for few pixels: 32x64 a block, whose warps share out K
// separable_conv2d_nhwc_k3[_tf32]            design B (separable_slices.cuh): 64 pixels and 128 outputs a
//                                            block, slices of channels; K that shared memory cannot hold
// separable_conv2d_nchw_k3_<P>x<O>[_tf32]    design B for NCHW (separable_bands.cuh): P pixels of neighbouring
//                                            rows and O output channels a block, slices of channels
// separable_conv2d_<layout>[_tf32]           separable_slices.cuh for any window, of pixels read one by one in NCHW
// separable_conv2d_any                       strides that neither layout has
// separable_conv2d_unfused                   dwconv2d and pwconv2d, one after the other

#include "kernels.h"
#include "separable_work.h"

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

// ---- design A ----

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

bool bands_match_any_shape(const SeparableConv2dParams& p) {
  const bool is_nchw = has_layout(p.dw.x_stride, Layout::kNchw) && has_layout(p.pw.y_stride, Layout::kNchw);
  return has_plain_window(p, 3) && is_nchw && is_aligned(p.dw.x);
}

template <class Shape>
bool bands_match(const SeparableConv2dParams& p) {
  if (!bands_match_any_shape(p)) return false;
  return p.dw.dtype == DType::kFloat32 ? BandTraits<float, false, Shape>::grid(p).exists()
                                       : BandTraits<__half, false, Shape>::grid(p).exists();
}

template <class Shape>
bool bands_match_tf32(const SeparableConv2dParams& p) {
  return p.dw.dtype == DType::kFloat32 && p.pw.allow_tf32 && bands_match_any_shape(p) &&
         BandTraits<float, true, Shape>::grid(p).exists();
}

template <class Shape>
constexpr Kernel<SeparableConv2dParams> bands(const char* name) {
  return {name, bands_match<Shape>,
          [](const SeparableConv2dParams& p) {
            return work_of_dtype(
                p.dw.dtype, [&](auto type) { return bands_work<typename decltype(type)::type, false, Shape>(p); });
          },
          [](const SeparableConv2dParams& p, cudaStream_t stream) {
            return dispatch_dtype(p.dw.dtype, [&](auto type) {
              return launch_separable_bands<typename decltype(type)::type, false, Shape>(p, stream);
            });
          }};
}

template <class Shape>
constexpr Kernel<SeparableConv2dParams> bands_tf32(const char* name) {
  return {name, bands_match_tf32<Shape>, bands_work<float, true, Shape>, launch_separable_bands<float, true, Shape>};
}

// ---- design B ----

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

template <Layout kLayout, int kKernel>
bool slices_matches(const SeparableConv2dParams& p) {
  const Window& window = p.dw.window;
  return matches_any(p) && has_layout(p.dw.x_stride, kLayout) && has_layout(p.pw.y_stride, kLayout) &&
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
      bands_tf32<Shape<128, 64>>("separable_conv2d_nchw_k3_128x64_tf32"),
      bands_tf32<Shape<64, 128>>("separable_conv2d_nchw_k3_64x128_tf32"),
      slices_tf32<kNhwc, kAnyKernel>("separable_conv2d_nhwc_tf32"),
      slices_tf32<kNchw, kAnyKernel>("separable_conv2d_nchw_tf32"),
      resident<3, Shape<128, 128>>("separable_conv2d_nhwc_k3_128x128"),
      resident<3, Shape<64, 64>>("separable_conv2d_nhwc_k3_64x64"),
      resident<3, Shape<32, 64, 4>>("separable_conv2d_nhwc_k3_split"),
      resident<5, Shape<64, 64>>("separable_conv2d_nhwc_k5_64x64"),
      slices<kNhwc, 3>("separable_conv2d_nhwc_k3"),
      bands<Shape<128, 64>>("separable_conv2d_nchw_k3_128x64"),
      bands<Shape<64, 128>>("separable_conv2d_nchw_k3_64x128"),
      slices<kNhwc, kAnyKernel>("separable_conv2d_nhwc"),
      slices<kNchw, kAnyKernel>("separable_conv2d_nchw"),
      {"separable_conv2d_any", matches_any, work_any, launch_any},
      {"separable_conv2d_unfused", matches_unfused, work_unfused, launch_unfused, workspace_unfused, further_unfused},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
