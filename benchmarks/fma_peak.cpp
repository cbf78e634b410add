// The multiply-add rate of a processor's vector units: independent chains in registers, no memory. Compiled by
// fma_peak.py for the processor at hand (-march=native).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kChains = 24;  // of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kChains = 12;  // of 16 registers; latency x throughput is 8 to 10
#else
constexpr int kVectorBytes = 16, kChains = 12;
#endif
constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr int kSteps = 20000;  // some 0.1 ms
typedef float Vector __attribute__((vector_size(kVectorBytes)));

volatile float sink;

template <class Step>
void run(Step step) {
  Vector sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Vector{} + static_cast<float>(i);
  for (int n = 0; n < kSteps; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sums[i] = step(sums[i]);
  }
  Vector total{};
  for (int i = 0; i < kChains; ++i) total += sums[i];
  sink = total[0];
}

void multiply_add() {
  Vector factor = Vector{} + 0.999f, addend = Vector{} + 0.001f;
  asm volatile("" : "+x"(factor), "+x"(addend));
  run([=](Vector sum) { return sum * factor + addend; });
}

// FLOPs of one chain's step in float32.
constexpr double kFlops = 2.0 * kLanes;

#if defined(__AVX512BF16__)
void dot_bf16() {
  Vector one = Vector{} + 1.0f;
  asm volatile("" : "+x"(one));
  const __m512bh factors = (__m512bh)one;
  run([=](Vector sum) { return (Vector)_mm512_dpbf16_ps((__m512)sum, factors, factors); });
}
#endif

// FLOP/s of `threads` threads that start together, the best of tries over `seconds`.
double best(void (*work)(), double flops, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  constexpr int kRepeats = 20;
  const Clock::time_point start = Clock::now();
  double rate = 0;
  do {
    std::atomic<int> waiting{threads};
    std::vector<Clock::time_point> begins(threads), ends(threads);
    const auto body = [&](int thread) {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      begins[thread] = Clock::now();
      for (int i = 0; i < kRepeats; ++i) work();
      ends[thread] = Clock::now();
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
    body(0);
    for (std::thread& other : others) other.join();
    const Clock::time_point begin = *std::min_element(begins.begin(), begins.end());
    const Clock::time_point end = *std::max_element(ends.begin(), ends.end());
    rate = std::max(rate, flops * kChains * kSteps * kRepeats * threads / Seconds(end - begin).count());
  } while (Seconds(Clock::now() - start).count() < seconds);
  return rate;
}

}  // namespace

extern "C" double fma_float32(int threads, double seconds) { return best(multiply_add, kFlops, threads, seconds); }

// By dot products of pairs, summed in float32; 0 where the processor has none.
extern "C" double fma_bfloat16(int threads, double seconds) {
#if defined(__AVX512BF16__)
  return best(dot_bf16, 2 * kFlops, threads, seconds);
#else
  return 0 * threads * seconds;
#endif
}
