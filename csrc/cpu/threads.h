// Torch's threads, as the kernels see them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "kernels.h"

namespace mbv1::cpu {

inline Threads torch_threads() {
  return {[](int64_t items, void (*body)(const void* context, int64_t begin, int64_t end), const void* context) {
            torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
          },
          torch::stable::get_num_threads()};
}

}  // namespace mbv1::cpu
