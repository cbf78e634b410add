// Runs the CPU kernels without torch, on cases that cases_file.py wrote: for other processors, under an emulator, and
// for sanitizers.
//
//   driver CASES    runs the kernel that dispatch picks for each case, with 1 and with 3 threads; MBV1_CPU_ISA
//                   chooses the instruction set
//
// Exits with 1 for a wrong result or a kernel that no case reached, with 2 for a file that it cannot read.
//
// Every tensor lies in memory of its own, of exactly the size that the kernel may touch and with its alignment in
// torch; AddressSanitizer sees whatever is read or written beside it. Outputs start as NaN, between two guards.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../../csrc/cpu/kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) static_cast<void>(0)
#endif

namespace {

using namespace mbv1;

constexpr size_t kAlignment = 64;  // of torch's memory
constexpr unsigned char kGuard = 0xA5;

// `bytes` of memory that begin `lead` bytes after a multiple of 64, and a guard on either side.
class Buffer {
 public:
  Buffer(size_t lead, size_t bytes, int fill) : lead_(lead), bytes_(bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, kAlignment + lead + bytes + kAlignment) != 0) throw std::bad_alloc();
    memory_.reset(static_cast<unsigned char*>(memory));
    std::memset(memory_.get(), kGuard, kAlignment + lead + bytes + kAlignment);
    std::memset(data(), fill, bytes);
    ASAN_POISON_MEMORY_REGION(memory_.get(), kAlignment + lead);
    ASAN_POISON_MEMORY_REGION(data() + bytes, kAlignment);
  }
  Buffer(Buffer&&) = default;
  ~Buffer() { unpoison(); }

  unsigned char* data() const { return memory_.get() + kAlignment + lead_; }

  // Whether nothing was written beside the memory.
  bool guarded() {
    unpoison();
    bool same = true;
    for (size_t i = 0; i < kAlignment + lead_; ++i) same &= memory_.get()[i] == kGuard;
    for (size_t i = 0; i < kAlignment; ++i) same &= data()[bytes_ + i] == kGuard;
    return same;
  }

 private:
  void unpoison() {
    if (memory_ != nullptr) ASAN_UNPOISON_MEMORY_REGION(memory_.get(), kAlignment + lead_ + bytes_ + kAlignment);
  }

  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
  size_t lead_, bytes_;
};

// One case: what the kernel is told, in the order of its params, each item after a letter for its kind.
class Case {
 public:
  explicit Case(std::istream& file) : file_(file) {
    name = text();
    op = text();
  }

  std::string name, op;

  template <class... Fields>
  void read(Fields&... fields) {
    (item(fields), ...);
  }

  // Makes y anew and points the params at it.
  void clear_output(void*& y) {
    output_ = std::make_unique<Buffer>(0, expected_.size() * item_size(dtype_), 0xFF);
    y = output_->data();
  }

  // The largest error in units of what is allowed; infinite for NaN and for writes beside the output.
  double error() {
    double worst = output_->guarded() ? 0 : INFINITY;
    for (size_t i = 0; i < expected_.size(); ++i) {
      const double got = value(i), wanted = expected_[i];
      if (got == wanted || (std::isnan(got) && std::isnan(wanted))) continue;
      const double error = std::fabs(got - wanted);
      worst = std::fmax(worst, std::isfinite(error) && allowed_ > 0 ? error / allowed_ : INFINITY);
    }
    return worst;
  }

 private:
  template <class T>
  T raw() {
    T value;
    file_.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!file_) throw std::runtime_error("the file ends within a case");
    return value;
  }

  std::string text() {
    std::string text(static_cast<size_t>(raw<int64_t>()), '\0');
    file_.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }

  void expect(char kind) {
    const char got = raw<char>();
    if (got != kind) throw std::runtime_error(name + ": expected an item '" + kind + "', got '" + got + "'");
  }

  template <class Number>
    requires(std::is_arithmetic_v<Number> || std::is_enum_v<Number>)
  void item(Number& number) {
    expect('i');
    number = static_cast<Number>(raw<int64_t>());
    if constexpr (std::is_same_v<Number, DType>) dtype_ = number;
  }
  void item(Strides4& strides) { read(strides.n, strides.c, strides.h, strides.w); }
  void item(Window& w) {
    read(w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.pad_top, w.pad_left, w.dilation_h, w.dilation_w);
  }
  // An input, or none.
  void item(const void*& tensor) {
    const char kind = raw<char>();
    tensor = nullptr;
    if (kind == 'n') return;
    if (kind != 't') throw std::runtime_error(name + ": expected a tensor, got '" + kind + "'");
    const auto lead = static_cast<size_t>(raw<int64_t>()), bytes = static_cast<size_t>(raw<int64_t>());
    const Buffer& buffer = inputs_.emplace_back(lead, bytes, 0);
    file_.read(reinterpret_cast<char*>(buffer.data()), static_cast<std::streamsize>(bytes));
    tensor = buffer.data();
  }
  // The output: what is expected in it, in the order of its memory.
  void item(void*& tensor) {
    const char kind = raw<char>();
    tensor = nullptr;
    if (kind == 'n') return;
    if (kind != 'y') throw std::runtime_error(name + ": expected an output, got '" + kind + "'");
    allowed_ = raw<double>();
    expected_.resize(static_cast<size_t>(raw<int64_t>()));
    file_.read(reinterpret_cast<char*>(expected_.data()), static_cast<std::streamsize>(expected_.size() * 8));
  }

  static size_t item_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

  double value(size_t i) const {
    switch (dtype_) {
      case DType::kFloat64:
        return load<double>(i);
      case DType::kFloat32:
        return load<float>(i);
      case DType::kFloat16:
        return half(load<uint16_t>(i));
      default:
        break;
    }
    const uint32_t bits = static_cast<uint32_t>(load<uint16_t>(i)) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
  }
  // By hand: not every compiler has a type for it.
  static double half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(fraction, -24)
                                        : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 != 0 ? -size : size;
  }
  template <class T>
  T load(size_t i) const {
    T value;
    std::memcpy(&value, output_->data() + i * sizeof(T), sizeof value);
    return value;
  }

  std::istream& file_;
  DType dtype_ = DType::kFloat32;
  std::vector<Buffer> inputs_;
  std::unique_ptr<Buffer> output_;
  std::vector<double> expected_;
  double allowed_ = 0;
};

// The items of each op, as cases_file.py lists them.
void read(Case& c, DwConv2dParams& p) {
  c.read(p.x, p.weight, p.bias, p.y, p.batch, p.channels, p.in_h, p.in_w, p.out_h, p.out_w, p.x_stride, p.y_stride,
         p.weight_stride_c, p.weight_stride_h, p.weight_stride_w, p.bias_stride, p.window, p.activation, p.dtype);
}
void read(Case& c, PwConv2dParams& p) {
  c.read(p.x, p.weight, p.bias, p.residual, p.y, p.batch, p.in_channels, p.out_channels, p.h, p.w, p.x_stride,
         p.residual_stride, p.y_stride, p.weight_stride_o, p.weight_stride_k, p.bias_stride, p.activation, p.dtype);
}
void read(Case& c, SeparableConv2dParams& p) { read(c, p.dw), read(c, p.pw); }
void read(Case& c, StemConv2dParams& p) {
  c.read(p.x, p.weight, p.bias, p.y, p.batch, p.in_channels, p.out_channels, p.in_h, p.in_w, p.out_h, p.out_w,
         p.x_stride, p.y_stride, p.weight_stride_o, p.weight_stride_c, p.weight_stride_h, p.weight_stride_w,
         p.bias_stride, p.window, p.activation, p.dtype);
}
void read(Case& c, PoolLinearParams& p) {
  c.read(p.x, p.weight, p.bias, p.y, p.batch, p.channels, p.h, p.w, p.out_features, p.x_stride, p.weight_stride_o,
         p.weight_stride_k, p.bias_stride, p.dtype);
}

template <class Params>
void*& output_of(Params& params) {
  return params.y;
}
void*& output_of(SeparableConv2dParams& params) { return params.pw.y; }

template <int kThreads>
void parallel_for(int64_t items, void (*body)(const void*, int64_t, int64_t), const void* context) {
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < kThreads; ++t) {
    const int64_t begin = items * t / kThreads, end = items * (t + 1) / kThreads;
    if (begin < end) threads.emplace_back(body, context, begin, end);
  }
  for (std::thread& thread : threads) thread.join();
}
void run_here(int64_t items, void (*body)(const void*, int64_t, int64_t), const void* context) {
  if (items > 0) body(context, 0, items);
}

struct Tally {
  std::set<std::string> reached, unreached;
  int64_t runs = 0, failures = 0;

  // Calls run(threads), which fills y, with one thread and with three.
  template <class Run>
  void check(Case& c, const char* kernel, void*& y, Run run, double limit = 1) {
    reached.insert(kernel);
    for (const cpu::Threads& threads : {cpu::Threads{run_here, 1}, cpu::Threads{parallel_for<3>, 3}}) {
      c.clear_output(y);
      run(threads);
      ++runs;
      const double error = c.error();
      if (error <= limit) continue;
      ++failures;
      std::printf("FAILED %s: %s with %d threads: %.3g times the error that is allowed\n", c.name.c_str(), kernel,
                  static_cast<int>(threads.count), error);
    }
  }
};

template <class Params>
void run(Case& c, const KernelTable<cpu::Kernel<Params>>& table, Tally& tally) {
  Params params{};
  read(c, params);
  const cpu::Kernel<Params>* kernel = table.pick(params);
  if (kernel == nullptr) throw std::runtime_error(c.name + ": no kernel takes it");
  tally.check(c, kernel->name, output_of(params), [&](const cpu::Threads& threads) { kernel->run(params, threads); });
}

// A chain of layers, with Strassen's algorithm and without: its weights are packed, into memory of exactly that size,
// before it runs.
void run_chain(Case& c, Tally& tally) {
  const cpu::Kernels& kernels = cpu::kernels();
  ChainParams params{};
  c.read(params.x, params.y, params.batch, params.x_stride, params.y_stride, params.stage_count, params.dtype);
  std::vector<ChainStage> stages(static_cast<size_t>(params.stage_count));
  std::vector<SeparableConv2dParams> weights(stages.size());
  for (size_t i = 0; i < stages.size(); ++i) {
    ChainStage& s = stages[i];
    SeparableConv2dParams& w = weights[i];
    c.read(s.separable, s.in_channels, s.out_channels, s.in_h, s.in_w, s.out_h, s.out_w, s.window, s.dw_activation,
           s.activation, w.dw.weight, w.dw.bias, w.pw.weight, w.pw.bias, w.dw.weight_stride_c, w.dw.weight_stride_h,
           w.dw.weight_stride_w, w.dw.bias_stride, w.pw.weight_stride_o, w.pw.weight_stride_k, w.pw.bias_stride);
    w.dw.channels = s.in_channels, w.dw.window = s.window;
  }
  params.stages = stages.data();
  for (bool strassen : {true, false}) {
    std::vector<Buffer> packed;
    for (size_t i = 0; i < stages.size(); ++i) {
      ChainStage& s = stages[i];
      s.strassen = strassen;
      packed.emplace_back(0, static_cast<size_t>(kernels.packed_bytes(s, params.dtype)), 0xFF);
      s.packed = packed.back().data();
      kernels.pack(s, params.dtype, weights[i], cpu::Threads{run_here, 1});
    }
    // Strassen's rounding errors: three times the bound of the usual product.
    tally.check(
        c, "chain", params.y, [&](const cpu::Threads& threads) { kernels.chain(params, threads); }, strassen ? 3 : 1);
  }
}

// Calls f with the params and the table of each op.
template <class F>
void for_each_op(F f) {
  const cpu::Kernels& kernels = cpu::kernels();
  f(DwConv2dParams{}, kernels.dwconv2d), f(PwConv2dParams{}, kernels.pwconv2d);
  f(SeparableConv2dParams{}, kernels.separable_conv2d), f(StemConv2dParams{}, kernels.stem_conv2d);
  f(PoolLinearParams{}, kernels.pool_linear);
}

int run_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string(path) + " cannot be opened");
  Tally tally;
  int64_t cases = 0;
  for (; file.peek() != EOF; ++cases) {
    Case c(file);
    bool known = c.op == "chain";
    if (known) run_chain(c, tally);
    for_each_op([&](const auto& params, const auto& table) {
      if (c.op != op_name(params)) return;
      known = true;
      run(c, table, tally);
    });
    if (!known) throw std::runtime_error(c.name + ": unknown op '" + c.op + "'");
  }
  for_each_op([&](const auto&, const auto& table) {
    for (const auto& kernel : table) {
      if (!tally.reached.count(kernel.name)) tally.unreached.insert(kernel.name);
    }
  });
  for (const std::string& name : tally.unreached) std::printf("FAILED: no case reached %s\n", name.c_str());
  std::printf("%lld cases, %zu kernels, %lld runs, %lld failures\n", static_cast<long long>(cases),
              tally.reached.size(), static_cast<long long>(tally.runs), static_cast<long long>(tally.failures));
  return tally.failures > 0 || !tally.unreached.empty() || cases == 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 2) throw std::runtime_error("expected one argument, a file that cases_file.py wrote");
    return run_file(arguments[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "driver: %s\n", error.what());
    return 2;
  }
}
