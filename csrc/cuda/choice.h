// The choice of a kernel: of those that match, the one with the lowest prediction for the current device; on a tie
// the first in the table.
#pragma once

#include <cstring>
#include <unordered_map>
#include <vector>

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

  struct Hash {
    size_t operator()(const ChoiceKey& key) const {
      uint64_t words[sizeof(Params) / 8];
      static_assert(sizeof(words) == sizeof(Params));
      std::memcpy(words, &key.params, sizeof(Params));
      uint64_t hash = 0;
      for (const uint64_t word : words) hash = (hash ^ word) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
      return hash;
    }
  };
};

// The choices that this thread has made.
template <class Params>
using ChoiceMemo = std::unordered_map<ChoiceKey<Params>, const Kernel<Params>*, typename ChoiceKey<Params>::Hash>;

template <class Params>
ChoiceMemo<Params>& choice_memo() {
  static thread_local ChoiceMemo<Params> memo;
  return memo;
}

// predicted_best, remembered.
template <class Params>
const Kernel<Params>* choose(const Params& params) {
  constexpr size_t kMost = 4096;  // shapes that change with every call must not fill the memory
  ChoiceMemo<Params>& memo = choice_memo<Params>();
  const ChoiceKey<Params> key(params);
  if (const auto found = memo.find(key); found != memo.end()) return found->second;
  if (memo.size() >= kMost) memo.clear();
  return memo[key] = predicted_best(params);
}

}  // namespace mbv1::cuda
