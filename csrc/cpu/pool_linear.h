// Global average pool and linear layer: the means go to scratch memory, then one dot product an output.
#pragma once

#include "simd.h"

namespace mbv1::cpu {
namespace {

// Sums are made row by row, so that rounding errors grow with height + width and not with their product.
template <class T>
void pool_channels_nhwc(const PoolLinearParams& p, int64_t n, int64_t c, int64_t count, Acc<T>* mean) {
  using V = typename Vec<Acc<T>>::Type;
  const T* image = static_cast<const T*>(p.x) + n * p.x_stride.n + c;
  V total = {};
  for (int64_t h = 0; h < p.h; ++h) {
    V sum = {};
    for (int64_t w = 0; w < p.w; ++w) sum += load_part(image + h * p.x_stride.h + w * p.x_stride.w, count);
    total += sum;
  }
  store_part(mean, total / static_cast<Acc<T>>(p.h * p.w), count);
}

template <class T>
Acc<T> pool_plane(const PoolLinearParams& p, int64_t n, int64_t c) {
  const T* plane = static_cast<const T*>(p.x) + n * p.x_stride.n + c * p.x_stride.c;
  Acc<T> total = 0;
  for (int64_t h = 0; h < p.h; ++h) {
    Acc<T> sum = 0;
    for (int64_t w = 0; w < p.w; ++w) sum += load_one(plane + h * p.x_stride.h + w * p.x_stride.w);
    total += sum;
  }
  return total / static_cast<Acc<T>>(p.h * p.w);
}

// Outputs that share the loads of an image's means; each sum is a chain of additions of its own.
template <class T>
constexpr int kOutputs = smaller(8, kLanes<Acc<T>>);

// sums[i] = sum_k weight[i][k * step] * x[k]. What lies `ahead` of the weights is needed next.
template <class T>
void dot_products(const T* const* weight, int64_t step, const Acc<T>* x, int64_t count, int64_t ahead, Acc<T>* sums) {
  using V = typename Vec<Acc<T>>::Type;
  constexpr int kL = kLanes<Acc<T>>;
  V parts[kOutputs<T>] = {};
  int64_t k = 0;
  for (; step == 1 && k + kL <= count; k += kL) {
    const V means = load(x + k);
    repeat<kOutputs<T>>([&](auto i) MBV1_LAMBDA {
      parts[i] += load(weight[i] + k) * means;
      __builtin_prefetch(weight[i] + k + ahead, 0, 2);
    });
  }
  // Neighbours are added, of all vectors at once, until one vector holds one sum of each.
#pragma GCC unroll 4
  for (int left = kL, vectors = kOutputs<T>; left > 1; left /= 2, vectors = divide_up(vectors, 2)) {
#pragma GCC unroll 8
    for (int i = 0; 2 * i < vectors; ++i) {
      const V a = parts[2 * i], b = parts[smaller(2 * i + 1, vectors - 1)];
      parts[i] = even_lanes(a, b) + odd_lanes(a, b);
    }
  }
  for (int i = 0; i < kOutputs<T>; ++i) {
    sums[i] = parts[0][i];
    for (int64_t rest = k; rest < count; ++rest) sums[i] += load_one(weight[i] + rest * step) * x[rest];
  }
}

template <class T>
void pool_linear(const PoolLinearParams& p, const Threads& threads) {
  using A = Acc<T>;
  constexpr int kParts = kLanes<A>;
  A* means = workspace<A>(Slot::kInput, p.batch * p.channels);
  const int64_t blocks = divide_up(p.channels, kParts);
  parallel(threads, p.batch * blocks, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / blocks, c = item % blocks * kParts;
      const int64_t count = smaller<int64_t>(p.channels - c, kParts);
      A* mean = means + n * p.channels + c;
      if (p.x_stride.c == 1) {
        pool_channels_nhwc<T>(p, n, c, count, mean);
      } else {
        for (int64_t i = 0; i < count; ++i) mean[i] = pool_plane<T>(p, n, c + i);
      }
    }
  });
  const int64_t groups = divide_up(p.out_features, kOutputs<T>);
  parallel(threads, groups, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin * p.batch; item < end * p.batch; ++item) {
      const int64_t n = item % p.batch, o = item / p.batch * kOutputs<T>;
      const int64_t outputs = smaller<int64_t>(kOutputs<T>, p.out_features - o);
      const T* rows[kOutputs<T>];
      for (int64_t i = 0; i < kOutputs<T>; ++i) {
        rows[i] = static_cast<const T*>(p.weight) + (o + smaller(i, outputs - 1)) * p.weight_stride_o;
      }
      A sums[kOutputs<T>];
      dot_products<T>(rows, p.weight_stride_k, means + n * p.channels, p.channels, kOutputs<T> * p.weight_stride_o,
                      sums);
      for (int64_t i = 0; i < outputs; ++i) {
        if (p.bias != nullptr) sums[i] += load_one(static_cast<const T*>(p.bias) + (o + i) * p.bias_stride);
        store_one(static_cast<T*>(p.y) + n * p.out_features + o + i, sums[i]);
      }
    }
  });
}

constexpr Kernel<PoolLinearParams> kPoolLinear[] = {
    {"pool_linear_any", [](const PoolLinearParams&) { return true; },
     [](const PoolLinearParams& p, const Threads& threads) {
       with_dtype(p.dtype, [&](auto type) { pool_linear<decltype(type)>(p, threads); });
     }},
};

}  // namespace
}  // namespace mbv1::cpu
