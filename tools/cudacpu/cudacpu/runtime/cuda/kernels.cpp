// Registration of kernels and variables, and their translated counterparts.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cuda/cudart.h"

namespace cudacpu {
namespace {

std::mutex registry_mutex;

std::unordered_map<const void*, HostFunction>& host_functions() {
  static auto* map = new std::unordered_map<const void*, HostFunction>;
  return *map;
}

std::unordered_map<const void*, const char*>& host_variables() {
  static auto* map = new std::unordered_map<const void*, const char*>;
  return *map;
}

struct Translated {
  std::unordered_map<std::string, const Kernel*> kernels;
  std::unordered_map<std::string, const Variable*> variables;

  Translated() {
    const char* libraries = getenv("CUDACPU_KERNELS");
    std::string rest = libraries ? libraries : "";
    while (!rest.empty()) {
      const size_t colon = rest.find(':');
      load(rest.substr(0, colon));
      rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
    }
  }

  void load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* symbol = library ? dlsym(library, "cudacpu_modules") : nullptr;
    if (!symbol) {
      fprintf(stderr, "cudacpu: cannot load %s: %s\n", path.c_str(), dlerror());
      return;
    }
    for (auto m = static_cast<const Module* const*>(symbol); *m; ++m) {
      load_module(**m);
      for (size_t i = 0; i < (*m)->kernel_count; ++i)
        kernels.emplace(comparable((*m)->kernels[i].name), &(*m)->kernels[i]);
      for (size_t i = 0; i < (*m)->variable_count; ++i)
        variables.emplace(comparable((*m)->variables[i].name), &(*m)->variables[i]);
    }
  }
};

const Translated& translated() {
  static const auto* instance = new Translated;
  return *instance;
}

}  // namespace

HostFunction* find_function(const void* host) {
  std::lock_guard<std::mutex> lock(registry_mutex);
  auto it = host_functions().find(host);
  if (it == host_functions().end()) return nullptr;
  HostFunction& function = it->second;
  if (!function.resolved) {
    auto found = translated().kernels.find(comparable(function.device_name));
    if (found != translated().kernels.end()) function.kernel = found->second;
    function.resolved = true;
  }
  return &function;
}

char* symbol_address(const void* symbol) {
  auto it = host_variables().find(symbol);
  if (it == host_variables().end()) return nullptr;
  auto found = translated().variables.find(comparable(it->second));
  return found == translated().variables.end() ? nullptr : reinterpret_cast<char*>(*found->second->address);
}

}  // namespace cudacpu

using namespace cudacpu;

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* host, char*, const char* device_name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  std::lock_guard<std::mutex> lock(registry_mutex);
  host_functions()[host].device_name = device_name;
}

void __cudaRegisterVar(void**, char* host, char*, const char* device_name, int, size_t, int, int) {
  std::lock_guard<std::mutex> lock(registry_mutex);
  host_variables()[host] = device_name;
}

}  // extern "C"
