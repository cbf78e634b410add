// ldmatrix and mma.sync.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>

#include "device/access.h"
#include "device/collectives.h"
#include "device/formats.h"

namespace cudacpu {

template <int Matrices, bool Transposed>
CUDACPU_NO_TSAN void resolve_ldmatrix(const Words* const* in, Words* const* out, uint32_t) {
  for (int m = 0; m < Matrices; ++m)
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t pair = 0;
      for (int k = 0; k < 2; ++k) {
        int row = lane / 4, column = lane % 4 * 2 + k;
        if (Transposed) std::swap(row, column);
        const Words& address = *in[m * 8 + row];
        const uint64_t p = address[0] | uint64_t(address[1]) << 32;
        pair |= uint32_t(reinterpret_cast<const uint16_t*>(p)[column]) << 16 * k;
      }
      (*out[lane])[m] = pair;
    }
}

// Each lane touches its own row first, so that checkers attribute the access to it.
template <int Matrices, bool Transposed>
inline void load_matrices(uint32_t* registers, uint64_t address, Site site = Site::here()) {
  if (lane_index() < 8 * Matrices) {
    const volatile uint16_t* row =
        static_cast<const uint16_t*>(checked<16>(address, "ldmatrix", site, Access::kRead));
    for (int k = 0; k < 8; ++k) (void)row[k];
  }
  const uint32_t in[] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  collective(~0u, "ldmatrix", in, 2, registers, Matrices, resolve_ldmatrix<Matrices, Transposed>, site);
}

// D[16x8] = A[16xK] B[Kx8] + C. Input words: C, A, B fragments as in the PTX ISA. Sums are made in
// double and rounded once; real tensor cores accumulate with less precision.
template <int K, class Input, class Accumulator>
struct Mma {
  static constexpr bool wide_input = sizeof(typename Input::Bits) == 4;
  static constexpr int per_word = wide_input ? 1 : 2;
  static constexpr int b_words = K / (4 * per_word);
  static constexpr int a_words = 2 * b_words;
  static constexpr int c_words = sizeof(typename Accumulator::Bits) == 4 ? 4 : 2;

  CUDACPU_NO_TSAN static float half_of(uint32_t word, int h) {
    return Input::decode(static_cast<typename Input::Bits>(word >> 16 * h));
  }

  CUDACPU_NO_TSAN static void resolve(const Words* const* in, Words* const* out, uint32_t) {
    float a[16][K], b[K][8];
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t* words = *in[lane] + c_words;
      const int group = lane / 4, member = lane % 4;
      for (int i = 0; i < a_words; ++i)
        for (int h = 0; h < per_word; ++h)
          a[group + i % 2 * 8][member * per_word + h + i / 2 * 4 * per_word] = half_of(words[i], h);
      words += a_words;
      for (int i = 0; i < b_words; ++i)
        for (int h = 0; h < per_word; ++h)
          b[member * per_word + h + i * 4 * per_word][group] = half_of(words[i], h);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, member = lane % 4;
      const uint32_t* c = *in[lane];
      uint32_t* d = *out[lane];
      if (c_words == 2) d[0] = d[1] = 0;
      for (int i = 0; i < 4; ++i) {
        const int row = group + i / 2 * 8, column = member * 2 + i % 2;
        const uint32_t packed = c_words == 4 ? c[i] : c[i / 2] >> 16 * (i % 2);
        double sum = Accumulator::decode(static_cast<typename Accumulator::Bits>(packed));
        for (int k = 0; k < K; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
        const uint32_t bits = Accumulator::encode(sum);
        if (c_words == 4)
          d[i] = bits;
        else
          d[i / 2] |= bits << 16 * (i % 2);
      }
    }
  }

  static void run(uint32_t* d, const uint32_t (&a)[a_words], const uint32_t (&b)[b_words],
                  const uint32_t (&c)[c_words], Site site = Site::here()) {
    uint32_t in[c_words + a_words + b_words];
    std::copy(c, c + c_words, in);
    std::copy(a, a + a_words, in + c_words);
    std::copy(b, b + b_words, in + c_words + a_words);
    collective(~0u, "mma", in, c_words + a_words + b_words, d, c_words, resolve, site);
  }
};

}  // namespace cudacpu
