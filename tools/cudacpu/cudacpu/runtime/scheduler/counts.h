// Counts what a launch does: memory accesses as warps make them, distinct bytes, and instructions by class.
// Used by kernels compiled with CUDACPU_COUNTS=1; the others never call it.
//
// The lanes of a warp run one after another here, so their accesses are put together afterwards: those of the
// same instruction in the same iteration of the loops around it are one request, as they are on a GPU whose
// warps reconverge. An access that lanes leave out (past a border, say) leaves them out of the request.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "scheduler/scheduler.h"

namespace cudacpu {

// What a request moves, and how. A cp.async reads global memory past L1 (kAsync) and writes shared memory.
enum class Path { kGlobalLoad, kGlobalStore, kAsync, kSharedLoad, kSharedStore, kLocal };
constexpr int kPaths = 6;

struct PathCounts {
  uint64_t requests = 0;
  uint64_t bytes = 0;         // of all lanes
  uint64_t useful_bytes = 0;  // distinct within each request
  uint64_t sectors = 0;       // of 32 bytes, distinct within each request; of global memory
  uint64_t wavefronts = 0;    // cycles of the 32 banks; of shared memory

  void add(const PathCounts& other);
};

constexpr int kWidths = 5;  // accesses of 1, 2, 4, 8 and 16 bytes a lane

// 512 bytes of global memory, of which each allocation has some to itself.
struct Chunk {
  static constexpr unsigned kBytes = 512;
  std::array<uint64_t, kBytes / 64> loaded{}, stored{};  // a bit a byte
  PathCounts load, store;
  std::array<uint64_t, kWidths> load_widths{}, store_widths{};  // bytes

  void add(const Chunk& other);
};

// The counts of a worker, which its blocks add to; then of a launch.
class Counts {
 public:
  void access(uint32_t warp, uint32_t lane, const Position& position, uint64_t address, unsigned bytes,
              Path path);
  void instructions(const uint32_t* of_class);
  void asynchronous(uint64_t most_bytes) { async_bytes_ += most_bytes; }
  void start_block(uint64_t index);
  void end_block();
  void add(const Counts& other);
  void clear();
  bool empty() const { return !any_; }
  std::string json(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared) const;

 private:
  struct Key {
    uint64_t iteration;
    uint32_t instruction, warp;
    Path path;
    bool operator==(const Key& other) const {
      return iteration == other.iteration && instruction == other.instruction && warp == other.warp &&
             path == other.path;
    }
  };
  struct Hash {
    size_t operator()(const Key& key) const {
      const uint64_t mixed =
          key.iteration ^ (uint64_t(key.instruction) << 32 | key.warp << 3 | uint32_t(key.path));
      return mixed * 0x9E3779B97F4A7C15ull >> 16;
    }
  };
  struct Request {
    uint32_t lanes = 0;
    unsigned bytes = 0;
    std::array<uint64_t, 32> addresses;
  };

  void finish(const Request& request, Path path);
  void finish_global(const Request& request, Path path, PathCounts counts);
  Chunk& chunk(uint64_t address);

  std::unordered_map<Key, std::vector<Request>, Hash> open_;  // of the block that runs
  std::unordered_set<uint64_t> block_sectors_;                // that it loaded through L1
  std::array<PathCounts, kPaths> paths_{};
  std::array<uint64_t, kInstructionClasses> instructions_{};
  std::unordered_map<uint64_t, Chunk> chunks_;
  using Waves = std::unordered_map<uint64_t, std::unordered_set<uint64_t>>;  // sectors of each wave of blocks
  Waves wave_loads_, wave_stores_;
  uint64_t wave_ = 0;
  uint64_t l2_load_sectors_ = 0;
  uint64_t async_bytes_ = 0;  // the most that each thread had under way, added up
  bool any_ = false;
};

// JSON of the launches since the last call, one a line.
std::string take_counts();
void keep_counts(const std::string& launch);

}  // namespace cudacpu
