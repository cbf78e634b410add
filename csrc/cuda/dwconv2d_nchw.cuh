// Depthwise convolution of dense NCHW tensors, square windows of 3, 5 and 7 at stride 1 and 2.
//
// A block makes a band of rows of one plane, or several whole planes where these are small. Either is one run of
// memory, whatever the width: it is copied to shared memory 16 bytes at a time, asynchronously, and so are the
// results back, so that x is read once (but for the rows that two bands share) and no load or store depends on a
// border. Planes wider than kWholeWidth are cut into tiles, whose rows are runs of their own.
//
// In between, neighbouring threads make neighbouring columns, which is what keeps shared memory free of conflicts at
// any width; a thread slides down its columns with the plane's weights in registers, and keeps open the sums of all
// the outputs that a row takes part in: 3 reads of shared memory an output for 3x3 in float32, 2 in the 2-byte types.
#pragma once

#include <algorithm>
#include <cmath>

#include "copies.cuh"
#include "device.h"
#include "dwconv2d.h"
#include "numeric.cuh"
#include "work.h"

namespace mbv1::cuda {

template <class Element, int kWindow, int kStep>
struct PlaneTraits {
  using T = Element;
  static constexpr int kKernel = kWindow, kStride = kStep, kTaps = kKernel * kKernel;
  static constexpr int kThreads = 128;
  static constexpr int kVec = kVectorSize<T>;
  // Of a thread. Two 2-byte columns are one bank; two of float32, or of stride 2, would be a conflict.
  static constexpr int kColumns = sizeof(T) == 2 && kStride == 1 ? 2 : 1;
  static constexpr int kInColumns = (kColumns - 1) * kStride + kKernel;
  static constexpr int kOpen = (kKernel - 1) / kStride;
  static constexpr int kMaxOutputs = kStride == 1 ? 2048 : 1024;  // of a block
  static constexpr int kMinOutputs = 256;
  static constexpr int kMaxBytes = 48 * 1024;
  static constexpr int kWholeWidth = 512, kTileWidth = 256;
  // Sums of outputs that a row does not reach are skipped where that saves more than the branches cost.
  static constexpr bool kSkips = kKernel > 3;
  static constexpr int kRegisters = kKernel == 3 ? 64 : kKernel == 5 ? 80 : 120;
  static constexpr int kMinBlocks = kKernel == 3 ? 8 : kKernel == 5 ? 6 : 4;
  static_assert(kTileWidth % kVec == 0 && kWholeWidth <= kMaxOutputs);
};

struct PlaneGrid {
  int planes, band, width;     // outputs of a block
  int rows, row_groups;        // output rows of a thread, and threads over a band
  bool whole;                  // the block's rows are whole rows of x and y
  int pitch;                   // of a row of x in shared memory
  int tile_elements, results;  // in shared memory, multiples of a vector
  int64_t tiles_w, bands, plane_groups;

  int64_t blocks() const { return tiles_w * bands * plane_groups; }
};

template <class Traits>
int plane_bytes(const PlaneGrid& grid) {
  return (grid.tile_elements + grid.results) * static_cast<int>(sizeof(typename Traits::T)) +
         grid.planes * (Traits::kTaps + 1) * static_cast<int>(sizeof(float));
}

// The elements to have in shared memory of `length` in memory, which may begin and end inside a vector.
template <class Traits>
int64_t covering_vectors(int64_t length) {
  return (ceil_div(length, Traits::kVec) + 1) * Traits::kVec;
}

// How often to repeat `length` elements until a vector ends with them.
template <class Traits>
int64_t vector_period(int64_t length) {
  int64_t period = 1;
  while (length * period % Traits::kVec != 0) period *= 2;
  return period;
}

template <class Traits>
PlaneGrid plane_grid_of(const DwConv2dParams& p, int64_t outputs) {
  PlaneGrid grid{};
  const int64_t total = p.batch * p.channels, plane = p.out_h * p.out_w;
  const auto threads_w = [&](int64_t width) { return ceil_div(width, Traits::kColumns); };
  grid.whole = p.out_w <= Traits::kWholeWidth || p.in_w % Traits::kVec != 0 || p.out_w % Traits::kVec != 0;
  grid.width = static_cast<int>(grid.whole ? p.out_w : Traits::kTileWidth);
  grid.planes = 1;
  int64_t most_rows = p.out_h;
  if (grid.whole && 2 * plane <= outputs) {
    // As many planes as fill the threads best.
    const int64_t period = std::max(vector_period<Traits>(p.in_h * p.in_w), vector_period<Traits>(plane));
    double best = 0;
    for (int64_t planes = period; planes * plane <= std::max(outputs, period * plane); planes += period) {
      const int64_t columns = planes * threads_w(p.out_w);
      const int64_t items =
          columns * std::max<int64_t>(1, std::min(Traits::kThreads / columns, ceil_div(p.out_h, 4)));
      const double used = static_cast<double>(items) / static_cast<double>(ceil_div(items, 128) * 128);
      if (used >= best) best = used, grid.planes = static_cast<int>(planes);
    }
  } else {
    most_rows = std::clamp<int64_t>(outputs / grid.width, 1, p.out_h);
  }
  grid.bands = ceil_div(p.out_h, most_rows);
  grid.band = static_cast<int>(ceil_div(p.out_h, grid.bands));
  const int64_t columns = grid.planes * threads_w(grid.width);
  const int64_t groups = std::clamp<int64_t>(Traits::kThreads / columns, 1, ceil_div(grid.band, 4));
  grid.rows = static_cast<int>(ceil_div(grid.band, groups));
  grid.row_groups = static_cast<int>(ceil_div(grid.band, grid.rows));
  grid.tiles_w = ceil_div(p.out_w, grid.width);
  grid.plane_groups = ceil_div(total, grid.planes);

  const int64_t in_rows = (grid.band - 1) * Traits::kStride + Traits::kKernel;
  const int64_t in_columns = (grid.width - 1) * Traits::kStride + Traits::kKernel;
  const int64_t pitch = grid.whole ? p.in_w : covering_vectors<Traits>(in_columns);
  const int64_t elements = grid.planes > 1 ? grid.planes * p.in_h * p.in_w : std::min(in_rows, p.in_h) * pitch;
  grid.pitch = static_cast<int>(std::min<int64_t>(pitch, INT32_MAX));
  grid.tile_elements = static_cast<int>(std::min<int64_t>(covering_vectors<Traits>(elements), Traits::kMaxBytes));
  grid.results = static_cast<int>(
      std::min<int64_t>(covering_vectors<Traits>(grid.planes * grid.band * grid.width), Traits::kMaxBytes));
  return grid;
}

// Smaller tiles where there are fewer blocks than two an SM.
template <class Traits>
PlaneGrid plane_grid(const DwConv2dParams& p) {
  const int64_t enough_blocks = 2 * current_device().sms;
  for (int64_t outputs = Traits::kMaxOutputs;; outputs /= 2) {
    const PlaneGrid grid = plane_grid_of<Traits>(p, outputs);
    const bool fits = plane_bytes<Traits>(grid) <= Traits::kMaxBytes;
    if ((fits && grid.blocks() >= enough_blocks) || outputs <= Traits::kMinOutputs) return grid;
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    dwconv2d_nchw_planes_kernel(DwConv2dParams p, PlaneGrid grid) {
  using T = typename Traits::T;
  constexpr int kKernel = Traits::kKernel, kStride = Traits::kStride, kTaps = Traits::kTaps, kOpen = Traits::kOpen;
  constexpr int kColumns = Traits::kColumns, kInColumns = Traits::kInColumns, kVec = Traits::kVec;
  extern __shared__ uint4 memory[];
  T* const tile = reinterpret_cast<T*>(memory);
  T* const results = tile + grid.tile_elements;
  float* const weights_of_planes = reinterpret_cast<float*>(results + grid.results);  // [plane][tap], then the bias

  const DivMod block_w = divmod(blockIdx.x, grid.tiles_w), block_h = divmod(block_w.quotient, grid.bands);
  const int64_t first_plane = block_h.quotient * grid.planes;
  const int first_oh = static_cast<int>(block_h.remainder) * grid.band;
  const int first_ow = static_cast<int>(block_w.remainder) * grid.width;
  const int planes = static_cast<int>(min(static_cast<int64_t>(grid.planes), p.batch * p.channels - first_plane));
  const int band = min(grid.band, static_cast<int>(p.out_h) - first_oh);
  const int width = min(grid.width, static_cast<int>(p.out_w) - first_ow);
  const int in_h = static_cast<int>(p.in_h), in_w = static_cast<int>(p.in_w);
  const int top = first_oh * kStride - p.window.pad_top, left = first_ow * kStride - p.window.pad_left;
  // What is copied: rows first_row to last_row, from column first_column on.
  const int first_row = max(top, 0), last_row = min(top + (band - 1) * kStride + kKernel, in_h);
  const int rows = max(last_row - first_row, 0);
  const int first_column = grid.whole ? 0 : max(left, 0) & ~(kVec - 1);
  Run<T> run{(first_plane * p.in_h + first_row) * p.in_w + first_column, min(grid.pitch, in_w - first_column)};
  if (grid.whole) run.length = planes > 1 ? planes * in_h * in_w : rows * in_w;
  const int vectors = run.vectors(), runs = grid.whole ? 1 : rows;
  const T* from = static_cast<const T*>(p.x) + (run.first - run.shift());
  for (int e = threadIdx.x; e < runs * vectors; e += Traits::kThreads) {
    const int i = e / vectors, first = (e - i * vectors) * kVec;
    copy_async(tile + i * grid.pitch + first, from + i * p.in_w + first, min(kVec, run.shift() + run.length - first));
  }
  commit_async();

  for (int e = threadIdx.x; e < planes * (kTaps + 1); e += Traits::kThreads) {
    const int plane = e / (kTaps + 1), tap = e - plane * (kTaps + 1);
    const int64_t channel = divmod(first_plane + plane, p.channels).remainder;
    const T* bias = p.bias ? static_cast<const T*>(p.bias) + channel * p.bias_stride : nullptr;
    const T* weight = static_cast<const T*>(p.weight) + channel * p.weight_stride_c +
                      tap / kKernel * p.weight_stride_h + tap % kKernel * p.weight_stride_w;
    const T* source = tap < kTaps ? weight : bias;
    weights_of_planes[e] = source ? to_float(*source) : 0.f;
  }
  wait_async<0>();
  __syncthreads();

  Run<T> written{((first_plane * p.out_h + first_oh) * p.out_w + first_ow), width};
  if (grid.whole) written.length = planes * band * width;
  const int threads_w = (width + kColumns - 1) / kColumns;
  for (int e = threadIdx.x; e < planes * grid.row_groups * threads_w; e += Traits::kThreads) {
    const int group = e / threads_w, plane = group / grid.row_groups;
    const int column = (e - group * threads_w) * kColumns;
    const int first = (group - plane * grid.row_groups) * grid.rows;  // row of the band
    const int outputs = min(grid.rows, band - first);
    if (outputs <= 0) continue;  // of a last band, which may be shorter
    float weights[kTaps];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) weights[tap] = weights_of_planes[plane * (kTaps + 1) + tap];
    const float bias = weights_of_planes[plane * (kTaps + 1) + kTaps];

    int ih = top + first * kStride;
    const int iw = left + column * kStride;
    bool inside_w[kInColumns];
#pragma unroll
    for (int j = 0; j < kInColumns; ++j) inside_w[j] = inside(iw + j, in_w);
    const T* source = tile + run.shift() + (plane * in_h + ih - first_row) * grid.pitch + iw - first_column;
    T* y = results + written.shift() + (plane * band + first) * width + column;

    float x[kInColumns];
    const auto read_row = [&] {
      const bool inside_h = inside(ih, in_h);
#pragma unroll
      for (int j = 0; j < kInColumns; ++j) x[j] = inside_h && inside_w[j] ? to_float(source[j]) : 0.f;
      source += grid.pitch;
      ++ih;
    };
    // sums = before + row i of the window times x
    using Sums = float[kColumns];
    const auto add_row = [&](Sums& sums, const auto& before, int i) {
#pragma unroll
      for (int j = 0; j < kKernel; ++j) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          sums[c] = fmaf(weights[i * kKernel + j], x[c * kStride + j], j == 0 ? before(c) : sums[c]);
        }
      }
    };
    // As in dwconv2d_nhwc.cuh: in the first row of a step, output row t - d is at row d * kStride of its window.
    Sums open[kOpen] = {};
    for (int step = 0;; ++step) {
      read_row();
      if (step >= kOpen) {
        float sums[1][kColumns];
        add_row(sums[0], [&](int c) { return open[kOpen - 1][c]; }, kKernel - 1);
        activate(sums, p.activation);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          if (column + c < width) y[c] = from_float<T>(sums[0][c]);
        }
        y += width;
      }
      if (step == outputs + kOpen - 1) break;
#pragma unroll
      for (int d = kOpen - 1; d > 0; --d) {
        if (!Traits::kSkips || (step >= d && step - d < outputs))
          add_row(open[d], [&](int c) { return open[d - 1][c]; }, d * kStride);
      }
      if (!Traits::kSkips || step < outputs) add_row(open[0], [&](int) { return bias; }, 0);
      if constexpr (kStride == 2) {
        read_row();
#pragma unroll
        for (int d = kOpen - 1; d >= 0; --d) {
          if (!Traits::kSkips || (step >= d && step - d < outputs)) {
            add_row(open[d], [&](int c) { return open[d][c]; }, d * kStride + 1);
          }
        }
      }
    }
  }
  __syncthreads();

  const int written_vectors = written.vectors(), written_runs = grid.whole ? 1 : band;
  T* const to = static_cast<T*>(p.y) + (written.first - written.shift());
  for (int e = threadIdx.x; e < written_runs * written_vectors; e += Traits::kThreads) {
    const int i = e / written_vectors, first = (e - i * written_vectors) * kVec;
    const T* result = results + i * width + first;
    T* y = to + i * p.out_w + first;
    const int begin = max(written.shift() - first, 0), end = min(written.shift() + written.length - first, kVec);
    if (begin == 0 && end == kVec) {
      *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(result);
    } else {
      for (int v = begin; v < end; ++v) y[v] = result[v];
    }
  }
}

template <int kKernel, int kStride>
bool matches_nchw_planes(const DwConv2dParams& p) {
  const Window& w = p.window;
  if (!has_cuda_kernels(p.dtype) || w.kernel_h != kKernel || w.kernel_w != kKernel || w.stride_h != kStride ||
      w.stride_w != kStride || w.dilation_h != 1 || w.dilation_w != 1 || !coordinates_fit_int32(p) ||
      !is_dense_nchw(p.x, p.x_stride, p.channels, p.in_h, p.in_w) ||
      !is_dense_nchw(p.y, p.y_stride, p.channels, p.out_h, p.out_w)) {
    return false;
  }
  bool fits = false;
  dispatch_dtype(p.dtype, [&](auto type) {
    using Traits = PlaneTraits<typename decltype(type)::type, kKernel, kStride>;
    fits = plane_bytes<Traits>(plane_grid<Traits>(p)) <= Traits::kMaxBytes;
    return cudaSuccess;
  });
  return fits;
}

template <int kKernel, int kStride>
Work work_nchw_planes(const DwConv2dParams& p) {
  Work work{};
  dispatch_dtype(p.dtype, [&](auto type) {
    using Traits = PlaneTraits<typename decltype(type)::type, kKernel, kStride>;
    const PlaneGrid grid = plane_grid<Traits>(p);
    const double bytes = element_bytes(p.dtype), total = 1.0 * p.batch * p.channels;
    const int64_t in_rows = (grid.band - 1) * kStride + kKernel;
    const double rows = grid.planes > 1
                            ? static_cast<double>(p.in_h)
                            : coordinates_of_tiles(p.in_h, grid.bands, grid.band, in_rows, kStride, p.window.pad_top);
    const double columns =
        grid.whole ? static_cast<double>(p.in_w)
                   : coordinates_of_tiles(p.in_w, grid.tiles_w, grid.width, grid.pitch, kStride, p.window.pad_left);
    const double copied = total * rows * columns;
    work.blocks = grid.blocks();
    const double weights = work.blocks * static_cast<double>(grid.planes) * (Traits::kTaps + 1);
    // Threads slide over the rows of their group and those that the window adds.
    const double columns_of_threads =
        total * grid.bands * grid.row_groups * grid.tiles_w * ceil_div(grid.width, Traits::kColumns);
    const double thread_rows = (grid.rows - 1) * kStride + kKernel;
    work.threads = Traits::kThreads, work.registers = Traits::kRegisters;
    work.shared_bytes = plane_bytes<Traits>(grid);
    work.dram_bytes = tensor_bytes(p);
    // A run ends inside a sector unless it is made of whole ones; so do a block's weights.
    const double x_run = (grid.planes > 1 ? grid.planes * p.in_h : in_rows) * p.in_w * bytes;
    const double y_run = grid.planes * grid.band * grid.width * bytes;
    const double edges = (std::fmod(x_run, 32) > 0 ? 32 : 0) + (std::fmod(y_run, 32) > 0 ? 32 : 0) + 32;
    work.l2_bytes = (copied + outputs(p) + weights) * bytes + work.blocks * edges;
    // Copies are written to shared memory, results written and read there, by warps of which some are not full. A
    // lane's access takes a bank of 4 bytes, whatever the dtype. Columns that are 8 bytes apart share half of the
    // banks, and so, about, do the rows and planes that lanes of a warp work on.
    const int64_t threads_w = ceil_div(grid.width, Traits::kColumns);
    const double warps = work.blocks * std::ceil(grid.planes * grid.row_groups * threads_w / 32.0);
    const double conflict = std::max(kStride * Traits::kColumns * bytes / 4, threads_w < 32 ? 1.6 : 1.0);
    const double accesses = conflict * (thread_rows * Traits::kInColumns + grid.rows * Traits::kColumns) +
                            (grid.planes > 1 ? conflict : 1) * (Traits::kTaps + 1);
    work.l1_bytes =
        (copied + outputs(p)) * 2 * bytes + weights * (bytes + 4) + 128 * (warps * accesses + work.blocks * 8.0);
    // Of n rows of outputs those in the last rows of their windows n times, the others for kOpen - 1 more each group.
    const double group_rows = p.out_h + 1.0 * grid.bands * grid.row_groups * (Traits::kOpen - 1);
    work.ffma = Traits::kSkips ? columns_of_threads * Traits::kTaps * Traits::kColumns * grid.rows
                               : total * grid.tiles_w * threads_w * Traits::kColumns * kKernel *
                                     (p.out_h + group_rows * Traits::kOpen * kStride);
    // Of a vector that is copied in or out, a weight, and a thread: its rows, of each of which it tests where it and
    // its columns lie; its output rows, with the activation and the stores; its weights.
    const double converted = conversions(p.dtype);
    work.instructions = work.ffma + copied / Traits::kVec * 21 + outputs(p) / Traits::kVec * 33 + weights * 50 +
                        columns_of_threads * (thread_rows * (10 + Traits::kInColumns * (4 + converted)) +
                                              grid.rows * (5 + Traits::kColumns * 7) + 40 + Traits::kTaps) +
                        work.blocks * 128.0 * 145;
    return cudaSuccess;
  });
  return work;
}

template <int kKernel, int kStride>
cudaError_t launch_nchw_planes(const DwConv2dParams& p, cudaStream_t stream) {
  return dispatch_dtype(p.dtype, [&](auto type) {
    using Traits = PlaneTraits<typename decltype(type)::type, kKernel, kStride>;
    const PlaneGrid grid = plane_grid<Traits>(p);
    if (const cudaError_t error = check_grid(grid.blocks()); error != cudaSuccess) return error;
    dwconv2d_nchw_planes_kernel<Traits>
        <<<static_cast<unsigned>(grid.blocks()), Traits::kThreads, plane_bytes<Traits>(grid), stream>>>(p, grid);
    return cudaGetLastError();
  });
}

}  // namespace mbv1::cuda
