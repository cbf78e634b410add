// The depthwise kernel: runs of neighbouring output pixels of one block of kLanes channels, in one row or in two.
#pragma once

#include "activation.h"
#include "packing.h"

namespace mbv1::cpu {
namespace {

// What runs of whole pixels fetch into the second-level cache meanwhile, in the order in which it lies in memory: as
// many pixels, of `pixel_bytes`, as they read anew, of `rows` rows of the input that are `row_bytes` apart, and as
// many as they make of the output, in rows `y_row_bytes` apart, where y is not null. Each block takes a share.
struct DwFetch {
  int64_t rows = 0, row_bytes = 0, y_row_bytes = 0, pixel_bytes = 0;
  const char* x = nullptr;
  const char* y = nullptr;

  // For the block of run `run` that begins `at` bytes behind the first.
  template <int kColumns, int kRows, int kOutputs>
  MBV1_INLINE void share(int64_t run, int64_t at) const {
    if (rows == 0 || at % kCacheLine != 0) return;
    const char* line = x + (run * pixel_bytes + at) * kColumns;
    for (int64_t r = 0; r < rows; ++r, line += row_bytes) {
      repeat<kColumns>([&](auto i) MBV1_LAMBDA { __builtin_prefetch(line + i * kCacheLine, 0, 2); });
    }
    if (y == nullptr) return;
    const char* to = y + (run * pixel_bytes + at) * kOutputs;
    repeat<kRows>([&](auto r) MBV1_LAMBDA {
      repeat<kOutputs>([&](auto i) MBV1_LAMBDA { __builtin_prefetch(to + r * y_row_bytes + i * kCacheLine, 1, 2); });
    });
  }
};

// Neighbouring blocks of channels of an output row, or of two neighbouring ones; or of `count` times as many with the
// same windows, whose inputs lie `in_step` elements and whose outputs `out_step` offsets apart.
template <class T>
struct DwRow {
  int64_t count = 1, in_step = 0, out_step = 0;
  int64_t y_step = 0, place_step = 0;               // from an output row to the second of two: elements, and offsets
  int64_t blocks = 1, in_block = 0, out_block = 0;  // and elements from one to the next
  int64_t row_size, rows;                           // of the input
  int64_t first_slot, begin, end;      // rows [begin, end) of the windows, the first at row `first_slot` of the input
  int64_t pixel;                       // from one column to the next,
  int64_t columns_begin, columns_end;  // and the columns that exist, counted from the first one of the first run
  const Acc<T>* taps;                  // of the first block
  const Acc<T>* bias;
  int64_t tap_step;
  Window window;
  Activation activation;
  bool bf16_products = has_bf16_products();
  DwFetch fetch;

  // The input row behind `slot` in the windows.
  int64_t below(int64_t slot) const {
    slot += window.dilation_h;
    while (slot >= rows) slot -= rows;
    return slot;
  }
};

// Sums that are made side by side: with the weights of a kernel row they fill 32 or 16 registers.
constexpr int kLongRun = kVectorBytes == 64 ? 14 : 7;
constexpr int kShortRun = kVectorBytes == 64 ? 7 : 3;
// Whether two output rows are made at once, in runs of kShortRun columns or, where fewer are left over, of
// kNarrowRun: windows that overlap share what they read. It takes 32 registers.
constexpr bool kTwoRows = kVectorBytes == 64;
constexpr int kNarrowRun = 4;
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

// kK neighbouring taps, and the sums of an output row that they are for.
template <class A, int kK, int kRun>
struct Taps {
  using V = typename Vec<A>::Type;
  V weights[kK];
  V (&sums)[kRun];

  MBV1_INLINE Taps(const A* taps, int64_t tap_step, V (&s)[kRun]) : sums(s) {
    Walk<A> tap{taps, tap_step};
    repeat<kK>([&](auto j) MBV1_LAMBDA { weights[j] = load(tap.next()); });
  }
};

// Adds an input row, whose columns lie `pixel` apart, to the sums of one or more output rows at stride kS. A column
// is loaded once, if it exists.
template <int kS, bool kMap, class T, class Exists, int kK, int kRun, class... Others>
MBV1_INLINE void add_taps(const T* x, int64_t pixel, const Exists& exists, const Taps<Acc<T>, kK, kRun>& taps,
                          const Others&... others) {
  Walk<T> pixels{x, pixel};
  repeat<(kRun - 1) * kS + kK>([&](auto column) MBV1_LAMBDA {
    const T* const at = kMap ? x + column * kLanes<Acc<T>> : pixels.next();
    if (!exists(column)) return;
    const auto value = in_register(load(at));
    const auto add = [&](const auto& row) MBV1_LAMBDA {
      repeat<kK>([&](auto j) MBV1_LAMBDA {
        constexpr int kFrom = column - j;
        if constexpr (kFrom >= 0 && kFrom % kS == 0 && kFrom / kS < kRun) {
          row.sums[kFrom / kS] = multiply_add<Acc<T>>(row.sums[kFrom / kS], row.weights[j], value);
        }
      });
    };
    add(taps), (add(others), ...);
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
    begin = p.columns_begin, end = p.columns_end;
    if (dense && dilation > 1) begin = divide_up(begin, dilation), end = divide_up(end, dilation);
  }

  // Those of a run that begins `outputs` behind the first, for kK == 0.
  Columns of_run(int64_t outputs) const {
    Columns columns = *this;
    columns.begin -= outputs * (dense ? 1 : stride), columns.end -= outputs * (dense ? 1 : stride);
    return columns;
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
      add_taps<1, false>(row + j * pixel, pixel, exists,
                         Taps<Acc<T>, kAnyTaps, kRun>(taps + j * tap_step, tap_step, sums));
    }
    for (; j < p.window.kernel_w; ++j) {
      const auto add = [&](const auto& exists) MBV1_LAMBDA {
        add_taps<1, false>(row + j * pixel, p.pixel * stride, exists,
                           Taps<Acc<T>, 1, kRun>(taps + j * tap_step, tap_step, sums));
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

// `count` runs, one behind the other, of kRun outputs `step` apart in each of kRows rows. The first one's window
// begins at x, and it goes to y[offsets[0]], y[offsets[step]] … D is T, or what the product takes as its left factor,
// which gets the values that a tensor would hold. kK is the kernel's width, of kMostRows rows at most, and kS the
// stride in columns of the window, which lie dilation_w apart, and of two rows; or kK is 0 for any of all. kMap: the
// input is a map of one block, and undilated. Else columns may be missing, where kK > 0 fewer than that on either
// side.
template <class T, class D, int kK, int kS, bool kMap, int kRows, int kRun>
__attribute__((noinline)) void depthwise_run(const DwRow<T>& p, const T* x, D* y, const int64_t* offsets,
                                             int64_t step, int64_t count) {
  using A = Acc<T>;
  using V = typename Vec<A>::Type;
  constexpr int kL = kLanes<A>;
  const Columns<T, kK, kMap> columns(p, step);
  const int64_t next_x = kRun * columns.stride * (kMap ? kL : p.pixel);
  // Block by block within a run: the order in which they lie in memory.
  const auto for_each = [&](const auto& make_run) MBV1_LAMBDA {
    for (int64_t row = 0; row < p.count; ++row) {
      const T* from = x + row * p.in_step;
      const int64_t* place = offsets + row * p.out_step;
      for (int64_t run = 0; run < count; ++run, from += next_x, place += kRun * step) make_run(run, from, place);
    }
  };
  const auto for_blocks = [&](const T* from, const auto& make) MBV1_LAMBDA {
    D* to = y;
    const A *taps = p.taps, *bias = p.bias;
    for (int64_t block = 0; block < (kMap ? 1 : p.blocks); ++block) {
      make(block, from, to, taps, bias);
      from += p.in_block, to += p.out_block, taps += kL, bias += kL;
    }
  };
  if constexpr (kK == 0) {
    for_each([&](int64_t run, const T* from, const int64_t* place) MBV1_LAMBDA {
      const Columns<T, kK, kMap> existing = columns.of_run(run * kRun);
      for_blocks(from, [&](int64_t, const T* x, D* to, const A* taps, const A* bias) MBV1_LAMBDA {
        depthwise_any_run<T, D, kMap, kRun>(p, existing, x, to, place, step, taps, bias);
      });
    });
  } else {
    const int64_t begin = p.begin, end = p.end, tap_step = p.tap_step, tap_row = kK * tap_step;
    int64_t rows[kMostRows + (kRows - 1) * kS];
    for (int64_t i = begin, slot = p.first_slot; i < end; ++i, slot = p.below(slot)) rows[i] = slot * p.row_size;
    constexpr std::integral_constant<int, 0> kFirst;
    constexpr std::integral_constant<int, 1> kSecond;
    // Calls add(i, r…) for row i of the windows, which is one of output rows r….
    const auto for_rows = [&](const auto& add) MBV1_LAMBDA {
      int64_t i = begin;
      const auto add_rows = [&](int64_t last, auto... r) MBV1_LAMBDA {
        const int64_t behind = smaller(last, end);
#pragma GCC unroll 1
        for (; i < behind; ++i) add(i, r...);
      };
      if constexpr (kRows == 1) {
        if (kMap && kK == 3 && end - begin == 3) {
          repeat<3>([&](auto row) MBV1_LAMBDA { add(begin + row, kFirst); });
        } else {
          add_rows(end, kFirst);
        }
      } else {
        add_rows(kS, kFirst), add_rows(p.window.kernel_h, kFirst, kSecond), add_rows(end, kSecond);
      }
    };
    const auto make_run = [&](int64_t run, const T* from, const int64_t* place, const auto& exists) MBV1_LAMBDA {
      for_blocks(from, [&](int64_t block, const T* x, D* to, const A* taps, const A* bias) MBV1_LAMBDA {
        V sums[kRows][kRun];
        const V start = load(bias);
        repeat<kRows>([&](auto r) MBV1_LAMBDA { repeat<kRun>([&](auto i) MBV1_LAMBDA { sums[r][i] = start; }); });
        for_rows([&](int64_t i, auto... r) MBV1_LAMBDA {
          add_taps<kS, kMap>(x + rows[i], columns.pixel, exists,
                             Taps<A, kK, kRun>(taps + (i - r * kS) * tap_row, tap_step, sums[r])...);
        });
        repeat<kRows>([&](auto r) MBV1_LAMBDA {
          store_run(p, sums[r], to + r * p.y_step, place + r * p.place_step, kMap ? 1 : step);
        });
        if constexpr (!kMap) {
          p.fetch.template share<kRun * kS, kRows, kRun>(run, block * kL * static_cast<int64_t>(sizeof(T)));
        }
      });
    };
    const auto all = [](auto) MBV1_LAMBDA { return true; };
    for_each([&](int64_t run, const T* from, const int64_t* place) MBV1_LAMBDA {
      if constexpr (kMap) {
        make_run(run, from, place, all);
      } else {
        constexpr int kLast = (kRun - 1) * kS;  // the first column of the last window
        const int64_t first = columns.begin - run * kRun * kS, behind = columns.end - run * kRun * kS;
        // Without a question for each of the outer columns, where the arithmetic does not hide it.
        if constexpr (kK == 3 && (kRun == kLongRun || kRows == 2)) {
          if (first <= 0 && kLast + kK <= behind) return make_run(run, from, place, all);
        }
        make_run(run, from, place, [=](auto column) MBV1_LAMBDA {
          return (column >= kK - 1 || column >= first) && (column <= kLast || column < behind);
        });
      }
    });
  }
}

}  // namespace
}  // namespace mbv1::cpu
