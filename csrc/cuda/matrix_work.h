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
  constexpr double kBytes = sizeof(typename Tile::T), kWarpSums = Tile::kWarpRows * Tile::kWarpColumns;
  const double macs = blocks * slices * Tile::kM * Tile::kN * Tile::kSlice;
  Work work{};
  work.blocks = static_cast<int64_t>(blocks);
  work.threads = Tile::kThreads, work.registers = 128;
  // A warp reads its rows and columns by ldmatrix. FMA threads read 4 values of K at a time, and a load of 16 bytes a
  // lane takes four widths of shared memory (128 bytes), though its rows are the same for many lanes.
  constexpr double kFmaLoads = Tile::kFmaRows + Tile::kFmaColumns;
  const double fragments = mma ? macs / kWarpSums * (Tile::kWarpRows + Tile::kWarpColumns) * kBytes
                               : macs / (kWarpSums * 4) * kFmaLoads * 512;
  const double met = Tile::kGroups > 1 ? 2.0 * blocks * Tile::kStagingBytes : 0;  // sums of the groups
  // For 16 bytes of y a lane reads 8 bytes of where its pixel lies (in NCHW its first and last), and a warp a bias.
  const double finished = blocks * Tile::kM * Tile::kN / (32 * Tile::kVec);
  work.l1_bytes = fragments + met + finished * ((Tile::kIsNhwc ? 256 : 512) + 64);
  work.ffma = mma ? 0 : macs;
  work.mma_flops = mma ? 2 * macs * (kBytes / 2) : 0;
  // An mma of 16 x 8 sums over 32 bytes of K, and the loads of fragments with their addresses; TF32 is rounded in
  // registers. By FMA the loads of 4 values of K, and their addresses.
  const double steps = macs / (kWarpSums * 32 / kBytes) * 32;
  constexpr int kFragments = Tile::kWarpRows / 16 + 2;
  const double step = Tile::kWarpRows / 16 * 4 + kFragments * (kBytes == 4 ? 7 : 3);
  const double math = mma ? steps * step : macs * (1 + (kFmaLoads + 10) / (4 * Tile::kSums));
  // A thread's slice: its wait, its place in the ring, and what the next copies have in common.
  const double slice_threads = blocks * slices * Tile::kGroupThreads;
  // The epilogue. A sum is selected among those of all rounds, or put down, read and added to those of the other
  // groups; then traded in its quad.
  const double vector = mma ? Tile::kVec : 4;
  const double selected = Tile::kGroups > 1 ? 3 * Tile::kGroups + 3 : mma ? 4.5 : 5;
  const double traded = !mma ? (Tile::kIsNhwc ? 5 : 0) : kBytes == 2 ? 5 : 2.5;
  // An output has its bias, activation, rounding and its share of what its vector needs: bounds, address and store.
  const double output = 5 + 14 / vector + (Tile::kIsNhwc ? 0 : 2.5);
  work.instructions =
      math + slice_threads * (mma ? 42 : 70) + blocks * Tile::kM * Tile::kN * (selected + traded) + outputs * output;
  return work;
}

// Copies of `bytes` from memory to shared memory: by 16 bytes each, or element by element, where neighbouring lanes
// are 16 bytes apart. `staged` are the bytes written there, with the zeros around a rest: each 16 of them have an
// address and a condition.
inline void add_copies(Work& work, double bytes, double staged, int element_bytes, bool vectors) {
  work.l2_bytes += bytes;
  work.l1_bytes += bytes * (vectors ? 1 : kVectorBytes / element_bytes) + staged;
  work.instructions += staged / kVectorBytes * 7.5 + (vectors ? 0 : bytes / element_bytes * 7);
}

// How lanes access the elements of y, or of a residual: 16 bytes each; elements that are 16 bytes apart; or
// neighbours.
enum class Lanes { kVectors, kApart, kNeighbours };

inline void add_output(Work& work, const PwConv2dParams& p, Lanes lanes) {
  const double elements = 1.0 * p.batch * p.h * p.w * p.out_channels, size = element_bytes(p.dtype);
  double bytes = elements * size;
  // Apart, two lanes share a sector, but for the first and last of the 4 or 8 elements that lie in a row where that
  // starts inside one. Runs of 32 neighbours, or to the end of a plane, end in a sector of their own.
  if (lanes == Lanes::kApart) bytes = elements * 1.2 * kVectorBytes;
  if (lanes == Lanes::kNeighbours) bytes += (elements / 32 + elements / (1.0 * p.h * p.w)) * (32 - size);
  work.l2_bytes += bytes, work.l1_bytes += bytes;
  if (lanes != Lanes::kVectors) work.instructions += elements * 5;
}

inline void add_outputs(Work& work, const PwConv2dParams& p, Layout layout, bool vectors = true) {
  const auto lanes_of = [&](const void* data, const Strides4& stride) {
    return vectors && are_vectors(data, stride, p.h, p.w, p.dtype, layout) ? Lanes::kVectors : Lanes::kApart;
  };
  Lanes y = lanes_of(p.y, p.y_stride), residual = lanes_of(p.residual, p.residual_stride);
  if (layout == Layout::kNchw && y == Lanes::kApart) {
    // A warp's 8 rows of 32 pixels, or 4 of them, pass through shared memory, and its residual is read as they lie.
    work.l1_bytes += 8.0 * p.batch * p.h * p.w * p.out_channels;
    y = residual = Lanes::kNeighbours;
  }
  add_output(work, p, y);
  if (p.residual != nullptr) add_output(work, p, residual);
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
