// Finds conflicting accesses to shared memory that no barrier separates, whatever the order in
// which the threads happened to run. Used by kernels compiled with CUDACPU_RACES=1.
//
// Each byte remembers its last write and its reads since then. Two accesses by different threads
// are ordered if a block barrier lies between them, or a __syncwarp if the threads share a warp;
// barriers of a part of the block count for the whole block, which misses races but invents none.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "scheduler/scheduler.h"

namespace cudacpu {

class RaceDetector {
 public:
  // When an access happened: epochs count barriers.
  struct Stamp {
    uint32_t block_epoch = 0;  // 0: never
    uint32_t warp_epoch = 0;
    uint32_t thread = 0;
    int line = 0;
  };
  struct Conflict {
    bool found = false;
    bool with_write = false;
    Stamp other;
  };

  explicit RaceDetector(size_t bytes) : cells_(static_cast<Cell*>(calloc(bytes, sizeof(Cell))), free) {}

  Conflict access(size_t offset, unsigned bytes, Access kind, const Stamp& now) {
    for (size_t i = offset; i < offset + bytes; ++i) {
      Cell& cell = cells_.get()[i];
      if (unordered(cell.write, now) && !(kind == Access::kAtomic && cell.write_is_atomic))
        return {true, true, cell.write};
      if (kind == Access::kRead) {
        note_read(cell, now);
        continue;
      }
      if (cell.other_reads.block_epoch && unordered(cell.other_reads, now))
        return {true, false, cell.other_reads};
      if (unordered(cell.read, now)) return {true, false, cell.read};
      cell = Cell{now, {}, {}, kind == Access::kAtomic};
    }
    return {};
  }

 private:
  // `read` is the last read; `other_reads` the last one before it by a different thread.
  struct Cell {
    Stamp write, read, other_reads;
    bool write_is_atomic;
  };

  static bool unordered(const Stamp& before, const Stamp& now) {
    if (before.block_epoch != now.block_epoch || before.thread == now.thread) return false;
    return before.thread / 32 != now.thread / 32 || before.warp_epoch == now.warp_epoch;
  }

  static void note_read(Cell& cell, const Stamp& now) {
    if (cell.read.block_epoch == now.block_epoch && cell.read.thread != now.thread)
      cell.other_reads = cell.read;
    cell.read = now;
  }

  std::unique_ptr<Cell, decltype(&free)> cells_;
};

}  // namespace cudacpu
