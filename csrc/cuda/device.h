// The device that a kernel is chosen for: that of the calling thread, or one that a prediction is asked for.
#pragma once

#include <string>

#include "cost_model.h"

namespace mbv1::cuda {

// Figures of the calling thread's CUDA device, read once, unless a ModelledDevice is alive. A `work` function or a
// launch that depends on the number of SMs asks here.
const Device& current_device();
bool is_modelled();

// While it lives, current_device() of this thread is `device`.
class ModelledDevice {
 public:
  explicit ModelledDevice(const Device& device);
  ~ModelledDevice();
  ModelledDevice(const ModelledDevice&) = delete;
  ModelledDevice& operator=(const ModelledDevice&) = delete;

 private:
  const Device* before_;
};

// The device of this name in devices.h, or null.
const Device* find_device(const std::string& name);

}  // namespace mbv1::cuda
