// The threads' scratch memory.
//
// Large buffers of a thread share huge pages. Ordinary pages lie anywhere in physical memory, so that some sets of a
// second-level cache have to hold more lines of them than there is room for, in every process others: in huge pages
// MobileNetV1's feature maps are read up to a tenth faster, and as fast in every process.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "kernels.h"

namespace mbv1::cpu {
namespace {

constexpr size_t kLine = 64, kPage = 4096;
// Smaller buffers are allocations of their own, and all of them where a sanitizer watches their bounds.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kLargeBytes = SIZE_MAX;
#else
constexpr size_t kLargeBytes = 256 * 1024;
#endif

std::atomic<int64_t> scratch_total{0};

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

class Block {
 public:
  Block() = default;
  Block(size_t bytes, size_t alignment) : memory_(std::aligned_alloc(alignment, bytes)), bytes_(bytes) {
    if (memory_ == nullptr) throw std::bad_alloc();
    scratch_total += static_cast<int64_t>(bytes_);
    if (alignment == kHugePage) ask_for_huge_pages(memory_.get(), bytes_);
  }
  Block(Block&& other) noexcept : memory_(std::move(other.memory_)), bytes_(std::exchange(other.bytes_, 0)) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(memory_, other.memory_), std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Block() { scratch_total -= static_cast<int64_t>(bytes_); }

  char* begin() const { return static_cast<char*>(memory_.get()); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_ = 0;
};

struct Span {
  char* begin = nullptr;
  size_t bytes = 0;
};

// One thread's buffers.
class Scratch {
 public:
  void* buffer(Slot slot, size_t bytes) {
    const int i = static_cast<int>(slot);
    if (buffers_[i].bytes < bytes) {
      const Span old = std::exchange(buffers_[i], {});
      small_[i] = {};
      if (old.bytes >= kLargeBytes) give_back(old);
      if (bytes < kLargeBytes) {
        const size_t rounded = round_up(bytes, kLine);
        small_[i] = Block(rounded, kLine);
        buffers_[i] = {small_[i].begin(), rounded};
      } else {
        buffers_[i] = take(round_up(bytes, kPage));
      }
    }
    return buffers_[i].begin;
  }

 private:
  // Of the free parts of huge pages that are large enough, the smallest, or new ones.
  Span take(size_t bytes) {
    auto best = free_.end();
    for (auto span = free_.begin(); span != free_.end(); ++span) {
      if (span->bytes >= bytes && (best == free_.end() || span->bytes < best->bytes)) best = span;
    }
    if (best == free_.end()) {
      const size_t rounded = round_up(bytes, kHugePage);
      // As many gaps as there can be between buffers, so that giving one back needs no memory.
      free_.reserve(static_cast<size_t>(Slot::kCount) + large_.size() + 1);
      large_.emplace_back(rounded, kHugePage);
      best = free_.insert(free_.end(), Span{large_.back().begin(), rounded});
    }
    const Span taken{best->begin, bytes};
    best->begin += bytes, best->bytes -= bytes;
    if (best->bytes == 0) free_.erase(best);
    return taken;
  }

  void give_back(Span span) {
    // What lies beside it becomes one with it.
    for (auto other = free_.begin(); other != free_.end();) {
      const bool before = other->begin + other->bytes == span.begin;
      if (before || span.begin + span.bytes == other->begin) {
        span = {before ? other->begin : span.begin, span.bytes + other->bytes};
        other = free_.erase(other);
      } else {
        ++other;
      }
    }
    free_.push_back(span);
  }

  Span buffers_[static_cast<int>(Slot::kCount)];
  Block small_[static_cast<int>(Slot::kCount)];
  std::vector<Block> large_;
  std::vector<Span> free_;
};

thread_local Scratch scratch;

}  // namespace

void ask_for_huge_pages(void* begin, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, since Linux 6.1
  (void)madvise(begin, bytes, MADV_HUGEPAGE);
  (void)madvise(begin, bytes, kCollapse);
#else
  (void)begin, (void)bytes;
#endif
}

int64_t scratch_bytes() { return scratch_total; }

void* workspace_bytes(Slot slot, size_t bytes) { return scratch.buffer(slot, bytes); }

}  // namespace mbv1::cpu
