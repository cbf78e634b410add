// What the depthwise-separable kernels do, for the cost model.
#pragma once

#include <cmath>
#include <numeric>

#include "matrix_work.h"
#include "separable_bands.h"
#include "separable_conv2d.h"

namespace mbv1::cuda {

// Of `out` windows, those whose tap at `first` from the window's start (less the padding) lies inside `in`.
inline int64_t windows_inside(int64_t in, int64_t out, int64_t stride, int64_t first) {
  const int64_t before = first < 0 ? ceil_div(-first, stride) : 0;
  const int64_t up_to = first < in ? std::min(out, ceil_div(in - first, stride)) : 0;
  return std::max<int64_t>(0, up_to - before);
}

// Rows of all windows, or their columns, that lie inside x.
inline double lines_inside(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
  double lines = 0;
  for (int64_t i = 0; i < kernel; ++i) lines += windows_inside(in, out, stride, i * dilation - pad);
  return lines;
}

// Rows of windows that lie inside x, over all output rows of an image.
inline double window_rows(const DwConv2dParams& p) {
  const Window& w = p.window;
  return lines_inside(p.in_h, p.out_h, w.kernel_h, w.stride_h, w.dilation_h, w.pad_top);
}

// The same of the columns.
inline double window_columns(const DwConv2dParams& p) {
  const Window& w = p.window;
  return lines_inside(p.in_w, p.out_w, w.kernel_w, w.stride_w, w.dilation_w, w.pad_left);
}

// Rows of x under patches of `pixels` of the stack of all images, whose rows have `width`: of every stretch of a
// patch inside one image, with the rows that its windows overhang, and twice for rows that are cut.
inline double rows_under(const DwConv2dParams& p, int64_t pixels, int64_t patches, int64_t width = 1) {
  const double rows = 1.0 * p.batch * p.out_h, all = rows * width;
  const double stretches = patches + p.batch - std::ceil(all / std::lcm<int64_t>(pixels, p.out_h * width));
  const double cut_rows = patches - std::ceil(all / std::lcm<int64_t>(pixels, width));
  const double overhang = p.window.kernel_h - p.window.stride_h;
  return (rows + cut_rows) * p.window.stride_h + (stretches - p.batch) * overhang;
}

// The depthwise half: FMAs, and elements of x, of its weights and of its result that pass through L1 or shared
// memory.
struct Depthwise {
  double macs, loads, taps, stores;
};

inline void add_depthwise(Work& work, const Depthwise& dw, double element_bytes) {
  work.l1_bytes += (dw.loads + dw.taps + dw.stores) * element_bytes;
  work.ffma += dw.macs;
}

// A block's depthwise weights, which its threads fetch one by one, and what finds each.
inline void add_taps(Work& work, double taps, int element_bytes, double instructions) {
  const double instructions_before = work.instructions;
  add_copies(work, taps * element_bytes, taps * element_bytes, element_bytes, false);
  work.instructions = instructions_before + taps * instructions;
}

// ---- design A ----

// Of one row of x, the elements that the strips of an output row read.
inline double columns_of_strips(const DwConv2dParams& p, const ResidentGrid& grid) {
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
  const Depthwise dw{.macs = strips * kKernel * kResidentStrip,
                     .loads = window_rows_made * columns_of_strips(p.dw, grid),
                     .taps = strips * kKernel + pixels / kResidentStrip * 2 * channels * groups,
                     .stores = pixels * channels * groups};
  add_depthwise(work, dw, kBytes);
  // Of a vector of channels of a strip: for each row its bounds, those and the loads of its inputs, and its weights;
  // once its place and bias. Inputs are converted at each use. Then activation, rounding and stores.
  const double inputs = (kResidentStrip - 1) * w.stride_w + kKernel;
  work.instructions += dw.macs * (1 + conversions(p.dw.dtype)) + dw.taps * conversions(p.dw.dtype) +
                       strips / Tile::kVec * (13 + inputs * 10 + kKernel * 3) +
                       dw.stores / kResidentStrip / Tile::kVec * 26 + dw.stores * (3 + 18. / Tile::kVec);
  add_taps(work, grid.blocks() * channels * (taps(w) + (p.dw.bias != nullptr)), sizeof(T), 36);
  add_copies(work, patches * outputs * channels * kBytes,
             patches * grid.output_tiles * Tile::kOutputs * grid.padded_k * kBytes, sizeof(T),
             weights_are_vectors(p.pw));
  add_outputs(work, p.pw, Layout::kNhwc);
  work.instructions += 1.0 * work.blocks * (Tile::kThreads * 200 + Tile::kPixels * 120);

  // Taps, then rows of x for every strip of every group of channels; the weights arrive meanwhile, in the ring.
  const double strip_rounds =
      std::ceil(1.0 * grid.height * grid.strips_per_row / (Shape::kThreads >> grid.log2_lanes));
  const double channel_rounds = std::ceil(channels / (Tile::kVec << grid.log2_lanes));
  work.round_trips = 1 + channel_rounds * strip_rounds * kKernel +
                     grid.tiles_per_block * slices / Shape::kGroups / (Traits::Plan::kStages - 1);
  return work;
}

// ---- design B, NCHW ----

// Cycles of the banks of shared memory in which the threads of a band read a word each, for their pixels of a
// channel.
inline double word_wavefronts(const BandGrid& grid, const DwConv2dParams& p) {
  constexpr int kBanks = 32, kBankBytes = 4;
  const int word_bytes = grid.columns * static_cast<int>(element_bytes(p.dtype));
  const int64_t words_of_row = grid.width / grid.columns, words = grid.pixels / grid.columns;
  const int64_t lanes = std::min(32, kBanks * kBankBytes / word_bytes);  // served at a time
  double wavefronts = 0;
  for (int64_t first = 0; first < words; first += lanes) {
    int in_bank[kBanks] = {}, most = 0;
    int64_t next = 0;  // after what lanes read so far, at ever higher addresses
    for (int64_t i = first; i < std::min(first + lanes, words); ++i) {
      const int64_t row = i / words_of_row, column = i % words_of_row;
      const int64_t start = (row * grid.row_vectors * kVectorBytes + column * word_bytes) * p.window.stride_h;
      const int64_t end = start + word_bytes;
      for (next = std::max(next, start / kBankBytes); next * kBankBytes < end; ++next) {
        most = std::max(most, ++in_bank[next % kBanks]);
      }
    }
    wavefronts += most;
  }
  return wavefronts;
}

// Of one row of x, the elements that the bands across it copy.
inline double columns_of_bands(const BandGrid& grid, const DwConv2dParams& p) {
  if (grid.parts == 1) return static_cast<double>(p.in_w);
  const int64_t run = grid.row_vectors * vector_size(p.dtype);
  double columns = 0;
  for (int64_t part = 0; part < grid.parts; ++part) {
    columns += std::min(run, p.in_w - grid.first_column(part, p.window.stride_w));
  }
  return columns;
}

template <class T, bool kTf32, class Shape>
Work bands_work(const SeparableConv2dParams& p) {
  using Traits = BandTraits<T, kTf32, Shape>;
  using Tile = typename Traits::Tile;
  constexpr double kBytes = sizeof(T), kWavefront = 128, kWarp = 32;
  const BandGrid grid = Traits::grid(p);
  const Window& w = p.dw.window;
  const double pixels = 1.0 * p.dw.batch * p.dw.out_h * p.dw.out_w, outputs = p.pw.out_channels;
  const double slices = ceil_div(p.dw.channels, Tile::kSlice), channels = p.dw.channels;
  Work work = product_work<Tile>(grid.blocks(), slices, pixels * outputs);
  work.shared_bytes = static_cast<int>(Traits::shared_bytes(grid)) + Traits::kStaticBytes;
  work.registers = Traits::kIsWide ? 168 : 128;
  work.dram_bytes = tensor_bytes(p);
  // A band's rows of a channel lie together, in all but the outermost sectors. Parts of rows are of whole sectors.
  const double tiles = 1.0 * grid.bands * grid.parts;
  const bool aligned = grid.parts > 1 || grid.row_vectors * Tile::kVec == p.dw.in_w;
  const double x_bytes =
      rows_under(p.dw, grid.pixels, grid.bands, grid.width) * columns_of_bands(grid, p.dw) * kBytes +
      (aligned ? 0 : tiles * 30);
  const double staged = grid.blocks() * slices * Tile::kSlice, copies = staged * grid.copies;
  add_copies(work, x_bytes * channels * grid.output_tiles, copies * kVectorBytes, sizeof(T), true);
  add_copies(work, tiles * outputs * channels * kBytes, staged * Tile::kOutputs * kBytes, sizeof(T),
             weights_are_vectors(p.pw));
  add_taps(work, grid.blocks() * channels * (taps(w) + 1), sizeof(T), 7);
  add_outputs(work, p.pw, Layout::kNchw, grid.starts_with_vectors(p.dw.out_w, Tile::kVec));
  // For its pixels of a channel a warp reads three words a lane of each row, and the row's taps, 16 bytes a lane in
  // four wavefronts; then it stores them.
  constexpr int kWords = 3;
  const double made = slices * Tile::kSlice * grid.output_tiles;  // channels of a pixel, over the blocks
  // Threads make their words whether or not the second exists. Warps share the channels out where one has too few.
  const int words = Traits::words_at_once(grid.columns), word_pixels = words * grid.columns;
  const double threads = Traits::kPixels / word_pixels;
  const double band = grid.pixels, last = std::max(1., pixels - (tiles - 1) * band);
  const auto busy = [&](double n) { return std::min(n / grid.columns, threads); };  // threads, of `n` pixels
  const double made_pixels = ((tiles - 1) * busy(band) + busy(last)) * word_pixels;
  const double warps = threads < kWarp ? tiles * threads / kWarp
                                       : (tiles - 1) * std::ceil(busy(band) / kWarp) + std::ceil(busy(last) / kWarp);
  const double stored = words * std::max(1., kWarp * grid.columns * kBytes / kWavefront);
  work.l1_bytes +=
      made * (pixels / band * word_wavefronts(grid, p.dw) * kWords * w.kernel_h + warps * (4 * w.kernel_h + stored)) *
      kWavefront;
  const double macs = made_pixels * made * taps(w);
  work.ffma += macs;
  // A word is a load, its condition, its address and conversions; a thread's words share a row's bounds and taps.
  const double word = 4.6 + 1.1 * std::min(grid.columns, 2) + conversions(p.dw.dtype) * (0.6 + 0.45 * grid.columns);
  constexpr double row = 9.4;
  work.instructions += macs + made_pixels / grid.columns * made * w.kernel_h * (kWords * word + row / words) +
                       copies * 31 + 1.0 * grid.blocks() * Traits::kThreads * 150;
  work.round_trips = 1 + std::ceil(slices / (grid.stages - 1));
  return work;
}

// ---- design B ----

// The depthwise half of slices in NCHW, where a lane reads a pixel of vector_size() channels, one after another.
inline void add_depthwise_nchw(Work& work, const DwConv2dParams& p, double tiles, int tile_pixels,
                               double output_tiles) {
  constexpr double kSector = 32, kWarp = 32, kWavefront = 128;
  const Window& w = p.window;
  const double bytes = element_bytes(p.dtype), size = vector_size(p.dtype);
  const double width = static_cast<double>(p.out_w), planes = p.channels * output_tiles;
  // Runs of pixels that lie in one row, of a warp and of a tile: one, and another where a row ends inside.
  const auto runs = [&](int pixels) {
    return 1 + static_cast<double>(pixels - std::gcd<int64_t>(pixels, p.out_w)) / width;
  };
  // The rows that the windows of a tile share meet in L1; those over the cut between two tiles come again, in tiles
  // below one another. What a tile reads of a plane is one run of memory, or one for each row of windows that are
  // part of a row; it starts and ends inside sectors, and windows overhang it.
  const double cuts = std::max(0., std::min(tiles, 1.0 * p.batch * p.out_h) - p.batch);
  const double overhang_h = std::max(0, w.kernel_h - w.stride_h), overhang_w = std::max(0, w.kernel_w - w.stride_w);
  const double rows = 1.0 * p.batch * p.in_h + cuts * overhang_h;
  const double tile_runs = tile_pixels < width ? runs(tile_pixels) * w.kernel_h : 1;
  work.l2_bytes += planes * (rows * covered_width(p) * bytes +
                             tiles * tile_runs * (kSector - bytes + (tile_runs > 1 ? overhang_w * bytes : 0)));
  // A warp's load takes the sectors of its pixels' elements, which lie one after another in rows, and at stride 1
  // from row to row; weights are 16 bytes a lane.
  const double taps_inside = p.batch * window_rows(p) * window_columns(p);
  const double loads = p.batch * window_rows(p) * width * w.kernel_w, lane_bytes = w.stride_w * bytes;
  const double load_sectors = (w.stride_w == 1 ? 1 : runs(32)) * (1 - lane_bytes / kSector) + lane_bytes;
  const double made = tiles * tile_pixels * planes;  // of which some do not exist
  work.l1_bytes += loads * planes * load_sectors * kSector / kWarp + made * taps(w) * bytes +
                   made / kWarp * std::max(kWavefront, kWarp * bytes);
  work.ffma += taps_inside * planes;
  // A load, its address and condition, and, of 2 bytes, conversions; bounds and addresses of a tap for all channels.
  work.instructions += taps_inside * planes * (1 + 9 + 30 / size + 2 * conversions(p.dtype)) + made * 6;
}

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
  const Window& w = p.dw.window;
  const double middle = pixels * channels * output_tiles;
  if (kLayout == Layout::kNhwc) {
    // A tile is a run of pixels: the rows of x that its windows share meet in L1, those of its neighbours in L2.
    const double tile_rows = Tile::kPixels / static_cast<double>(p.dw.out_w) + 1;
    const double in_rows = std::min((tile_rows - 1) * w.stride_h + w.kernel_h * 1.0, 1.0 * p.dw.in_h * p.dw.batch);
    const double run = std::min<double>(covered_width(p.dw), Tile::kPixels * w.stride_w + w.kernel_w);
    work.l2_bytes = pixel_tiles * output_tiles * in_rows * run * channels * kBytes;
    const bool x_vectors = channels_are_vectors(p.dw.x, p.dw.x_stride, p.dw.dtype);
    const double macs = middle * taps(w);
    add_depthwise(work, {.macs = macs, .loads = macs, .taps = macs, .stores = middle}, kBytes);
    // Of a tap of a vector of channels its bounds and addresses; then bias, activation and rounding.
    work.instructions += macs * (1 + 2 * conversions(p.dw.dtype) + (x_vectors ? 24. / Tile::kVec : 14)) +
                         middle * 13 + 1.0 * work.blocks * Tile::kThreads * 250;
  } else {
    add_depthwise_nchw(work, p.dw, pixel_tiles, Tile::kPixels, output_tiles);
    work.instructions += 1.0 * work.blocks * Tile::kThreads * 250;
  }
  add_taps(work, work.blocks * channels * taps(w), sizeof(T), 27);
  add_copies(work, pixel_tiles * outputs * channels * kBytes,
             work.blocks * slices * Tile::kSlice * Tile::kOutputs * kBytes, sizeof(T), weights_are_vectors(p.pw));
  add_outputs(work, p.pw, kLayout);
  work.round_trips = 1 + slices * (kKernel == 3 ? 3 : taps(w) / 2);
  return work;
}

}  // namespace mbv1::cuda
