// Interface between translated kernels, the launchers and the block scheduler.
//
// A CUDA thread is a fiber. One worker (an OS thread) runs one block at a time: it resumes the
// block's fibers in random order, and a fiber gives up control only where CUDA threads may wait for
// each other: barriers, warp collectives and spinning on memory. Between two such points a thread
// runs undisturbed, so any result that depends on the order of threads changes with the seed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"

namespace cudacpu {

struct Dim3 {
  uint32_t x, y, z;
};

// Where in the .cu file an operation comes from (translated code carries #line directives).
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Site{file, line};
  }
};

// Numbers as in cudaError_t.
enum ErrorCode : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kInvalidConfiguration = 9,
  kNoKernelImage = 209,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchTimeout = 702,
  kAssert = 710,
  kMisalignedAddress = 716,
  kLaunchFailure = 719,
};

struct LaunchError {
  ErrorCode code = kSuccess;
  std::string message;
  explicit operator bool() const { return code != kSuccess; }
};

// ---- tables that translated code exports ----

struct Parameter {
  uint32_t offset, bytes;
};

struct SharedObject {
  const void* key;
  const char* name;
  uint32_t bytes, alignment;
};

struct Kernel {
  const char* name;
  void (*entry)(const unsigned char* parameters);
  const char* unsupported;  // why the kernel could not be translated, or null
  const Parameter* parameters;
  uint32_t parameter_count, parameter_bytes;
  const SharedObject* shared;
  uint32_t shared_count;
  uint32_t local_bytes;
  uint32_t max_threads;  // __launch_bounds__, or 0
};

struct Variable {
  const char* name;
  uint64_t* address;  // filled in when the module is loaded
  const void* initial;
  size_t bytes;
};

struct Module {
  const Kernel* kernels;
  size_t kernel_count;
  const Variable* variables;
  size_t variable_count;
};

void load_module(const Module& module);

// ---- launching ----

struct DeviceLimits {
  uint32_t default_shared_bytes = 48 << 10;
  uint32_t opt_in_shared_bytes = 163 << 10;
};

// A kernel's name as C++ source would spell it, cut to a readable length.
std::string readable_name(const char* mangled);
uint32_t static_shared_bytes(const Kernel& kernel);
// `shared_limit` is what cudaFuncSetAttribute(MaxDynamicSharedMemorySize) allowed, or 0.
LaunchError check_launch(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                         uint32_t dynamic_limit, const DeviceLimits& limits);
LaunchError launch(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                   const unsigned char* parameters);
// Seed 0: lanes and blocks in index order. Any other seed: random orders that depend on it only.
void set_seed(uint32_t seed);

// ---- called by translated code ----

Dim3 thread_index();
Dim3 block_index();
Dim3 block_dim();
Dim3 grid_dim();
uint32_t lane_index();
uint32_t warp_index();
uint32_t active_lanes();
uint32_t dynamic_shared_size();
uint32_t total_shared_size();
uint64_t dynamic_shared_base();
uint64_t shared_object(const void* key);

constexpr uint32_t kWholeBlock = 0;
enum class Reduction { kPopc, kAnd, kOr };
void barrier(uint32_t id, uint32_t thread_count, Site site = Site::here());
void barrier_arrive(uint32_t id, uint32_t thread_count, Site site = Site::here());
uint32_t barrier_reduce(Reduction kind, uint32_t id, uint32_t thread_count, bool predicate,
                        Site site = Site::here());
void warp_sync(uint32_t mask, Site site = Site::here());

// A warp collective: every lane of `mask` deposits input words; the last to arrive computes all
// outputs with `resolve`. `operation` identifies what the lanes must agree on.
constexpr int kMaxWords = 16;
using Words = uint32_t[kMaxWords];
using Resolve = void (*)(const Words* const* in, Words* const* out, uint32_t mask);
void collective(uint32_t mask, const char* operation, const uint32_t* in, int in_words, uint32_t* out,
                int out_words, Resolve resolve, Site site);

// Lets the other threads of the block run; called from loads that a thread may spin on.
void spin(Site site);

// Reports a race in shared memory (races.h); called for every access in race-checking builds.
enum class Access { kRead, kWrite, kAtomic };
void check_race(uint64_t address, unsigned bytes, Access kind, Site site);

// Counting builds (counts.h) report each access, with the instruction that makes it and the iterations of the loops
// around it, and each basic block that a thread enters.
constexpr int kInstructionClasses = 11;  // counts.py names them
struct Position {
  uint32_t instruction;
  uint64_t iteration;
};
void count_access(const Position& position, uint64_t address, unsigned bytes, Access kind, bool async);
void count_instructions(const uint32_t* of_class);

[[noreturn]] void fail(ErrorCode code, const char* what, Site site);
[[noreturn]] void fail_access(uint64_t address, unsigned bytes, const char* access, Site site);

// cp.async: the bytes land at the wait, so that a missing wait shows as stale data.
struct AsyncCopy {
  unsigned char* destination;
  const unsigned char* source;
  uint32_t bytes, source_bytes;
};
struct AsyncCopies {
  std::vector<AsyncCopy> open;
  std::vector<std::vector<AsyncCopy>> groups;
  // Bytes of global memory: under way, and the most that ever were.
  uint32_t pending = 0, most_pending = 0;
};
AsyncCopies& async_copies();

}  // namespace cudacpu
