// Where threads of a block wait for each other: barriers, warp collectives and spinning.
#include <cstring>

#include "scheduler/worker.h"

namespace cudacpu {
namespace {

void copy_words(uint32_t* to, const uint32_t* from, int words) {
  for (int i = 0; i < words; ++i) reinterpret_cast<volatile uint32_t*>(to)[i] = from[i];
}

}  // namespace

void Worker::release_barrier(uint32_t id) {
  Barrier& b = barriers_[id];
  ++b.generation;
  ++block_epoch_;
  spins_ = 0;
  b.result = b.collecting;
  b.collecting = Predicates{};
  b.arrived = 0;
  for (uint32_t i = 0; i < launch_->threads; ++i)
    if (fibers_[i].state == State::kAtBarrier && fibers_[i].barrier == id) fibers_[i].state = State::kReady;
}

void Worker::barrier_wait(uint32_t id, uint32_t count, Site site, bool predicate, bool arrive_only) {
  if (id >= kBarriers) fail(kLaunchFailure, "barrier number above 15", site);
  if (count % kWarpSize) fail(kLaunchFailure, "barrier thread count is no multiple of 32", site);
  Barrier& b = barriers_[id];
  if (b.arrived && b.expected != count)
    fail(kLaunchFailure, "threads disagree on the thread count of a barrier", site);
  b.expected = count;
  ++b.arrived;
  b.collecting.count += predicate;
  b.collecting.all &= predicate;
  b.collecting.any |= predicate;
  char* edge = &barrier_edge_[id][b.generation & 1];
  if (__tsan_release) __tsan_release(edge);
  current_->site = site;
  if (count != kWholeBlock && b.arrived == count) {
    release_barrier(id);
  } else if (!arrive_only) {
    current_->state = State::kAtBarrier;
    current_->barrier = id;
    switch_to_scheduler();
  }
  if (__tsan_acquire && !arrive_only) __tsan_acquire(edge);
}

void Worker::collective(uint32_t mask, const char* operation, const uint32_t* in, int in_words, uint32_t* out,
                        int out_words, Resolve resolve, Site site) {
  Fiber* me = current_;
  const uint32_t lane = me->index % kWarpSize;
  Fiber* lanes = &fibers_[me->index - lane];
  Warp& warp = warps_[me->index / kWarpSize];
  if (!(mask >> lane & 1))
    fail(kLaunchFailure, std::string(operation) + ": calling lane is not in its own mask", site);
  if (mask & warp.exited)
    fail(kLaunchFailure, std::string(operation) + ": mask names an exited or absent lane", site);
  me->mask = mask;
  me->operation = operation;
  me->site = site;
  copy_words(me->in, in, in_words);
  warp.waiting |= 1u << lane;
  if ((warp.waiting & mask) != mask) {
    me->state = State::kInCollective;
    switch_to_scheduler();
  } else {
    const Words* ins[kWarpSize];
    Words* outs[kWarpSize];
    for (uint32_t i = 0; i < kWarpSize; ++i) {
      ins[i] = &lanes[i].in;
      outs[i] = &lanes[i].out;
      if (!(mask >> i & 1)) continue;
      if (lanes[i].mask != mask || strcmp(lanes[i].operation, operation) != 0)
        fail(kLaunchFailure,
             std::string("lanes of a warp disagree: ") + operation + " against " + lanes[i].operation +
                 location(lanes[i].site),
             site);
    }
    if (resolve)
      resolve(ins, outs, mask);
    else
      ++warp.generation;
    warp.waiting &= ~mask;
    spins_ = 0;
    for (uint32_t i = 0; i < kWarpSize; ++i)
      if (mask >> i & 1) lanes[i].state = State::kReady;
  }
  copy_words(out, me->out, out_words);
}

void Worker::tsan_warp_edge(bool release, uint32_t generation) {
  char* edge = &warp_edge_[current_->index / kWarpSize][generation & 1];
  if (release && __tsan_release) __tsan_release(edge);
  if (!release && __tsan_acquire) __tsan_acquire(edge);
}

void Worker::check_race(uint64_t address, unsigned bytes, Access kind, Site site) {
  const uint64_t offset = address - reinterpret_cast<uint64_t>(shared_);
  if (offset >= kSharedArenaBytes) return;
  if (!races_) races_ = std::make_unique<RaceDetector>(kSharedArenaBytes);
  const uint32_t thread = current_->index;
  const RaceDetector::Stamp now{block_epoch_, warps_[thread / kWarpSize].generation, thread, site.line};
  const RaceDetector::Conflict conflict = races_->access(offset, bytes, kind, now);
  if (!conflict.found) return;
  static constexpr const char* names[] = {"read", "write", "atomic update"};
  fail(kLaunchFailure,
       std::string("race in shared memory: ") + names[static_cast<int>(kind)] + " of " +
           std::to_string(bytes) + " bytes conflicts with the " + (conflict.with_write ? "write" : "read") +
           " of thread " + triple(unflatten(conflict.other.thread, launch_->block)) + " in line " +
           std::to_string(conflict.other.line) + ", with no barrier in between",
       site);
}

void Worker::yield_to_others(Site site) {
  if (++spins_ > kSpinLimit)
    fail(kLaunchTimeout, "a thread spins on memory that nobody in the resident blocks changes", site);
  switch_to_scheduler();
}

}  // namespace cudacpu
