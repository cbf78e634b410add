// Launches: the limits of the device, and the distribution of blocks over workers.
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "scheduler/worker.h"

namespace cudacpu {

uint32_t global_seed = 1;

namespace {

unsigned worker_count(size_t blocks) {
  static const unsigned configured = [] {
    const char* text = getenv("CUDACPU_THREADS");
    return text ? std::max(1, atoi(text)) : std::min(std::thread::hardware_concurrency(), 8u);
  }();
  if (tsan() || __asan_poison_memory_region || !global_seed) return 1;
  return std::min<size_t>(configured, blocks);
}

void run_on_workers(Launch& launch) {
  static auto& workers = *new std::vector<Worker*>;  // they outlive every static destructor
  const unsigned count = worker_count(launch.block_order.size());
  while (workers.size() < count) workers.push_back(new Worker);
  auto run = [&](unsigned i) {
    worker = workers[i];
    worker->run(launch);
    worker = nullptr;
  };
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < count; ++i) helpers.emplace_back(run, i);
  run(0);
  for (std::thread& helper : helpers) helper.join();
}

// Kernels may take the address of a parameter, so parameters lie in device memory.
const unsigned char* copy_parameters(const unsigned char* parameters, size_t bytes) {
  constexpr size_t max_bytes = 32764;
  static auto* buffer = static_cast<unsigned char*>(device_alloc(max_bytes, "kernel parameter"));
  if (bytes) memcpy(buffer, parameters, bytes);
  return buffer;
}

LaunchError error(ErrorCode code, const Kernel& kernel, const std::string& text) {
  return LaunchError{code, text + "; kernel " + readable_name(kernel.name)};
}

}  // namespace

void set_seed(uint32_t seed) { global_seed = seed; }

void load_module(const Module& module) {
  for (size_t i = 0; i < module.variable_count; ++i) {
    const Variable& v = module.variables[i];
    void* p = device_alloc(v.bytes, v.name);
    memcpy(p, v.initial, v.bytes);
    *v.address = reinterpret_cast<uint64_t>(p);
  }
}

std::string readable_name(const char* mangled) {
  constexpr size_t longest = 300;
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 && text ? text : mangled;
  free(text);
  return name.size() > longest ? name.substr(0, longest) + "..." : name;
}

uint32_t static_shared_bytes(const Kernel& kernel) {
  uint32_t total = 0;
  for (uint32_t i = 0; i < kernel.shared_count; ++i) {
    const SharedObject& object = kernel.shared[i];
    total = (total + object.alignment - 1) / object.alignment * object.alignment + object.bytes;
  }
  return total;
}

LaunchError check_launch(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                         uint32_t dynamic_limit, const DeviceLimits& limits) {
  if (kernel.unsupported)
    return error(kNoKernelImage, kernel, std::string("not translated: ") + kernel.unsupported);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > kMaxThreads || block.x > 1024 || block.y > 1024 || block.z > 64)
    return error(kInvalidConfiguration, kernel,
                 "block " + triple(block) + " is empty or exceeds 1024 threads or (1024,1024,64)");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return error(kInvalidConfiguration, kernel,
                 "grid " + triple(grid) + " is empty or exceeds (2147483647,65535,65535)");
  if (kernel.max_threads && threads > kernel.max_threads)
    return error(kInvalidValue, kernel,
                 std::to_string(threads) + " threads exceed __launch_bounds__(" +
                     std::to_string(kernel.max_threads) + ")");
  const uint32_t fixed = static_shared_bytes(kernel);
  const size_t total = fixed + dynamic_shared;
  const std::string sizes = std::to_string(fixed) + " static + " + std::to_string(dynamic_shared) +
                            " dynamic bytes of shared memory";
  if (total > limits.opt_in_shared_bytes)
    return error(kInvalidValue, kernel,
                 sizes + " exceed the device's " + std::to_string(limits.opt_in_shared_bytes));
  if (total > std::max<size_t>(limits.default_shared_bytes, fixed + size_t(dynamic_limit)))
    return error(kInvalidValue, kernel,
                 sizes + " exceed 48 KiB and cudaFuncSetAttribute did not raise the limit");
  if (kernel.local_bytes > kStackBytes / 2)
    return error(kLaunchOutOfResources, kernel, "too much local memory for an emulated thread");
  return {};
}

LaunchError launch(const Kernel& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                   const unsigned char* parameters) {
  static std::mutex one_launch_at_a_time;
  std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (blocks > 0xffffffffull) return error(kInvalidConfiguration, kernel, "grid too large to emulate");
  Launch state;
  state.kernel = &kernel;
  state.grid = grid;
  state.block = block;
  state.threads = block.x * block.y * block.z;
  state.dynamic_shared = dynamic_shared;
  state.parameters = copy_parameters(parameters, kernel.parameter_bytes);
  state.block_order.resize(blocks);
  std::iota(state.block_order.begin(), state.block_order.end(), 0u);
  if (global_seed) Random(global_seed).shuffle(state.block_order);
  run_on_workers(state);
  if (!state.error && !state.counts.empty()) keep_counts(state.counts.json(kernel, grid, block, dynamic_shared));
  return state.error;
}

}  // namespace cudacpu
