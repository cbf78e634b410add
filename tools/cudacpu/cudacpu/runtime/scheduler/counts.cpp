#include "scheduler/counts.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <sstream>

#include "scheduler/worker.h"

namespace cudacpu {

namespace {

std::atomic<uint64_t> wave_blocks{0};

constexpr unsigned kSector = 32;
constexpr unsigned kBanks = 32, kBankBytes = 4;

int width_index(unsigned bytes) { return __builtin_ctz(bytes); }

// The banks serve as many lanes at a time as 128 bytes hold; each word of a bank takes a cycle, and lanes
// that read the same word share it.
uint64_t wavefronts(uint32_t lanes, const std::array<uint64_t, 32>& addresses, unsigned bytes) {
  const unsigned group = std::min(32u, kBanks * kBankBytes / bytes);
  uint64_t total = 0;
  for (unsigned first = 0; first < 32; first += group) {
    std::vector<uint64_t> words;
    for (unsigned lane = first; lane < first + group; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      const uint64_t start = addresses[lane] / kBankBytes, end = (addresses[lane] + bytes - 1) / kBankBytes;
      for (uint64_t word = start; word <= end; ++word) words.push_back(word);
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t in_bank[kBanks] = {}, most = 0;
    for (const uint64_t word : words) most = std::max(most, ++in_bank[word % kBanks]);
    total += most;
  }
  return total;
}

uint64_t bits(const std::array<uint64_t, Chunk::kBytes / 64>& bitmap) {
  uint64_t count = 0;
  for (const uint64_t word : bitmap) count += __builtin_popcountll(word);
  return count;
}

}  // namespace

void PathCounts::add(const PathCounts& other) {
  requests += other.requests, bytes += other.bytes, useful_bytes += other.useful_bytes;
  sectors += other.sectors, wavefronts += other.wavefronts;
}

void Chunk::add(const Chunk& other) {
  for (size_t i = 0; i < loaded.size(); ++i) loaded[i] |= other.loaded[i], stored[i] |= other.stored[i];
  load.add(other.load), store.add(other.store);
  for (int i = 0; i < kWidths; ++i) {
    load_widths[i] += other.load_widths[i], store_widths[i] += other.store_widths[i];
  }
}

void Counts::access(uint32_t warp, uint32_t lane, const Position& position, uint64_t address, unsigned bytes,
                    Path path) {
  std::vector<Request>& requests = open_[{position.iteration, position.instruction, warp, path}];
  const uint32_t bit = 1u << lane;
  // A lane that is here again, as in a function called twice, is in the next request.
  size_t i = 0;
  while (i < requests.size() && requests[i].lanes & bit) ++i;
  if (i == requests.size()) requests.emplace_back();
  Request& request = requests[i];
  request.lanes |= bit, request.bytes = bytes, request.addresses[lane] = address;
  if (request.lanes != ~0u) return;
  finish(request, path);
  requests.erase(requests.begin() + i);
}

void Counts::instructions(const uint32_t* of_class) {
  any_ = true;
  for (int i = 0; i < kInstructionClasses; ++i) instructions_[i] += of_class[i];
}

void Counts::finish(const Request& request, Path path) {
  std::array<uint64_t, 32> distinct;
  int lanes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (request.lanes >> lane & 1) distinct[lanes++] = request.addresses[lane];
  }
  std::sort(distinct.begin(), distinct.begin() + lanes);
  // Accesses are aligned to their size: two are the same bytes or none in common.
  const int addresses = std::unique(distinct.begin(), distinct.begin() + lanes) - distinct.begin();
  PathCounts counts;
  counts.requests = 1, counts.bytes = uint64_t(lanes) * request.bytes;
  counts.useful_bytes = uint64_t(addresses) * request.bytes;
  if (path == Path::kSharedLoad || path == Path::kSharedStore) {
    counts.wavefronts = wavefronts(request.lanes, request.addresses, request.bytes);
  } else {
    for (int i = 0; i < addresses; ++i) {
      const uint64_t sector = distinct[i] / kSector;
      if (i > 0 && sector == distinct[i - 1] / kSector) continue;
      ++counts.sectors;
      if (path == Path::kGlobalLoad) block_sectors_.insert(sector);
      if (path <= Path::kAsync)
        (path == Path::kGlobalStore ? wave_stores_ : wave_loads_)[wave_].insert(sector);
    }
  }
  paths_[int(path)].add(counts);
  if (path <= Path::kAsync) finish_global(request, path, counts);
}

void Counts::finish_global(const Request& request, Path path, PathCounts counts) {
  const bool stores = path == Path::kGlobalStore;
  if (path == Path::kAsync) l2_load_sectors_ += counts.sectors;
  bool first = true;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(request.lanes >> lane & 1)) continue;
    const uint64_t address = request.addresses[lane];
    Chunk& c = chunk(address);
    if (first) (stores ? c.store : c.load).add(counts), first = false;
    (stores ? c.store_widths : c.load_widths)[width_index(request.bytes)] += request.bytes;
    const unsigned offset = address % Chunk::kBytes;
    (stores ? c.stored : c.loaded)[offset / 64] |= ((uint64_t{1} << request.bytes) - 1) << offset % 64;
  }
}

Chunk& Counts::chunk(uint64_t address) { return chunks_[address / Chunk::kBytes]; }

void Counts::start_block(uint64_t index) {
  const uint64_t blocks = wave_blocks;
  wave_ = blocks ? index / blocks : 0;
}

void Counts::end_block() {
  for (const auto& [key, requests] : open_) {
    for (const Request& request : requests) finish(request, key.path);
  }
  open_.clear();
  l2_load_sectors_ += block_sectors_.size();
  block_sectors_.clear();
}

void Counts::add(const Counts& other) {
  for (int i = 0; i < kPaths; ++i) paths_[i].add(other.paths_[i]);
  for (int i = 0; i < kInstructionClasses; ++i) instructions_[i] += other.instructions_[i];
  for (const auto& [address, c] : other.chunks_) chunks_[address].add(c);
  const auto unite = [](Waves& into, const Waves& from) {
    for (const auto& [wave, sectors] : from) into[wave].insert(sectors.begin(), sectors.end());
  };
  unite(wave_loads_, other.wave_loads_), unite(wave_stores_, other.wave_stores_);
  l2_load_sectors_ += other.l2_load_sectors_;
  async_bytes_ += other.async_bytes_;
  any_ |= other.any_;
}

void Counts::clear() { *this = Counts(); }

namespace {

std::string path_json(const PathCounts& c) {
  std::ostringstream out;
  out << "{\"requests\": " << c.requests << ", \"bytes\": " << c.bytes
      << ", \"useful_bytes\": " << c.useful_bytes << ", \"sectors\": " << c.sectors
      << ", \"wavefronts\": " << c.wavefronts << "}";
  return out.str();
}

std::string widths_json(const std::array<uint64_t, kWidths>& widths) {
  std::ostringstream out;
  for (int i = 0; i < kWidths; ++i) out << (i ? ", " : "{") << "\"" << (1 << i) << "\": " << widths[i];
  return out.str() + "}";
}

std::string dims_json(Dim3 d) {
  return "[" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + "]";
}

}  // namespace

std::string Counts::json(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared) const {
  constexpr const char* kPathNames[kPaths] = {"global_load", "global_store", "async_copy",
                                              "shared_load", "shared_store", "local"};
  std::map<uint64_t, Chunk> buffers;  // by the start of the allocation
  for (const auto& [number, c] : chunks_) {
    size_t word = 0;
    while ((c.loaded[word] | c.stored[word]) == 0) ++word;
    const uint64_t touched =
        number * Chunk::kBytes + word * 64 + __builtin_ctzll(c.loaded[word] | c.stored[word]);
    const BlockInfo info = find_block(reinterpret_cast<const void*>(touched));
    Chunk& buffer = buffers[info.what ? reinterpret_cast<uint64_t>(info.start) : touched];
    Chunk sums = c;  // the bits of one chunk mean nothing in another: only their number is added
    sums.loaded = {}, sums.stored = {};
    buffer.add(sums);
    buffer.loaded[0] += bits(c.loaded), buffer.stored[0] += bits(c.stored);
  }
  std::ostringstream out;
  out << "{\"kernel\": \"" << readable_name(kernel.name) << "\", \"symbol\": \"" << kernel.name
      << "\", \"grid\": " << dims_json(grid) << ", \"block\": " << dims_json(block)
      << ", \"shared_bytes\": " << static_shared_bytes(kernel) + dynamic_shared;
  for (int i = 0; i < kPaths; ++i) out << ", \"" << kPathNames[i] << "\": " << path_json(paths_[i]);
  const auto sectors_of = [](const Waves& waves) {
    uint64_t total = 0;
    for (const auto& [wave, sectors] : waves) total += sectors.size();
    return total;
  };
  out << ", \"waves\": " << std::max(wave_loads_.size(), wave_stores_.size())
      << ", \"wave_load_sectors\": " << sectors_of(wave_loads_)
      << ", \"wave_store_sectors\": " << sectors_of(wave_stores_)
      << ", \"l2_load_sectors\": " << l2_load_sectors_ << ", \"async_bytes_in_flight\": " << async_bytes_
      << ", \"instructions\": [";
  for (int i = 0; i < kInstructionClasses; ++i) out << (i ? ", " : "") << instructions_[i];
  out << "], \"buffers\": [";
  bool first = true;
  for (const auto& [start, b] : buffers) {
    out << (first ? "" : ", ") << "{\"address\": " << start << ", \"unique_load_bytes\": " << b.loaded[0]
        << ", \"unique_store_bytes\": " << b.stored[0] << ", \"load\": " << path_json(b.load)
        << ", \"store\": " << path_json(b.store) << ", \"load_widths\": " << widths_json(b.load_widths)
        << ", \"store_widths\": " << widths_json(b.store_widths) << "}";
    first = false;
  }
  out << "]}";
  return out.str();
}

namespace {
std::mutex kept_mutex;
std::string kept;
}  // namespace

void keep_counts(const std::string& launch) {
  std::lock_guard<std::mutex> lock(kept_mutex);
  kept += launch + "\n";
}

std::string take_counts() {
  std::lock_guard<std::mutex> lock(kept_mutex);
  return std::exchange(kept, {});
}

// For Python's ctypes; the text is valid until the calling thread's next call.
extern "C" __attribute__((visibility("default"))) const char* cudacpu_take_counts() {
  static thread_local std::string text;
  text = take_counts();
  return text.c_str();
}

extern "C" __attribute__((visibility("default"))) void cudacpu_set_wave(uint64_t blocks) {
  wave_blocks = blocks;
}

void count_access(const Position& position, uint64_t address, unsigned bytes, Access kind, bool async) {
  const bool shared = address >> 32 == 0, global = address >= kDeviceBase;
  const bool load = kind == Access::kRead;
  const Path path = shared    ? (load ? Path::kSharedLoad : Path::kSharedStore)
                    : !global ? Path::kLocal
                    : async   ? Path::kAsync
                    : load    ? Path::kGlobalLoad
                              : Path::kGlobalStore;
  worker->counts_.access(warp_index(), lane_index(), position, address, bytes, path);
}

void count_instructions(const uint32_t* of_class) { worker->counts_.instructions(of_class); }

}  // namespace cudacpu
