// Warp collectives: shuffles, votes, reductions, matches.
//
// The functions that resolve a collective read what other lanes deposited; ThreadSanitizer must not
// see that as the lanes' own accesses.
#pragma once
#include <cstdint>

#include "scheduler/scheduler.h"

#define CUDACPU_NO_TSAN __attribute__((no_sanitize("thread")))

namespace cudacpu {

enum class Shuffle : uint32_t { kUp, kDown, kButterfly, kIndex };

// In: value, lane operand, clamp operand, mode. Out: value, predicate. (PTX ISA, shfl.sync.)
CUDACPU_NO_TSAN inline void resolve_shuffle(const Words* const* in, Words* const* out, uint32_t mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Words& x = *in[lane];
    const int b = x[1] & 31, clamp = x[2] & 31, segment = x[2] >> 8 & 31;
    const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    int source = lane;
    bool inside = false;
    switch (static_cast<Shuffle>(x[3])) {
      case Shuffle::kUp:
        source = lane - b;
        inside = source >= last;
        break;
      case Shuffle::kDown:
        source = lane + b;
        inside = source <= last;
        break;
      case Shuffle::kButterfly:
        source = lane ^ b;
        inside = source <= last;
        break;
      case Shuffle::kIndex:
        source = first | (b & ~segment);
        inside = source <= last;
        break;
    }
    if (!inside) source = lane;
    // Reading a lane outside the mask is undefined; NaN makes it visible.
    (*out[lane])[0] = mask >> source & 1 ? (*in[source])[0] : 0xffffffffu;
    (*out[lane])[1] = inside;
  }
}

inline uint32_t shuffle(Shuffle mode, uint32_t value, uint32_t b, uint32_t c, uint32_t mask, bool& inside,
                        Site site = Site::here()) {
  static constexpr const char* names[] = {"shfl.up", "shfl.down", "shfl.bfly", "shfl.idx"};
  const uint32_t in[] = {value, b, c, static_cast<uint32_t>(mode)};
  uint32_t out[2];
  collective(mask, names[in[3]], in, 4, out, 2, resolve_shuffle, site);
  inside = out[1];
  return out[0];
}

CUDACPU_NO_TSAN inline void resolve_ballot(const Words* const* in, Words* const* out, uint32_t mask) {
  uint32_t ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) ballot |= ((*in[lane])[0] & 1) << lane;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) (*out[lane])[0] = ballot;
}

inline uint32_t vote_ballot(bool predicate, uint32_t mask, Site site = Site::here()) {
  const uint32_t in = predicate;
  uint32_t out;
  collective(mask, "vote", &in, 1, &out, 1, resolve_ballot, site);
  return out;
}
inline bool vote_any(bool predicate, uint32_t mask, Site site = Site::here()) {
  return vote_ballot(predicate, mask, site) != 0;
}
inline bool vote_all(bool predicate, uint32_t mask, Site site = Site::here()) {
  return vote_ballot(predicate, mask, site) == mask;
}
inline bool vote_uni(bool predicate, uint32_t mask, Site site = Site::here()) {
  const uint32_t ballot = vote_ballot(predicate, mask, site);
  return ballot == mask || ballot == 0;
}

template <class T, class Op>
CUDACPU_NO_TSAN void resolve_reduction(const Words* const* in, Words* const* out, uint32_t mask) {
  T total = static_cast<T>((*in[__builtin_ctz(mask)])[0]);
  for (int lane = __builtin_ctz(mask) + 1; lane < 32; ++lane)
    if (mask >> lane & 1) total = Op()(total, static_cast<T>((*in[lane])[0]));
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) (*out[lane])[0] = static_cast<uint32_t>(total);
}

template <class T, class Op>
inline uint32_t warp_reduce(uint32_t value, uint32_t mask, Site site = Site::here()) {
  uint32_t out;
  collective(mask, "redux", &value, 1, &out, 1, resolve_reduction<T, Op>, site);
  return out;
}

CUDACPU_NO_TSAN inline void resolve_match(const Words* const* in, Words* const* out, uint32_t mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    uint32_t same = 0;
    for (int other = 0; other < 32; ++other)
      if ((mask >> other & 1) && (*in[other])[0] == (*in[lane])[0] && (*in[other])[1] == (*in[lane])[1])
        same |= 1u << other;
    (*out[lane])[0] = same;
  }
}

inline uint32_t match_any(uint64_t value, uint32_t mask, Site site = Site::here()) {
  const uint32_t in[] = {static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)};
  uint32_t out;
  collective(mask, "match", in, 2, &out, 1, resolve_match, site);
  return out;
}

}  // namespace cudacpu
