// Products of BFloat16 by AMX, whose registers hold tiles of up to 16 rows of 64 bytes: of A [row][k], of B
// [k / 2][column][2], as packing.h lays them, and of the sums [row][column].
#pragma once

#include "rows.h"

namespace mbv1::cpu {
namespace {

#if MBV1_VECTOR_BYTES == 64
// Tiles of A as AMX takes them: row r of step s of tile t lies at a + t * tile + s * step + r * row, in bytes.
struct AmxRows {
  const char* a;
  int64_t tile, step, row;
  int64_t depth, steps;  // of k: of a step, and how many there are
  Prefetch prefetch;     // a part for each step
};

template <int kFetched>
AmxRows amx_rows(const BlockedRows<BFloat16, kFetched>& rows) {
  constexpr int64_t kBytes = sizeof(BFloat16), kL = kLanes<float>;
  return {reinterpret_cast<const char*>(rows.a), rows.tile * kBytes, Tile<float>::kBlock * kBytes, kL * kBytes, kL,
          blocks_of<float>(rows.depth),          rows.prefetch};
}

// Rows as long as whole blocks of k only: what lies behind the others is not zero.
inline AmxRows amx_rows(const StridedRows<BFloat16>& rows) {
  constexpr int64_t kBytes = sizeof(BFloat16);
  const int64_t depth = rows.amx_depth(), row = rows.step * kBytes,
                steps = rows.depth % depth == 0 ? rows.parts() : 0;
  return {reinterpret_cast<const char*>(rows.a),
          Tile<float>::kRows * row,
          depth * kBytes,
          row,
          depth,
          steps,
          rows.prefetch};
}

template <class Rows>
AmxRows amx_rows(const Rows&) {
  return {nullptr, 0, 0, 0, 0, 0, Prefetch(nullptr)};
}

// The shapes of AMX's registers while this exists: 0 to 3 sums, 4 and 5 tiles of A, 6 and 7 of B.
class AmxShapes {
 public:
  AmxShapes(int64_t rows, int64_t depth) {
    constexpr int kLine = 64;
    for (int i = 0; i < 8; ++i) row_bytes[i] = kLine, tile_rows[i] = static_cast<uint8_t>(rows);
    for (int i : {4, 5}) row_bytes[i] = static_cast<uint16_t>(depth * sizeof(BFloat16));
    for (int i : {6, 7}) tile_rows[i] = static_cast<uint8_t>(depth / 2);
    asm volatile("ldtilecfg %0" ::"m"(*this));
  }
  // So that a switch to another thread need not save them.
  ~AmxShapes() { asm volatile("tilerelease"); }
  AmxShapes(const AmxShapes&) = delete;
  AmxShapes& operator=(const AmxShapes&) = delete;

 private:
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t tile_rows[16] = {};
};

// Registers by number.
template <int kTile>
MBV1_INLINE void amx_load(const void* from, int64_t step) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(step) : "memory");
}
// The same of what is not worth a place in the first-level cache.
template <int kTile>
MBV1_INLINE void amx_load_once(const void* from, int64_t step) {
  asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(step) : "memory");
}
template <int kTile>
MBV1_INLINE void amx_store(void* to, int64_t step) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(step) : "memory");
}
template <int kTile>
MBV1_INLINE void amx_clear() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kSum, int kA, int kB>
MBV1_INLINE void amx_multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}

// The sums of kTiles tiles times a panel, in rows of its columns. A product takes 14 to 16 cycles, but its sums can
// be added to only after 52: four of them keep the unit busy, two tiles times two halves of the panel. Tiles of A
// pass by the first-level cache, which then keeps the panel: 5 to 8% of a whole net's time.
template <int kTiles>
MBV1_INLINE void amx_multiply(const AmxRows rows, int64_t tile, const BFloat16* panel, float* sums) {
  constexpr int64_t kCols = Tile<float>::kCols, kRowBytes = kCols * 2 * sizeof(BFloat16);
  const char *a = rows.a + tile * rows.tile, *b = reinterpret_cast<const char*>(panel);
  const char* line = rows.prefetch.from + tile * rows.steps * rows.prefetch.step;
  amx_clear<0>(), amx_clear<1>();
  if (kTiles == 2) amx_clear<2>(), amx_clear<3>();
  for (int64_t i = 0; i < rows.steps; ++i, a += rows.step, b += rows.depth / 2 * kRowBytes) {
    for (int t = 0; t < kTiles; ++t, line += rows.prefetch.step) rows.prefetch.template part<1>(line);
    amx_load<6>(b, kRowBytes);
    amx_load_once<4>(a, rows.row);
    amx_multiply_add<0, 4, 6>();
    amx_load<7>(b + kRowBytes / 2, kRowBytes);
    amx_multiply_add<1, 4, 7>();
    if (kTiles == 2) {
      amx_load_once<5>(a + rows.tile, rows.row);
      amx_multiply_add<2, 5, 6>();
      amx_multiply_add<3, 5, 7>();
    }
  }
  constexpr int64_t kStep = kCols * sizeof(float), kHalf = kCols / 2, kTile = Tile<float>::kRows * kCols;
  amx_store<0>(sums, kStep);
  amx_store<1>(sums + kHalf, kStep);
  if (kTiles == 2) {
    amx_store<2>(sums + kTile, kStep);
    amx_store<3>(sums + kTile + kHalf, kStep);
  }
}

// Rows [first, first + count) of a target, of a panel's columns, from their sums.
template <class T>
MBV1_INLINE void amx_finish(const Target<T>& target, int64_t first, int64_t count, const float* sums,
                            const float* bias) {
  constexpr int kL = kLanes<float>, kVectors = Tile<float>::kVectors;
  const F32Vec low = broadcast(target.low), high = broadcast(target.high);
  const F32Vec biases[kVectors] = {load(bias), load(bias + kL)};
  for (int64_t r = 0; r < count; ++r, sums += kVectors * kL) {
    T* y = target.y + target.rows[first + r];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (v >= target.vectors) break;
      F32Vec sum = load(sums + v * kL) + biases[v];
      sum = sum < low ? low : sum;  // NaN stays NaN
      sum = sum > high ? high : sum;
      store_product<BFloat16>(y + v * target.vector_step, sum, kL);
    }
  }
}

// A target's rows, of a panel of B.
template <class T>
__attribute__((noinline)) void amx_multiply_rows(const AmxRows rows, const BFloat16* panel, const float* bias,
                                                 const Target<T> target) {
  constexpr int64_t kRows = Tile<float>::kRows, kPair = 2 * kRows;
  alignas(64) float sums[kPair * Tile<float>::kCols];
  const AmxShapes shapes(smaller(target.count, kRows), rows.depth);
  int64_t first = 0;
  for (; target.count - first > kRows; first += kPair) {
    amx_multiply<2>(rows, first / kRows, panel, sums);
    amx_finish(target, first, smaller(target.count - first, kPair), sums, bias);
  }
  if (first == target.count) return;
  amx_multiply<1>(rows, first / kRows, panel, sums);
  amx_finish(target, first, target.count - first, sums, bias);
}

// Copies `run` elements in pairs; the last one of an odd run is the second of a pair, behind a zero. By AVX512-VBMI2,
// which all processors with AMX have.
class AmxPairs {
 public:
  explicit AmxPairs(int64_t run) : whole(divide_up(run, kAtOnce) - 1) {
    const int64_t rest = run - whole * kAtOnce;
    written = ~uint32_t{0} >> (kAtOnce - round_up(rest, 2));
    last = rest % 2 == 0 ? written : written - (uint32_t{1} << (rest - 1));
  }

  MBV1_INLINE void copy(const BFloat16* from, BFloat16* to) const {
    for (int64_t i = 0; i < whole; ++i, from += kAtOnce, to += kAtOnce) __builtin_memcpy(to, from, kLine);
    U32Vec pairs;
    asm("vpexpandw %1, %0%{%2%}%{z%}"
        : "=v"(pairs)
        : "m"(*reinterpret_cast<const char (*)[kLine]>(from)), "Yk"(last));
    asm("vmovdqu16 %1, %0%{%2%}" : "+m"(*reinterpret_cast<char (*)[kLine]>(to)) : "v"(pairs), "Yk"(written));
  }

 private:
  static constexpr int64_t kLine = 64, kAtOnce = kLine / sizeof(BFloat16);
  int64_t whole;
  uint32_t last, written;
};
#endif

// Multiplies a target's rows by a panel if AMX can, and there is AMX.
template <class Rows, class T>
bool by_amx(const Rows& rows, const typename Rows::Operand* panel, const Acc<T>* bias, const Target<T>& target) {
#if MBV1_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<typename Rows::Operand, BFloat16>) {
    if (!has_amx()) return false;
    const AmxRows tiles = amx_rows(rows);
    if (tiles.steps == 0) return false;
    amx_multiply_rows(tiles, panel, bias, target);
    return true;
  }
#endif
  return false;
}

}  // namespace
}  // namespace mbv1::cpu
