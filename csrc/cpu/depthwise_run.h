// The depthwise kernel: runs of neighbouring output pixels of one block of kLanes channels.
#pragma once

#include "activation.h"
#include "packing.h"

namespace mbv1::cpu {
namespace {

// What runs of neighbouring blocks fetch into the second-level cache meanwhile, in the order in which it lies in
// memory: as many pixels as they read anew, of `rows` rows of the input that are `row_bytes` apart, and as many as
// they make of the output, where y is not null. Each takes a share; x, y and the pixels are those of all of them
// together.
struct DwFetch {
  int64_t rows = 0, row_bytes = 0;
  const char* x = nullptr;
  const char* y = nullptr;

  // For the run of a block that begins `at` bytes behind the first.
  template <int kColumns, int kOutputs>
  MBV1_INLINE void share(int64_t at) const {
    if (rows == 0 || at % kCacheLine != 0) return;
    for (int64_t r = 0; r < rows; ++r) {
      const char* line = x + r * row_bytes + at * kColumns;
      repeat<kColumns>([&](auto i) MBV1_LAMBDA { __builtin_prefetch(line + i * kCacheLine, 0, 2); });
    }
    if (y == nullptr) return;
    const char* line = y + at * kOutputs;
    repeat<kOutputs>([&](auto i) MBV1_LAMBDA { __builtin_prefetch(line + i * kCacheLine, 1, 2); });
  }
};

// One block of channels of one output row, or of `count` rows with the same window, whose inputs lie `in_step`
// elements and whose outputs `out_step` offsets apart.
template <class T>
struct DwRow {
  int64_t count = 1, in_step = 0, out_step = 0;
  bool by_blocks = false;  // runs that are made at once are of neighbouring blocks, not behind each other,
  int64_t in_block = 0, out_block = 0;  // whose inputs and outputs lie so far apart
  int64_t row_size, rows;               // of the input
  int64_t first_slot, begin, end;       // kernel rows [begin, end), the first at row `first_slot` of the input
  int64_t pixel;                        // from one column to the next,
  int64_t columns_begin, columns_end;   // and the columns that exist, counted from the first one of the run
  const Acc<T>* taps;                   // of the block
  const Acc<T>* bias;
  int64_t tap_step;
  Window window;
  Activation activation;
  bool bf16_products = has_bf16_products();
  DwFetch fetch;

  // The input row that the next kernel row reads.
  int64_t below(int64_t slot) const {
    slot += window.dilation_h;
    while (slot >= rows) slot -= rows;
    return slot;
  }
};

// Sums that are made side by side: with the weights of a kernel row they fill 32 or 16 registers.
constexpr int kLongRun = kVectorBytes == 64 ? 14 : 7;
constexpr int kShortRun = kVectorBytes == 64 ? 7 : 3;
// Taps of any kernel row that are taken at once.
constexpr int kAnyTaps = 4;
// Rows of a kernel of a width of its own.
constexpr int kMostRows = 7;

// Addresses `step` elements apart, each made of the one before it: the compiler would make them all first, and keep
// them in memory.
template <class T>
struct Walk {
  const T* at;
  int64_t step;

  MBV1_INLINE const T* next() {
    const T* const here = at;
    at = in_register(at + step);
    return here;
  }
};

// kK neighbouring taps, whose columns lie `pixel` apart, for sums at stride kS. A column is loaded once, if it
// exists.
template <int kK, int kS, bool kMap, int kRun, class T, class V, class Exists>
MBV1_INLINE void add_taps(const T* x, int64_t pixel, const Acc<T>* taps, int64_t tap_step, const Exists& exists,
                          V (&sums)[kRun]) {
  V weights[kK];
  Walk<Acc<T>> tap{taps, tap_step};
  repeat<kK>([&](auto j) MBV1_LAMBDA { weights[j] = load(tap.next()); });
  Walk<T> pixels{x, pixel};
  repeat<(kRun - 1) * kS + kK>([&](auto column) MBV1_LAMBDA {
    const T* const at = kMap ? x + column * kLanes<Acc<T>> : pixels.next();
    if (!exists(column)) return;
    const V value = in_register(load(at));
    repeat<kK>([&](auto j) MBV1_LAMBDA {
      constexpr int kFrom = column - j;
      if constexpr (kFrom >= 0 && kFrom % kS == 0 && kFrom / kS < kRun) {
        sums[kFrom / kS] = multiply_add<Acc<T>>(sums[kFrom / kS], weights[j], value);
      }
    });
  });
}

// kRun sums of an output row to y[offsets[0]], y[offsets[step]] …
template <class T, class D, int kRun>
MBV1_INLINE void store_run(const DwRow<T>& p, const typename Vec<Acc<T>>::Type (&sums)[kRun], D* y,
                           const int64_t* offsets, int64_t step) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr bool kHasInstruction = kVectorBytes == 64 && std::is_same_v<D, BFloat16>;  // to round by
  if ((std::is_same_v<T, A> || (kHasInstruction && p.bf16_products)) && is_clamp(p.activation)) {
    const A low = low_of<A>(p.activation), high = high_of<A>(p.activation);
    const auto finish = [&](auto bounded) MBV1_LAMBDA {
      const int64_t* const place = in_register(offsets);  // not read before the branch, for want of registers
      repeat<kRun>([&](auto r) MBV1_LAMBDA {
        V sum = sums[r] < low ? broadcast(low) : sums[r];
        if constexpr (bounded) sum = sum > high ? broadcast(high) : sum;
        store_product<D>(y + place[r * step], sum, kLanes<A>);
      });
    };
    high < std::numeric_limits<A>::infinity() ? finish(std::true_type{}) : finish(std::false_type{});
  } else {
    V copies[kRun];  // an array that is indexed at run time lies in memory, which the sums should not
    repeat<kRun>([&](auto r) MBV1_LAMBDA { copies[r] = sums[r]; });
#pragma GCC unroll 1
    for (int r = 0; r < kRun; ++r) {
      V sum = activate<A>(copies[r], p.activation);
      if constexpr (!std::is_same_v<T, D>) sum = rounded<T>(sum);
      store(y + offsets[r * step], sum);
    }
  }
}

// The windows' columns from tap to tap and from output to output, and those that exist, counted from the first one.
template <class T, int kK, bool kMap>
struct Columns {
  int64_t dilation, stride, pixel, begin, end;
  bool dense;

  Columns(const DwRow<T>& p, int64_t step)
      : dilation(p.window.dilation_w),
        stride(step * p.window.stride_w),
        pixel(kMap ? kLanes<Acc<T>> : p.pixel * dilation),
        dense(kK > 0 || stride == dilation) {
    begin = dense ? divide_up(p.columns_begin, dilation) : p.columns_begin;
    end = dense ? divide_up(p.columns_end, dilation) : p.columns_end;
  }
};

// One run of a window of any width and stride, any of whose columns may be missing.
template <class T, class D, bool kMap, int kRun>
void depthwise_any_run(const DwRow<T>& p, const Columns<T, 0, kMap>& columns, const T* x, D* y, const int64_t* place,
                       int64_t step, const Acc<T>* all_taps, const Acc<T>* bias) {
  using V = typename Vec<Acc<T>>::Type;
  const int64_t dilation = columns.dilation, stride = columns.stride, pixel = columns.pixel, tap_step = p.tap_step;
  const int64_t begin = columns.begin, end = columns.end;
  const bool dense = columns.dense;
  V sums[kRun];
  repeat<kRun>([&](auto r) MBV1_LAMBDA { sums[r] = load(bias); });
  int64_t slot = p.first_slot;
  for (int64_t i = p.begin; i < p.end; ++i, slot = p.below(slot)) {
    const T* row = x + slot * p.row_size;
    const Acc<T>* taps = all_taps + i * p.window.kernel_w * tap_step;
    int64_t j = 0;
    for (; kRun > 1 && dense && j + kAnyTaps <= p.window.kernel_w; j += kAnyTaps) {
      const auto exists = [&](auto column) MBV1_LAMBDA { return j + column >= begin && j + column < end; };
      add_taps<kAnyTaps, 1, false>(row + j * pixel, pixel, taps + j * tap_step, tap_step, exists, sums);
    }
    for (; j < p.window.kernel_w; ++j) {
      const auto add = [&](const auto& exists) MBV1_LAMBDA {
        add_taps<1, 1, false>(row + j * pixel, p.pixel * stride, taps + j * tap_step, tap_step, exists, sums);
      };
      const int64_t first = dense ? j : j * dilation, step_of = dense ? 1 : stride;
      if (first >= begin && first + (kRun - 1) * step_of < end) {
        add([](auto) MBV1_LAMBDA { return true; });
      } else {
        add([&](auto r) MBV1_LAMBDA { return first + r * step_of >= begin && first + r * step_of < end; });
      }
    }
  }
  store_run(p, sums, y, place, step);
}

// `count` runs, one behind the other or block by block, of kRun outputs `step` apart. The first one's window begins
// at x, and it goes to y[offsets[0]], y[offsets[step]] … D is T, or what the product takes as its left factor, which
// gets the values that a tensor would hold. kK is the kernel's width, of kMostRows rows at most, and kS the stride in
// columns of the window, which lie dilation_w apart; or kK is 0 for any of all. kMap: the input is a map, and
// undilated. Else columns may be missing, where kK > 0 fewer than that on either side.
template <class T, class D, int kK, int kS, bool kMap, int kRun>
__attribute__((noinline)) void depthwise_run(const DwRow<T>& p, const T* x, D* y, const int64_t* offsets,
                                             int64_t step, int64_t count) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>;
  const Columns<T, kK, kMap> columns(p, step);
  const auto for_each = [&](const auto& make) MBV1_LAMBDA {
    const bool by_blocks = !kMap && p.by_blocks;
    const int64_t next_x = by_blocks ? p.in_block : kRun * columns.stride * (kMap ? kL : p.pixel);
    const int64_t next_y = by_blocks ? p.out_block : 0, next_place = by_blocks ? 0 : kRun * step;
    const int64_t next_taps = by_blocks ? kL : 0;
    for (int64_t row = 0; row < p.count; ++row) {
      const T* from = x + row * p.in_step;
      D* to = y;
      const int64_t* place = offsets + row * p.out_step;
      const A *taps = p.taps, *bias = p.bias;
      for (int64_t run = 0; run < count; ++run) {
        make(from, to, place, taps, bias);
        if constexpr (kK > 0 && !kMap) p.fetch.template share<kRun * kS, kRun>(run * kL * int64_t{sizeof(T)});
        from += next_x, to += next_y, place += next_place, taps += next_taps, bias += next_taps;
      }
    }
  };
  if constexpr (kK == 0) {
    for_each([&](const T* from, D* to, const int64_t* place, const A* taps, const A* bias)
                 MBV1_LAMBDA { depthwise_any_run<T, D, kMap, kRun>(p, columns, from, to, place, step, taps, bias); });
  } else {
    const int64_t row_count = p.end - p.begin, tap_step = p.tap_step, first_tap = p.begin * kK * tap_step;
    int64_t rows[kMostRows];
    for (int64_t i = 0, slot = p.first_slot; i < row_count; ++i, slot = p.below(slot)) rows[i] = slot * p.row_size;
    const auto make_runs = [&](const auto& for_rows, const auto& exists) MBV1_LAMBDA {
      for_each([&](const T* from, D* to, const int64_t* place, const A* taps, const A* bias) MBV1_LAMBDA {
        V sums[kRun];
        const V start = load(bias);
        repeat<kRun>([&](auto r) MBV1_LAMBDA { sums[r] = start; });
        for_rows([&](int64_t i) MBV1_LAMBDA {
          add_taps<kK, kS, kMap>(from + rows[i], columns.pixel, taps + first_tap + i * kK * tap_step, tap_step,
                                 exists, sums);
        });
        store_run(p, sums, to, place, kMap ? 1 : step);
      });
    };
    const auto all = [](auto) MBV1_LAMBDA { return true; };
    const auto any_rows = [&](const auto& add_row) MBV1_LAMBDA {
#pragma GCC unroll 1
      for (int64_t i = 0; i < row_count; ++i) add_row(i);
    };
    constexpr int kLast = (kRun - 1) * kS;  // the first column of the last window
    if constexpr (kMap && kK == 3) {
      if (row_count == 3) return make_runs([](const auto& add_row) MBV1_LAMBDA { repeat<3>(add_row); }, all);
    }
    // Without a question for each of the outer columns, where the arithmetic does not hide it.
    if constexpr (kMap || (kK == 3 && kRun == kLongRun)) {
      if (kMap || (columns.begin <= 0 && kLast + kK <= columns.end)) return make_runs(any_rows, all);
    }
    if constexpr (!kMap) {
      const int64_t begin = columns.begin, end = columns.end;
      make_runs(any_rows, [=](auto column) MBV1_LAMBDA {
        return (column >= kK - 1 || column >= begin) && (column <= kLast || column < end);
      });
    }
  }
}

}  // namespace
}  // namespace mbv1::cpu
