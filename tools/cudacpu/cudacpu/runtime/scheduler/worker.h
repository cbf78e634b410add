// A worker: the fibers, barriers and shared memory of the block that it runs (see scheduler.h).
#pragma once
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/counts.h"
#include "scheduler/races.h"
#include "scheduler/sanitizer_hooks.h"
#include "scheduler/scheduler.h"

namespace cudacpu {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxWarps = kMaxThreads / kWarpSize;
constexpr uint32_t kBarriers = 16;
constexpr size_t kStackBytes = 128 << 10;        // of a fiber; holds registers and .local arrays
constexpr size_t kSharedArenaBytes = 512 << 10;  // the largest GPU limit, 227 KiB, and gaps
constexpr size_t kSharedGap = 256;               // between shared-memory objects
constexpr uint32_t kSpinLimit = 2'000'000;

enum class State { kReady, kAtBarrier, kInCollective, kDone };

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  void* asan_fake_stack = nullptr;
  void* tsan = nullptr;
  State state = State::kDone;
  uint32_t index = 0;
  Dim3 thread{};
  uint32_t barrier = 0;
  uint32_t mask = 0;
  const char* operation = nullptr;
  Site site{};
  alignas(16) Words in, out;
  AsyncCopies copies;
};

struct Warp {
  uint32_t waiting = 0;  // lanes inside a collective
  uint32_t exited = 0;   // lanes that returned, or that the block does not have
  uint32_t generation = 0;
};

// What bar.red computes from the threads' predicates.
struct Predicates {
  uint32_t count = 0;
  bool all = true;
  bool any = false;
};

struct Barrier {
  uint32_t arrived = 0;
  uint32_t expected = 0;
  uint32_t generation = 0;
  Predicates collecting, result;
};

// Xorshift: shuffling is a large part of a barrier's cost.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint32_t below(uint32_t bound) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return (state_ >> 32) * bound >> 32;
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t state_;
};

struct Launch {
  const Kernel* kernel;
  Dim3 grid, block;
  uint32_t threads;
  size_t dynamic_shared;
  const unsigned char* parameters;
  std::vector<uint32_t> block_order;
  std::atomic<size_t> next_block{0};
  std::atomic<bool> failed{false};
  std::mutex error_mutex;
  LaunchError error;
  Counts counts;  // guarded by error_mutex
};

extern uint32_t global_seed;

inline std::string triple(Dim3 d) {
  char text[64];
  snprintf(text, sizeof text, "(%u,%u,%u)", d.x, d.y, d.z);
  return text;
}

inline Dim3 unflatten(uint32_t i, Dim3 shape) {
  return Dim3{i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
}

inline std::string location(Site site) {
  if (!site.file || !site.line) return "";
  return std::string(", ") + site.file + ":" + std::to_string(site.line);
}

// Runs blocks, one after the other, on its own set of fibers.
class __attribute__((visibility("hidden"))) Worker {
 public:
  Worker();
  void run(Launch& launch);

  void barrier_wait(uint32_t id, uint32_t count, Site site, bool predicate, bool arrive_only);
  void collective(uint32_t mask, const char* operation, const uint32_t* in, int in_words, uint32_t* out,
                  int out_words, Resolve resolve, Site site);
  [[noreturn]] void fail(ErrorCode code, const std::string& what, Site site);
  void yield_to_others(Site site);
  void tsan_warp_edge(bool release, uint32_t generation);
  void check_race(uint64_t address, unsigned bytes, Access kind, Site site);

  Launch* launch_ = nullptr;
  Fiber* current_ = nullptr;
  Dim3 block_{};
  Warp warps_[kMaxWarps];
  Barrier barriers_[kBarriers];
  char* dynamic_shared_ = nullptr;
  struct Placed {
    const void* key;
    char* address;
    uint32_t bytes;
  };
  std::vector<Placed> placed_;
  Counts counts_;

 private:
  static void fiber_main();
  void lay_out_shared();
  char* place(size_t alignment, uint32_t bytes);
  void clear_shared();
  void start_fibers();
  void run_block(uint32_t index);
  void switch_to_scheduler();
  void switch_to_fiber(Fiber* fiber);
  bool release_whole_block_barrier();
  const Fiber& a_waiting_fiber() const;
  void release_barrier(uint32_t id);
  void report_deadlock();
  void record(ErrorCode code, const std::string& what, Site site, const Fiber* fiber);

  std::vector<Fiber> fibers_;
  std::vector<uint32_t> order_;
  char* stacks_;
  char* shared_;
  size_t shared_used_ = 0;
  uint32_t alive_ = 0;
  uint32_t spins_ = 0;        // polls since a barrier or collective completed or a thread finished
  uint32_t block_epoch_ = 0;  // counts barriers and blocks, for the race detector
  std::unique_ptr<RaceDetector> races_;
  void* main_sp_ = nullptr;
  void* main_fake_stack_ = nullptr;
  void* main_tsan_ = nullptr;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;
  // Objects that carry happens-before edges to ThreadSanitizer. Two per barrier: a thread late to
  // leave one phase must not appear to synchronise with arrivals at the next.
  char barrier_edge_[kBarriers][2];
  char warp_edge_[kMaxWarps][2];
  char launch_end_ = 0;
};

// The calling OS thread's.
inline thread_local Worker* worker __attribute__((visibility("hidden"))) = nullptr;

}  // namespace cudacpu
