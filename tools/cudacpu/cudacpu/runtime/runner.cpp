// Launches one kernel on buffers that come from files. The job file has one item a line:
//   kernel NAME_OR_SUBSTRING | grid X Y Z | block X Y Z | shared BYTES | shared_limit BYTES | seed N
//   buffer FILE                 device memory, read before and written back after the launch
//   parameters HEX              the kernel's parameter block
//   pointer OFFSET INDEX        puts the address of buffer INDEX into the parameter block
//   counts FILE                 where the counts go, if the kernel was compiled to count
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "scheduler/counts.h"

extern "C" const cudacpu::Module* const cudacpu_modules[];

namespace {

using namespace cudacpu;

struct Buffer {
  std::string file;
  char* memory;
  size_t bytes;
};

struct Job {
  std::string kernel;
  Dim3 grid{1, 1, 1}, block{1, 1, 1};
  size_t shared = 0;
  uint32_t seed = 1;
  DeviceLimits limits;
  std::vector<Buffer> buffers;
  std::vector<unsigned char> parameters;
  std::string counts;
};

Buffer read_buffer(const std::string& file) {
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  const size_t bytes = stream.tellg();
  Buffer buffer{file, static_cast<char*>(device_alloc(bytes, "buffer")), bytes};
  stream.seekg(0);
  stream.read(buffer.memory, bytes);
  return buffer;
}

std::vector<unsigned char> from_hex(const std::string& text) {
  std::vector<unsigned char> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes.push_back(std::stoul(text.substr(i, 2), nullptr, 16));
  return bytes;
}

Job read_job(const char* file) {
  Job job;
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    std::istringstream words(line);
    std::string key, text;
    words >> key;
    if (key == "kernel")
      words >> job.kernel;
    else if (key == "grid")
      words >> job.grid.x >> job.grid.y >> job.grid.z;
    else if (key == "block")
      words >> job.block.x >> job.block.y >> job.block.z;
    else if (key == "shared")
      words >> job.shared;
    else if (key == "shared_limit")
      words >> job.limits.opt_in_shared_bytes;
    else if (key == "counts")
      words >> job.counts;
    else if (key == "seed")
      words >> job.seed;
    else if (key == "buffer" && words >> text)
      job.buffers.push_back(read_buffer(text));
    else if (key == "parameters" && words >> text)
      job.parameters = from_hex(text);
    else if (key == "pointer") {
      size_t offset, index;
      words >> offset >> index;
      memcpy(&job.parameters.at(offset), &job.buffers.at(index).memory, sizeof(void*));
    }
  }
  return job;
}

// Kernels whose mangled name is `name`, or else has it as an identifier, or else contains it.
std::vector<const Kernel*> matching_kernels(const std::string& name) {
  const std::string identifier = std::to_string(name.size()) + name;
  std::vector<const Kernel*> exact, named, containing;
  for (const Module* const* m = cudacpu_modules; *m; ++m)
    for (size_t i = 0; i < (*m)->kernel_count; ++i) {
      const Kernel& kernel = (*m)->kernels[i];
      const std::string mangled = kernel.name;
      const size_t at = mangled.find(identifier);
      if (mangled == name) exact.push_back(&kernel);
      if (at != std::string::npos && at > 0 && !isdigit(mangled[at - 1])) named.push_back(&kernel);
      if (mangled.find(name) != std::string::npos) containing.push_back(&kernel);
    }
  return !exact.empty() ? exact : !named.empty() ? named : containing;
}

const Kernel* find_kernel(const std::string& name) {
  const std::vector<const Kernel*> matches = matching_kernels(name);
  if (matches.size() == 1) return matches[0];
  fprintf(stderr, "cudacpu: %zu kernels match %s\n", matches.size(), name.c_str());
  for (const Kernel* kernel : matches) fprintf(stderr, "  %s\n", kernel->name);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (const Module* const* m = cudacpu_modules; *m; ++m) load_module(**m);
  Job job = read_job(argv[1]);
  const Kernel* kernel = find_kernel(job.kernel);
  if (!kernel) return 3;
  LaunchError error = check_launch(*kernel, job.grid, job.block, job.shared, job.shared, job.limits);
  if (!error && kernel->parameter_bytes != job.parameters.size()) {
    fprintf(stderr, "cudacpu: %zu bytes of arguments, but %s takes %u\n", job.parameters.size(), kernel->name,
            kernel->parameter_bytes);
    return 3;
  }
  set_seed(job.seed);
  if (!error) error = launch(*kernel, job.grid, job.block, job.shared, job.parameters.data());
  if (error) {
    fprintf(stderr, "CUDA error %d: %s\n", error.code, error.message.c_str());
    return 1;
  }
  std::ofstream(job.counts) << take_counts();
  for (const Buffer& buffer : job.buffers)
    std::ofstream(buffer.file, std::ios::binary).write(buffer.memory, buffer.bytes);
  return 0;
}
