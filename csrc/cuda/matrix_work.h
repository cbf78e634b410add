// What the matrix kernels do, for the cost model: the part that a Tile of matrix_tile.cuh decides.
#pragma once

#include "device.h"
#include "matrix_tile.cuh"
#include "work.h"

namespace mbv1::cuda {

// Of `blocks` tiles of `slices` slices each: products and epilogue, from shared memory on. `outputs` of the products
// exist; the rest of the tiles is multiplied in vain.
template <class Tile>
Work product_work(double blocks, double slices, double outputs) {
  // Turing's tensor cores multiply float16 only.
  const bool mma = kHasMma<typename Tile::T, Tile::kUsesTf32> &&
                   (std::is_same_v<typename Tile::T, __half> || current_device().capability >= 80);
  constexpr double kBytes = sizeof(typename Tile::T), kWarpSums = Tile::kWarpRows * 32;
  const double macs = blocks * slices * Tile::kM * Tile::kN * Tile::kSlice;
  Work work{};
  work.blocks = static_cast<int64_t>(blocks);
  work.threads = Tile::kThreads, work.registers = 128;
  // A warp reads its rows and columns by ldmatrix; FMA threads read 4 values of K at a time, with a full width of
  // shared memory (128 bytes) a load, as its rows are the same for many lanes.
  const double fragments = mma ? macs / kWarpSums * (Tile::kWarpRows + 32) * kBytes
                               : macs / (kWarpSums * 4) * (Tile::kWarpRows / 4 + 4) * 128;
  const double met = Tile::kGroups > 1 ? 2.0 * blocks * Tile::kStagingBytes : 0;  // sums of the groups
  work.l1_bytes = fragments + met;
  work.ffma = mma ? 0 : macs;
  work.mma_flops = mma ? 2 * macs * (kBytes / 2) : 0;
  // An mma of 16 x 8 sums over 32 bytes of K, and the loads of fragments; TF32 is rounded in registers.
  const double steps = macs / (kWarpSums * 32 / kBytes) * 32;
  constexpr int kFragments = Tile::kWarpRows / 16 + 2;
  const double step = Tile::kWarpRows / 16 * 4 + kFragments * (kBytes == 4 ? 5 : 1) + 2;
  const double math = mma ? steps * step : macs * (1 + (Tile::kWarpRows / 4 + 4) / (4.0 * Tile::kWarpRows));
  constexpr double kEpilogue = 14;  // selection, trade, bias, activation, rounding and bounds, of an output
  work.instructions = math + blocks * Tile::kM * Tile::kN * 4 + outputs * (kEpilogue - 4);
  return work;
}

// Copies to shared memory, `bytes` of them: by 16 bytes each, or element by element.
inline void add_copies(Work& work, double bytes, int element_bytes, bool vectors) {
  work.l2_bytes += bytes;
  work.l1_bytes += bytes * (vectors ? 1 : 2);  // into shared memory; without cp.async also through registers
  work.instructions += vectors ? bytes / kVectorBytes * 5 : bytes / element_bytes * 7;
}

// `slices` slices of K for `blocks` tiles whose operands come from memory, `stages` slices in flight at a time.
template <class Tile>
Work tile_work(double blocks, double slices, double dram_bytes, double y_bytes, bool vectors, int shared_bytes,
               int stages) {
  constexpr double kBytes = sizeof(typename Tile::T);
  Work work = product_work<Tile>(blocks, slices, y_bytes / kBytes);
  add_copies(work, blocks * slices * (Tile::kM + Tile::kN) * Tile::kSlice * kBytes, sizeof(typename Tile::T),
             vectors);
  work.shared_bytes = shared_bytes;
  work.dram_bytes = dram_bytes;
  work.l2_bytes += y_bytes, work.l1_bytes += y_bytes;
  work.round_trips = 1 + slices / stages;
  return work;
}

template <class Count>
Work work_of_dtype(DType dtype, Count count) {
  Work work{};
  dispatch_dtype(dtype, [&](auto type) {
    work = count(type);
    return cudaSuccess;
  });
  return work;
}

}  // namespace mbv1::cuda
