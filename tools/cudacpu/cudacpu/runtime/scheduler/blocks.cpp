// Blocks: shared memory, the order in which threads run, and the report when none can.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "scheduler/worker.h"

namespace cudacpu {

Worker::Worker() : fibers_(kMaxThreads) {
  stacks_ = static_cast<char*>(map_stacks(kStackBytes * kMaxThreads));
  shared_ = static_cast<char*>(map_low(kSharedArenaBytes));
  for (uint32_t i = 0; i < kMaxThreads; ++i) fibers_[i].stack = stacks_ + i * kStackBytes;
}

void Worker::run(Launch& launch) {
  launch_ = &launch;
  if (__tsan_get_current_fiber) main_tsan_ = __tsan_get_current_fiber();
  order_.resize(launch.threads);
  lay_out_shared();
  while (!launch.failed) {
    const size_t i = launch.next_block++;
    if (i >= launch.block_order.size()) break;
    run_block(launch.block_order[i]);
  }
  mark_unaddressable(shared_, kSharedArenaBytes);
  if (!counts_.empty()) {
    std::lock_guard<std::mutex> lock(launch.error_mutex);
    launch.counts.add(counts_);
    counts_.clear();
  }
  if (__tsan_acquire) __tsan_acquire(&launch_end_);
}

// ---- shared memory: laid out once per launch, with gaps between objects ----

char* Worker::place(size_t alignment, uint32_t bytes) {
  shared_used_ = (shared_used_ + kSharedGap + alignment - 1) / alignment * alignment;
  char* p = shared_ + shared_used_;
  shared_used_ += bytes;
  return p;
}

void Worker::lay_out_shared() {
  const Kernel& kernel = *launch_->kernel;
  shared_used_ = 0;
  placed_.clear();
  for (uint32_t i = 0; i < kernel.shared_count; ++i) {
    const SharedObject& object = kernel.shared[i];
    char* p = place(std::max(object.alignment, kGranule), object.bytes);
    placed_.push_back({object.key, p, object.bytes});
    mark_addressable(p, object.bytes);
  }
  // Dynamic shared memory comes last. Real hardware promises 16-byte alignment for it.
  dynamic_shared_ = place(1024, launch_->dynamic_shared);
  mark_addressable(dynamic_shared_, launch_->dynamic_shared);
  shared_used_ += kSharedGap;
}

void Worker::clear_shared() {
  if (tsan()) {  // a fresh mapping resets ThreadSanitizer's shadow
    for (auto [p, bytes] :
         {std::pair{shared_, kSharedArenaBytes}, std::pair{stacks_, kStackBytes * launch_->threads}})
      mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (size_t i = 0; i < shared_used_; ++i) reinterpret_cast<volatile char*>(shared_)[i] = -1;
    return;
  }
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(shared_, kSharedArenaBytes);
  memset(shared_, 0xFF, shared_used_);
  if (!__asan_poison_memory_region) return;
  __asan_poison_memory_region(shared_, kSharedArenaBytes);
  for (const Placed& object : placed_) __asan_unpoison_memory_region(object.address, object.bytes);
  __asan_unpoison_memory_region(dynamic_shared_, launch_->dynamic_shared);
}

// ---- blocks ----

void Worker::start_fibers() {
  const uint32_t threads = launch_->threads;
  alive_ = threads;
  for (uint32_t w = 0; w * kWarpSize < threads; ++w) {
    const uint32_t lanes = std::min(kWarpSize, threads - w * kWarpSize);
    warps_[w] = Warp{0, lanes == kWarpSize ? 0 : ~0u << lanes, 0};
  }
  for (Barrier& b : barriers_) b = Barrier{};
  for (uint32_t i = 0; i < threads; ++i) {
    Fiber& f = fibers_[i];
    f.index = i;
    f.state = State::kReady;
    f.asan_fake_stack = nullptr;
    f.thread = unflatten(i, launch_->block);
    f.copies.open.clear();
    f.copies.groups.clear();
    f.copies.pending = f.copies.most_pending = 0;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(f.stack, kStackBytes);
    // Staggered stack tops keep the fibers' hottest lines out of the same cache sets.
    const size_t stagger = i % 16 * 192;
    void** sp = reinterpret_cast<void**>(f.stack + kStackBytes - 64 - stagger) - 8;
    std::fill(sp, sp + 8, nullptr);
    sp[6] = reinterpret_cast<void*>(&fiber_main);  // the return address of the first switch
    f.sp = sp;
    if (tsan()) f.tsan = __tsan_create_fiber(0);
  }
}

void Worker::run_block(uint32_t index) {
  block_ = unflatten(index, launch_->grid);
  spins_ = 0;
  ++block_epoch_;
  counts_.start_block(index);
  clear_shared();
  start_fibers();
  Random random(uint64_t(global_seed) << 32 | index);
  std::iota(order_.begin(), order_.end(), 0u);
  while (alive_ && !launch_->failed) {
    if (global_seed) random.shuffle(order_);
    bool ran = false;
    for (uint32_t i : order_) {
      if (fibers_[i].state != State::kReady) continue;
      ran = true;
      switch_to_fiber(&fibers_[i]);
      if (launch_->failed) break;
    }
    if (launch_->failed || !alive_) break;
    if (!release_whole_block_barrier() && !ran) report_deadlock();
  }
  if (!counts_.empty()) {
    for (uint32_t i = 0; i < launch_->threads; ++i) counts_.asynchronous(fibers_[i].copies.most_pending);
    counts_.end_block();
  }
  if (tsan())
    for (uint32_t i = 0; i < launch_->threads; ++i) __tsan_destroy_fiber(fibers_[i].tsan);
}

bool Worker::release_whole_block_barrier() {
  static const bool allow_early_exit = getenv("CUDACPU_ALLOW_EARLY_EXIT") != nullptr;
  for (uint32_t id = 0; id < kBarriers; ++id) {
    const Barrier& b = barriers_[id];
    if (!b.arrived || b.expected != kWholeBlock || b.arrived != alive_) continue;
    if (alive_ != launch_->threads && !allow_early_exit) {
      record(kLaunchFailure,
             "__syncthreads after some threads of the block exited (legal since sm_70; set "
             "CUDACPU_ALLOW_EARLY_EXIT=1 to accept it)",
             a_waiting_fiber().site, nullptr);
      return false;
    }
    release_barrier(id);
    return true;
  }
  return false;
}

const Fiber& Worker::a_waiting_fiber() const {
  return *std::find_if(fibers_.begin(), fibers_.begin() + launch_->threads,
                       [](const Fiber& f) { return f.state == State::kAtBarrier; });
}

// Lists up to three different places where threads wait.
void Worker::report_deadlock() {
  if (launch_->failed) return;
  std::string waiting;
  for (uint32_t i = 0, listed = 0; i < launch_->threads && listed < 3; ++i) {
    const Fiber& f = fibers_[i];
    if (f.state == State::kDone) continue;
    bool seen = false;
    for (uint32_t j = 0; j < i && !seen; ++j)
      seen = fibers_[j].state == f.state && fibers_[j].site.line == f.site.line;
    if (seen) continue;
    ++listed;
    waiting += std::string(listed > 1 ? ";" : ":") + " thread " + triple(f.thread) +
               (f.state == State::kAtBarrier ? " waits at barrier " + std::to_string(f.barrier)
                                             : std::string(" waits in ") + f.operation) +
               location(f.site);
  }
  record(kLaunchFailure, "deadlock, divergent barrier or warp collective" + waiting, Site{}, nullptr);
}

void Worker::record(ErrorCode code, const std::string& what, Site site, const Fiber* fiber) {
  std::lock_guard<std::mutex> lock(launch_->error_mutex);
  if (launch_->failed) return;
  launch_->error.code = code;
  launch_->error.message = what + "; kernel " + readable_name(launch_->kernel->name) + ", block " +
                           triple(block_) + (fiber ? ", thread " + triple(fiber->thread) : std::string()) +
                           location(site);
  launch_->failed = true;
}

// The block is abandoned: its fibers are never resumed, as the threads of a faulting GPU kernel.
void Worker::fail(ErrorCode code, const std::string& what, Site site) {
  record(code, what, site, current_);
  switch_to_scheduler();
  abort();
}

}  // namespace cudacpu
