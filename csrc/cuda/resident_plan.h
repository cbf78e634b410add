// How design A of the depthwise-separable convolution cuts a call into blocks, and what a block needs: for its
// launch, for its `matches` and for the cost model.
#pragma once

#include <algorithm>

#include "numeric.cuh"

namespace mbv1::cuda {

constexpr int kResidentStrip = 4;  // neighbours along W that a thread makes at once

struct ResidentGrid {
  int width, height, strips_per_row;  // of a patch
  int padded_k;                       // channels, filled up to whole slices of all groups
  int log2_lanes;                     // threads side by side along the channels
  int64_t patch_rows, columns;        // patches down the stack of all rows, and along W
  int64_t output_tiles, output_groups, tiles_per_block;

  int64_t patches() const { return patch_rows * columns; }
  int64_t blocks() const { return patches() * output_groups; }
};

template <class Shape, int kElementBytes>
struct ResidentPlan {
  static constexpr int kVec = kVectorBytes / kElementBytes, kSlice = 4 * kVec;
  static constexpr int kStages = 3;  // of pointwise weights: two slices arrive while one is multiplied
  static constexpr int kStageBytes = Shape::kOutputs * (kSlice + kVec) * kElementBytes;
  static constexpr int kStaticBytes = Shape::kPixels * 32;  // places and rows

  // Dynamic shared memory of a block.
  static int64_t shared_bytes(const ResidentGrid& grid, int taps) {
    const int64_t patch = int64_t{Shape::kPixels} * (grid.padded_k + kVec) * kElementBytes;
    return patch + Shape::kGroups * kStages * kStageBytes + 2 * (taps + 1) * (kVectorBytes << grid.log2_lanes);
  }

  // The patch with the least input to read and the fewest rows of products to make, over the whole call.
  static void cut_patches(const DwConv2dParams& p, ResidentGrid& grid) {
    const int64_t rows = p.batch * p.out_h;
    int64_t best = INT64_MAX;
    for (int parts = 1; parts <= 32 && parts <= p.out_w; ++parts) {
      const int64_t width = ceil_div(p.out_w, parts);
      if (width > Shape::kPixels) continue;
      const int64_t height = std::min<int64_t>(Shape::kPixels / width, rows);
      const int64_t patches = ceil_div(rows, height) * ceil_div(p.out_w, width);
      const int64_t in_h = (height - 1) * p.window.stride_h + p.window.kernel_h;
      const int64_t in_w = (width - 1) * p.window.stride_w + p.window.kernel_w;
      // Strips that end past the patch's width are made in vain.
      const int64_t made = height * ceil_div(width, kResidentStrip) * kResidentStrip;
      const int64_t cost = patches * (in_h * in_w + made + Shape::kPixels);
      if (cost >= best) continue;
      best = cost;
      grid.width = static_cast<int>(width), grid.height = static_cast<int>(height);
    }
    if (best == INT64_MAX) {  // a very wide image
      grid.width = Shape::kPixels / 8, grid.height = static_cast<int>(std::min<int64_t>(8, rows));
    }
    grid.strips_per_row = static_cast<int>(ceil_div(grid.width, kResidentStrip));
    grid.patch_rows = ceil_div(rows, grid.height), grid.columns = ceil_div(p.out_w, grid.width);
  }

  // `sms`: of the device, to be kept busy with two blocks each.
  static ResidentGrid grid(const SeparableConv2dParams& p, int sms) {
    ResidentGrid grid{};
    grid.padded_k = static_cast<int>(ceil_div(p.dw.channels, kSlice * Shape::kGroups) * kSlice * Shape::kGroups);
    cut_patches(p.dw, grid);
    // Lanes along the channels first, as memory lies, but threads for every strip.
    const int strips = grid.height * grid.strips_per_row;
    while (grid.log2_lanes < 5 && (kVec << grid.log2_lanes) < grid.padded_k &&
           (grid.log2_lanes < 3 || (Shape::kThreads >> grid.log2_lanes) > strips)) {
      ++grid.log2_lanes;
    }
    grid.output_tiles = ceil_div(p.pw.out_channels, Shape::kOutputs);
    grid.tiles_per_block = grid.output_tiles;
    // Groups of warps meet in memory that the next tile's weights would need.
    if (Shape::kGroups > 1) grid.tiles_per_block = 1;
    while (grid.tiles_per_block > 1 && grid.patches() * ceil_div(grid.output_tiles, grid.tiles_per_block) < 2 * sms) {
      grid.tiles_per_block = ceil_div(grid.tiles_per_block, 2);
    }
    grid.output_groups = ceil_div(grid.output_tiles, grid.tiles_per_block);
    return grid;
  }
};

}  // namespace mbv1::cuda
