// The cost model's answers as JSON, for `mbv1_kernels.explain` and the benchmarks.
#pragma once

#include <string>
#include <vector>

#include "cost_model.h"

namespace mbv1::cuda {

std::string candidate_json(const std::string& kernel, bool chosen, const std::vector<Work>& works,
                           const Prediction& prediction);
std::string prediction_json(const Prediction& prediction);
std::string devices_json();

// Throws std::runtime_error for a name that devices.h lacks.
const Device& device_named(const std::string& name);

// The members of Work in order, for one launch after another. Throws std::runtime_error where members are missing.
std::vector<Work> works_from(const std::vector<double>& numbers);

}  // namespace mbv1::cuda
