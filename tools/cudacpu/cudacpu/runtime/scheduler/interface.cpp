// The functions that translated code calls (see scheduler.h).
#include <cstdio>

#include "scheduler/worker.h"

namespace cudacpu {

Dim3 thread_index() { return worker->current_->thread; }
Dim3 block_index() { return worker->block_; }
Dim3 block_dim() { return worker->launch_->block; }
Dim3 grid_dim() { return worker->launch_->grid; }
uint32_t lane_index() { return worker->current_->index % kWarpSize; }
uint32_t warp_index() { return worker->current_->index / kWarpSize; }
uint32_t active_lanes() { return ~worker->warps_[warp_index()].exited; }
uint32_t dynamic_shared_size() { return worker->launch_->dynamic_shared; }
uint32_t total_shared_size() { return static_shared_bytes(*worker->launch_->kernel) + dynamic_shared_size(); }
uint64_t dynamic_shared_base() { return reinterpret_cast<uint64_t>(worker->dynamic_shared_); }

uint64_t shared_object(const void* key) {
  for (const Worker::Placed& object : worker->placed_)
    if (object.key == key) return reinterpret_cast<uint64_t>(object.address);
  return 0;
}

void barrier(uint32_t id, uint32_t count, Site site) { worker->barrier_wait(id, count, site, false, false); }

void barrier_arrive(uint32_t id, uint32_t count, Site site) {
  worker->barrier_wait(id, count, site, false, true);
}

uint32_t barrier_reduce(Reduction kind, uint32_t id, uint32_t count, bool predicate, Site site) {
  worker->barrier_wait(id, count, site, predicate, false);
  const Predicates& result = worker->barriers_[id].result;
  if (kind == Reduction::kPopc) return result.count;
  return kind == Reduction::kAnd ? result.all : result.any;
}

void warp_sync(uint32_t mask, Site site) {
  const uint32_t generation = worker->warps_[warp_index()].generation;
  worker->tsan_warp_edge(true, generation);
  worker->collective(mask, "__syncwarp", nullptr, 0, nullptr, 0, nullptr, site);
  worker->tsan_warp_edge(false, generation);
}

void collective(uint32_t mask, const char* operation, const uint32_t* in, int in_words, uint32_t* out,
                int out_words, Resolve resolve, Site site) {
  worker->collective(mask, operation, in, in_words, out, out_words, resolve, site);
}

void check_race(uint64_t address, unsigned bytes, Access kind, Site site) {
  worker->check_race(address, bytes, kind, site);
}

void spin(Site site) { worker->yield_to_others(site); }

AsyncCopies& async_copies() { return worker->current_->copies; }

void fail(ErrorCode code, const char* what, Site site) { worker->fail(code, what, site); }

void fail_access(uint64_t address, unsigned bytes, const char* access, Site site) {
  char text[160];
  const bool misaligned = bytes && !(bytes & (bytes - 1)) && address % bytes;
  snprintf(text, sizeof text, "%s%s of %u bytes at 0x%lx", misaligned ? "misaligned " : "invalid ", access,
           bytes, address);
  std::string message = text;
  if (address >> 32)
    message += ", " + describe_address(address);
  else if (!misaligned)
    message += address < 65536 ? ", a null pointer plus an offset" : ", outside every shared-memory object";
  worker->fail(misaligned ? kMisalignedAddress : kIllegalAddress, message, site);
}

}  // namespace cudacpu
