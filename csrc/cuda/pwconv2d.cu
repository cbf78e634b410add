// Pointwise (1x1) convolution: a matrix product of pixels and weights with an epilogue, see matrix_tile.cuh.
//
// pwconv2d_nhwc, _nchw            tensor cores for float16 and bfloat16, FMA for float32
// pwconv2d_nhwc_tf32, _nchw_tf32  float32 on tensor cores, where the caller allows it (sm_75: FMA)
// pwconv2d_any                    the same for strides that neither layout has, without 16-byte loads of x

#include "kernels.h"
#include "matrix_tile.cuh"
#include "work.h"

namespace mbv1::cuda {
namespace {

// 64 pixels x 64 outputs do 2 * 64 * 64 FLOP for 128 elements: 32 FLOP a byte from L2 in float16. Small enough that
// the last layers of a net at batch 1, 49 pixels x 1024 outputs, make 16 blocks.
constexpr int kWarpsM = 2, kWarpsN = 2;
constexpr int kStages = 3;  // slices in flight: two arrive while one is multiplied

struct Vectors {
  bool x, weight;
};

template <class Tile>
struct PwTraits {
  using T = typename Tile::T;
  static constexpr int kStageElements = Tile::kPixelElements + Tile::kWeightElements;
  static constexpr int kBytes = max_of(kStages * kStageElements * static_cast<int>(sizeof(T)), Tile::kStagingBytes);
  static_assert(Tile::kPixelElements * sizeof(T) % kVectorBytes == 0);
  static_assert(kStageElements * sizeof(T) % kVectorBytes == 0);
  static_assert(kBytes <= 40 * 1024);  // and offsets
};

// `x_offset` holds the element offsets of the tile's pixels, -1 past the end.
template <class Tile, class T>
__device__ void load_pixels(T* tile, const PwConv2dParams& p, const int64_t* x_offset, int64_t first_k,
                            bool vectors) {
  const T* x = static_cast<const T*>(p.x);
  if constexpr (Tile::kIsNhwc) {
    for (int e = threadIdx.x; e < Tile::kPixels * Tile::kPacks; e += Tile::kThreads) {
      const int pixel = e / Tile::kPacks, k = e % Tile::kPacks * Tile::kVec;
      const int64_t count = x_offset[pixel] >= 0 ? p.in_channels - first_k - k : 0;
      Tile::copy_pack(tile + pixel * Tile::kRowPitch + k, x + x_offset[pixel] + (first_k + k) * p.x_stride.c,
                      p.x_stride.c, count, vectors);
    }
  } else {
    constexpr int kPixelPacks = Tile::kPixels / Tile::kVec;
    for (int e = threadIdx.x; e < Tile::kSlice * kPixelPacks; e += Tile::kThreads) {
      const int k = e / kPixelPacks, pixel = e % kPixelPacks * Tile::kVec;
      T* to = tile + k * Tile::kColumnPitch + pixel;
      const bool k_inside = first_k + k < p.in_channels;
      const T* x_channel = x + (first_k + k) * p.x_stride.c;
      // A tile starts at a multiple of the vector size, so a vector lies inside or outside as a whole.
      if (vectors && k_inside && x_offset[pixel] >= 0) {
        copy_async(to, x_channel + x_offset[pixel]);
      } else {
        Pack<T, Tile::kVec> pack;
#pragma unroll
        for (int v = 0; v < Tile::kVec; ++v) {
          const int64_t offset = x_offset[pixel + v];
          pack[v] = k_inside && offset >= 0 ? x_channel[offset] : from_float<T>(0.f);
        }
        store_pack(to, pack);
      }
    }
  }
}

template <class T, bool kTf32, Layout kLayout>
__global__ void __launch_bounds__(32 * kWarpsM * kWarpsN)
    pwconv2d_kernel(PwConv2dParams p, Vectors vectors, Output output, int64_t output_tiles) {
  using Tile = MatrixTile<T, kTf32, kLayout, kWarpsM, kWarpsN>;
  using Traits = PwTraits<Tile>;
  __shared__ __align__(kVectorBytes) unsigned char memory[Traits::kBytes];
  __shared__ int64_t x_offset[Tile::kPixels];

  // The blocks that share a tile of pixels run side by side, so that x comes from memory once.
  const DivMod block = divmod(blockIdx.x, output_tiles);
  const int64_t first_pixel = block.quotient * Tile::kPixels, first_output = block.remainder * Tile::kOutputs;
  for (int i = threadIdx.x; i < Tile::kPixels; i += Tile::kThreads) {
    x_offset[i] = pixel_offset(first_pixel + i, output, p.x_stride);
  }
  __syncthreads();

  const T* weight = static_cast<const T*>(p.weight) + first_output * p.weight_stride_o;
  const int64_t slices = (p.in_channels + Tile::kSlice - 1) / Tile::kSlice;
  const auto stage = [&](int64_t slice) {
    return reinterpret_cast<T*>(memory) + static_cast<int>(slice % kStages) * Traits::kStageElements;
  };
  const auto load = [&](int64_t slice) {
    if (slice < slices) {
      const int64_t first_k = slice * Tile::kSlice;
      load_pixels<Tile>(stage(slice), p, x_offset, first_k, vectors.x);
      Tile::load_weights(stage(slice) + Tile::kPixelElements, weight, p.weight_stride_o, p.weight_stride_k,
                         p.out_channels - first_output, first_k, p.in_channels, vectors.weight);
    }
    commit_async();
  };

  float sums[Tile::kSums] = {};
  for (int slice = 0; slice < kStages - 1; ++slice) load(slice);
#pragma unroll 1
  for (int64_t slice = 0; slice < slices; ++slice) {
    wait_async<kStages - 2>();
    __syncthreads();  // this slice has arrived, and the stage of the slice before it is free
    load(slice + kStages - 1);
    Tile::multiply(sums, stage(slice), stage(slice) + Tile::kPixelElements);
  }
  Tile::finish(sums, reinterpret_cast<float*>(memory), output, first_pixel, first_output);
}

template <class T, bool kTf32, Layout kLayout>
Work work_as(const PwConv2dParams& p) {
  using Tile = MatrixTile<T, kTf32, kLayout, kWarpsM, kWarpsN>;
  const bool vectors = are_vectors(p.x, p.x_stride, p.h, p.w, p.dtype, kLayout) && weights_are_vectors(p);
  const double output_tiles = ceil_div(p.out_channels, Tile::kOutputs);
  const double pixel_tiles = ceil_div(p.batch * p.h * p.w, Tile::kPixels);
  const double slices = ceil_div(p.in_channels, Tile::kSlice), bytes = sizeof(T);
  const double y_bytes = 1.0 * p.batch * p.h * p.w * p.out_channels * bytes * (p.residual == nullptr ? 1 : 2);
  return tile_work<Tile>(output_tiles * pixel_tiles, slices, tensor_bytes(p), y_bytes, vectors,
                         PwTraits<Tile>::kBytes, kStages - 1);
}

template <class T, bool kTf32, Layout kLayout>
cudaError_t launch_as(const PwConv2dParams& p, cudaStream_t stream) {
  using Tile = MatrixTile<T, kTf32, kLayout, kWarpsM, kWarpsN>;
  const Output output = output_of(p, kLayout);
  const Vectors vectors{are_vectors(p.x, p.x_stride, p.h, p.w, p.dtype, kLayout), weights_are_vectors(p)};
  const int64_t output_tiles = ceil_div(p.out_channels, Tile::kOutputs);
  const int64_t blocks = output_tiles * ceil_div(output.pixels, Tile::kPixels);
  if (const cudaError_t error = check_grid(blocks); error != cudaSuccess) return error;
  pwconv2d_kernel<T, kTf32, kLayout>
      <<<static_cast<unsigned>(blocks), Tile::kThreads, 0, stream>>>(p, vectors, output, output_tiles);
  return cudaGetLastError();
}

template <Layout kLayout>
cudaError_t launch(const PwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(
      p.dtype, [&](auto type) { return launch_as<typename decltype(type)::type, false, kLayout>(p, stream); });
}

template <Layout kLayout>
Work work(const PwConv2dParams& p) {
  return work_of_dtype(p.dtype, [&](auto type) { return work_as<typename decltype(type)::type, false, kLayout>(p); });
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

Work work_any(const PwConv2dParams& p) { return p.y_stride.c == 1 ? work<Layout::kNhwc>(p) : work<Layout::kNchw>(p); }

cudaError_t launch_any(const PwConv2dParams& p, cudaStream_t stream) {
  return p.y_stride.c == 1 ? launch<Layout::kNhwc>(p, stream) : launch<Layout::kNchw>(p, stream);
}

}  // namespace

KernelTable<Kernel<PwConv2dParams>> pwconv2d_kernels() {
  static constexpr Kernel<PwConv2dParams> kKernels[] = {
      {"pwconv2d_nhwc_tf32", matches_tf32<Layout::kNhwc>, work_as<float, true, Layout::kNhwc>,
       launch_as<float, true, Layout::kNhwc>},
      {"pwconv2d_nchw_tf32", matches_tf32<Layout::kNchw>, work_as<float, true, Layout::kNchw>,
       launch_as<float, true, Layout::kNchw>},
      {"pwconv2d_nhwc", matches<Layout::kNhwc>, work<Layout::kNhwc>, launch<Layout::kNhwc>},
      {"pwconv2d_nchw", matches<Layout::kNchw>, work<Layout::kNchw>, launch<Layout::kNchw>},
      {"pwconv2d_any", matches_any, work_any, launch_any},
  };
  return kKernels;
}

}  // namespace mbv1::cuda
