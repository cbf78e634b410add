// cp.async: the bytes land at the wait.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "device/access.h"

namespace cudacpu {

template <unsigned Bytes>
inline void async_copy(uint64_t destination, uint64_t source, uint32_t source_bytes,
                       Site site = Site::here()) {
  AsyncCopy copy{};
  copy.destination =
      static_cast<unsigned char*>(checked<Bytes>(destination, "cp.async store", site, Access::kWrite));
  if (source % Bytes) fail_access(source, Bytes, "cp.async load", site);
  copy.source = reinterpret_cast<const unsigned char*>(source);
  copy.bytes = Bytes;
  copy.source_bytes = std::min(source_bytes, Bytes);
#if CUDACPU_SHADOW
  if (copy.source_bytes && !addressable(source, copy.source_bytes))
    fail_access(source, copy.source_bytes, "cp.async load", site);
#endif
#if CUDACPU_COUNTS
  if (copy.source_bytes) count_access(position, source, Bytes, Access::kRead, true);
#endif
  AsyncCopies& copies = async_copies();
  copies.pending += copy.source_bytes;
  copies.most_pending = std::max(copies.most_pending, copies.pending);
  copies.open.push_back(copy);
}

inline void async_commit() {
  AsyncCopies& copies = async_copies();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

inline void async_wait(size_t groups_left, [[maybe_unused]] Site site = Site::here()) {
  AsyncCopies& copies = async_copies();
  while (copies.groups.size() > groups_left) {
    for (const AsyncCopy& copy : copies.groups.front()) {
#if CUDACPU_RACES
      check_race(reinterpret_cast<uint64_t>(copy.destination), copy.bytes, Access::kWrite, site);
#endif
      for (uint32_t i = 0; i < copy.bytes; ++i)
        copy.destination[i] = i < copy.source_bytes ? copy.source[i] : 0;
      copies.pending -= copy.source_bytes;
    }
    copies.groups.erase(copies.groups.begin());
  }
}

}  // namespace cudacpu
