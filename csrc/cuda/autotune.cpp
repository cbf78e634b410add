#include "autotune.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>

namespace mbv1::cuda {
namespace {

namespace fs = std::filesystem;

struct Choice {
  std::string kernel;
  double us;
};
using Choices = std::map<std::string, Choice>;  // by call

fs::path cache_folder() {
  const auto variable = [](const char* name) -> fs::path {
    const char* text = std::getenv(name);
    return text == nullptr ? "" : text;
  };
  if (const fs::path folder = variable("MBV1_AUTOTUNE_CACHE"); !folder.empty()) return folder;
  if (const fs::path folder = variable("XDG_CACHE_HOME"); !folder.empty()) return folder / "mbv1_kernels";
  if (const fs::path folder = variable("HOME"); !folder.empty()) return folder / ".cache/mbv1_kernels";
  return {};
}

// autotune-0.1.0-NVIDIA_H100_80GB_HBM3-132.txt; empty where there is no place for it.
fs::path cache_file(int device) {
  const fs::path folder = cache_folder();
  cudaDeviceProp properties{};
  if (folder.empty() || cudaGetDeviceProperties(&properties, device) != cudaSuccess) return {};
  std::string name = properties.name;
  std::replace_if(name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return folder /
         ("autotune-" MBV1_VERSION "-" + name + "-" + std::to_string(properties.multiProcessorCount) + ".txt");
}

Choices read_choices(const fs::path& file) {
  Choices choices;
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    std::istringstream words(line);
    std::string op, dtype, digest, more;
    Choice choice{};
    const bool whole = static_cast<bool>(words >> op >> dtype >> digest >> choice.kernel >> choice.us);
    if (whole && !(words >> more)) choices[op + " " + dtype + " " + digest] = choice;
  }
  return choices;
}

// Held while the file is read, merged and replaced. Without it a choice of another process could be lost, no more.
class FileLock {
 public:
  explicit FileLock(const fs::path& file) : descriptor_(open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666)) {
    if (descriptor_ >= 0) flock(descriptor_, LOCK_EX);
  }
  ~FileLock() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

// Fails silently: the cache saves time and nothing else.
void write_choice(const fs::path& file, const std::string& call, const Choice& choice) {
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) return;
  const FileLock lock(file.string() + ".lock");
  Choices choices = read_choices(file);
  choices[call] = choice;
  const fs::path scratch = file.string() + "." + std::to_string(getpid());
  {
    std::ofstream stream(scratch);
    for (const auto& [key, value] : choices) stream << key << " " << value.kernel << " " << value.us << "\n";
    stream.close();
    if (!stream) {
      fs::remove(scratch, error);
      return;
    }
  }
  fs::rename(scratch, file, error);
  if (error) fs::remove(scratch, error);
}

std::mutex mutex;

struct DeviceChoices {
  fs::path file;
  Choices choices;
};

// Of the current device; `mutex` is held.
DeviceChoices& current_choices() {
  static std::map<int, DeviceChoices> devices;
  int index = 0;
  cudaGetDevice(&index);
  const auto [found, is_new] = devices.try_emplace(index);
  if (is_new) found->second.file = cache_file(index);
  return found->second;
}

}  // namespace

bool autotune_enabled() {
  static const bool enabled = [] {
    const char* text = std::getenv("MBV1_AUTOTUNE");
    return text != nullptr && std::string(text) == "1";
  }();
  return enabled;
}

std::string tuned_kernel(const std::string& call) {
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceChoices& device = current_choices();
  auto found = device.choices.find(call);
  if (found == device.choices.end() && !device.file.empty()) {
    Choices on_disk = read_choices(device.file);
    on_disk.merge(device.choices);
    device.choices = std::move(on_disk);
    found = device.choices.find(call);
  }
  return found == device.choices.end() ? "" : found->second.kernel;
}

void keep_tuned(const std::string& call, const std::string& kernel, double us) {
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceChoices& device = current_choices();
  device.choices[call] = {kernel, us};
  if (!device.file.empty()) write_choice(device.file, call, {kernel, us});
}

double measure_us(const std::function<cudaError_t()>& launch, cudaStream_t stream) {
  constexpr double kFailed = std::numeric_limits<double>::infinity();
  constexpr int kRounds = 5, kLaunches = 10;
  cudaEvent_t start = nullptr, end = nullptr;
  bool good = cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess;
  good = good && launch() == cudaSuccess && launch() == cudaSuccess;  // warm-up
  double best = kFailed;
  for (int round = 0; good && round < kRounds; ++round) {
    good = cudaEventRecord(start, stream) == cudaSuccess;
    for (int i = 0; good && i < kLaunches; ++i) good = launch() == cudaSuccess;
    float milliseconds = 0;
    good = good && cudaEventRecord(end, stream) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess &&
           cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess;
    if (good) best = std::min(best, milliseconds * 1e3 / kLaunches);
  }
  if (start != nullptr) cudaEventDestroy(start);
  if (end != nullptr) cudaEventDestroy(end);
  if (!good) cudaGetLastError();  // a launch that was refused says nothing about the next
  return good ? best : kFailed;
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

}  // namespace mbv1::cuda
