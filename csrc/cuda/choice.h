// The choice of a kernel: of those that match, the one with the lowest prediction for the current device; on a tie
// the first in the table. With MBV1_AUTOTUNE=1 the one that was measured to be the fastest, once it was (autotune.h).
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "autotune.h"
#include "device.h"
#include "kernels.h"

namespace mbv1::cuda {

template <class Params>
struct Candidate {
  const Kernel<Params>* kernel;
  std::vector<Work> works;  // of its launches
  Prediction prediction;
};

template <class Params>
std::vector<Candidate<Params>> candidates(const Params& params) {
  std::vector<Candidate<Params>> found;
  for (const Kernel<Params>& kernel : kernels_of(params)) {
    if (!kernel.matches(params)) continue;
    std::vector<Work> works{kernel.work(params)};
    if (kernel.further != nullptr) {
      for (const Work& work : kernel.further(params)) works.push_back(work);
    }
    const Prediction prediction = predict(works, current_device());
    found.push_back({&kernel, std::move(works), prediction});
  }
  return found;
}

// Null where no kernel takes these params.
template <class Params>
const Kernel<Params>* predicted_best(const Params& params) {
  const Kernel<Params>* best = nullptr;
  double best_us = 0;
  for (const Candidate<Params>& candidate : candidates(params)) {
    if (best == nullptr || candidate.prediction.us < best_us) {
      best = candidate.kernel, best_us = candidate.prediction.us;
    }
  }
  return best;
}

// Everything of a call that a choice depends on: its params, with how each pointer is aligned in place of it, and the
// device. Alignment counts up to that of a cache line.
template <class Params>
struct ChoiceKey {
  Params params;
  const Device* device;

  explicit ChoiceKey(const Params& call) : params(call), device(&current_device()) {
    for_each_tensor(params, [](auto& pointer) {
      const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(address == 0 ? 0 : 1 + address % 128);
    });
  }

  bool operator==(const ChoiceKey& other) const {
    return device == other.device && std::memcmp(&params, &other.params, sizeof(Params)) == 0;
  }

  uint64_t hash(uint64_t seed) const {
    uint64_t words[sizeof(Params) / 8];
    static_assert(sizeof(words) == sizeof(Params));
    std::memcpy(words, &params, sizeof(Params));
    uint64_t mixed = seed;
    for (const uint64_t word : words) mixed = (mixed ^ word) * 0x9E3779B97F4A7C15u, mixed ^= mixed >> 29;
    return mixed;
  }

  struct Hash {
    size_t operator()(const ChoiceKey& key) const { return key.hash(0); }
  };

  // The same in every process: op, dtype and a digest of the rest.
  std::string text() const {
    char digest[40];
    std::snprintf(digest, sizeof(digest), "%016llx%016llx", static_cast<unsigned long long>(hash(1)),
                  static_cast<unsigned long long>(hash(2)));
    return std::string(op_name(params)) + " " + dtype_suffix(dtype_of(params)) + " " + digest;
  }
};

// The choices that this thread has made.
template <class Params>
using ChoiceMemo = std::unordered_map<ChoiceKey<Params>, const Kernel<Params>*, typename ChoiceKey<Params>::Hash>;

template <class Params>
ChoiceMemo<Params>& choice_memo() {
  static thread_local ChoiceMemo<Params> memo;
  return memo;
}

// The kernel of that name, if it still exists and takes these params; else null.
template <class Params>
const Kernel<Params>* kernel_named(const std::string& name, const Params& params) {
  for (const Kernel<Params>& kernel : kernels_of(params)) {
    if (name == kernel.name) return kernel.matches(params) ? &kernel : nullptr;
  }
  return nullptr;
}

template <class Params>
const Kernel<Params>* tuned_best(const ChoiceKey<Params>& key, const Params& params) {
  return autotune_enabled() && !is_modelled() ? kernel_named(tuned_kernel(key.text()), params) : nullptr;
}

constexpr size_t kMostRemembered = 4096;  // shapes that change with every call must not fill the memory

// The choice, remembered.
template <class Params>
const Kernel<Params>* choose(const Params& params) {
  ChoiceMemo<Params>& memo = choice_memo<Params>();
  const ChoiceKey<Params> key(params);
  if (const auto found = memo.find(key); found != memo.end()) return found->second;
  if (memo.size() >= kMostRemembered) memo.clear();
  const Kernel<Params>* tuned = tuned_best(key, params);
  return memo[key] = tuned != nullptr ? tuned : predicted_best(params);
}

// Makes sure that the kernels for these params were measured, by this process or another: `launch` enqueues one.
template <class Params, class Launch>
void measure_candidates(const Params& params, cudaStream_t stream, Launch launch) {
  constexpr double kHopeless = 8;  // times the best prediction
  static thread_local std::unordered_set<ChoiceKey<Params>, typename ChoiceKey<Params>::Hash> done;
  const ChoiceKey<Params> key(params);
  if (done.count(key) > 0 || is_capturing(stream)) return;
  const Kernel<Params>* best = tuned_best(key, params);
  if (best == nullptr) {
    const std::vector<Candidate<Params>> found = candidates(params);
    double least_us = 0, best_us = 0;
    for (const Candidate<Params>& c : found) {
      if (least_us == 0 || c.prediction.us < least_us) least_us = c.prediction.us;
    }
    for (const Candidate<Params>& c : found) {
      if (!(c.prediction.us <= kHopeless * least_us)) continue;
      const double us = measure_us([&] { return launch(*c.kernel); }, stream);
      if (std::isfinite(us) && (best == nullptr || us < best_us)) best = c.kernel, best_us = us;
    }
    if (best == nullptr) return;  // the call itself will say why nothing runs
    keep_tuned(key.text(), best->name, best_us);
  }
  if (done.size() >= kMostRemembered) done.clear();
  done.insert(key);
  choice_memo<Params>()[key] = best;
}

}  // namespace mbv1::cuda
