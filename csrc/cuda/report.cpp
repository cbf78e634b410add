#include "report.h"

#include <cmath>
#include <sstream>
#include <stdexcept>

#include "device.h"

namespace mbv1::cuda {
namespace {

constexpr size_t kWorkMembers = 11;

// JSON has no infinity.
std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  std::ostringstream out;
  out.precision(9);
  out << value;
  return out.str();
}

std::string work_json(const Work& w) {
  std::ostringstream out;
  out << "{\"blocks\": " << w.blocks << ", \"threads\": " << w.threads << ", \"registers\": " << w.registers
      << ", \"shared_bytes\": " << w.shared_bytes << ", \"dram_bytes\": " << number(w.dram_bytes)
      << ", \"l2_bytes\": " << number(w.l2_bytes) << ", \"l1_bytes\": " << number(w.l1_bytes)
      << ", \"ffma\": " << number(w.ffma) << ", \"mma_flops\": " << number(w.mma_flops)
      << ", \"instructions\": " << number(w.instructions) << ", \"round_trips\": " << number(w.round_trips) << "}";
  return out.str();
}

}  // namespace

std::string prediction_json(const Prediction& prediction) {
  std::string json = "{\"us\": " + number(prediction.us) + ", \"limiter\": \"" + limiter_name(prediction.limiter) +
                     "\", \"ceilings_us\": {";
  for (int i = 0; i < kLimiters; ++i) {
    json += std::string(i == 0 ? "" : ", ") + "\"" + limiter_name(static_cast<Limiter>(i)) +
            "\": " + number(prediction.ceilings_us[i]);
  }
  return json + "}, \"resident_blocks\": " + std::to_string(prediction.resident_blocks) +
         ", \"waves\": " + number(prediction.waves) + "}";
}

std::string candidate_json(const std::string& kernel, bool chosen, const std::vector<Work>& works,
                           const Prediction& prediction) {
  std::string json = "{\"kernel\": \"" + kernel + "\", \"chosen\": " + (chosen ? "true" : "false") +
                     ", \"prediction\": " + prediction_json(prediction) + ", \"works\": [";
  for (size_t i = 0; i < works.size(); ++i) json += (i == 0 ? "" : ", ") + work_json(works[i]);
  return json + "]}";
}

std::string devices_json() {
  std::ostringstream out;
  for (const Device& d : known_devices()) {
    out << (out.tellp() == 0 ? "[" : ", ") << "{\"name\": \"" << d.name << "\", \"capability\": " << d.capability
        << ", \"sms\": " << d.sms << ", \"clock_ghz\": " << d.clock_ghz << ", \"dram_gb_per_s\": " << d.dram_gb_per_s
        << ", \"l2_gb_per_s\": " << d.l2_gb_per_s << ", \"fp32_tflops\": " << d.fp32_tflops
        << ", \"tensor_tflops\": " << d.tensor_tflops << ", \"threads\": " << d.threads
        << ", \"blocks\": " << d.blocks << ", \"registers\": " << d.registers
        << ", \"shared_bytes\": " << d.shared_bytes << "}";
  }
  return out.str() + "]";
}

const Device& device_named(const std::string& name) {
  const Device* device = find_device(name);
  if (device != nullptr) return *device;
  std::string known;
  for (const Device& d : known_devices()) known += (known.empty() ? "" : ", ") + std::string(d.name);
  throw std::runtime_error("mbv1: device: expected one of " + known + ", got '" + name + "'");
}

std::vector<Work> works_from(const std::vector<double>& numbers) {
  if (numbers.empty() || numbers.size() % kWorkMembers != 0) {
    throw std::runtime_error("mbv1::cuda_predict: work: expected " + std::to_string(kWorkMembers) +
                             " numbers a launch, got " + std::to_string(numbers.size()));
  }
  std::vector<Work> works;
  for (size_t i = 0; i < numbers.size(); i += kWorkMembers) {
    const double* n = &numbers[i];
    works.push_back({static_cast<int64_t>(n[0]), static_cast<int>(n[1]), static_cast<int>(n[2]),
                     static_cast<int>(n[3]), n[4], n[5], n[6], n[7], n[8], n[9], n[10]});
  }
  return works;
}

}  // namespace mbv1::cuda
