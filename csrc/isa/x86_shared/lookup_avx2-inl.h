// Look-up in a table of 256 bytes with AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "abi/unroll.h"
#include "isa/x86_shared/pooling_avx2-inl.h"

namespace octavo {
namespace {

// vpshufb looks up 16 entries, and gives 0 where the index is negative. With index x, then x - 16,
// x - 32 ... (saturating, so what is negative stays so) the parts 0 .. x / 16 answer, and where
// each part but the first is kept as its difference (xor) to the one before, the answers xor to the
// entry. 8 parts serve x >= 0 and 8 serve x - 128.
struct ShuffleTable256 {
  alignas(32) uint8_t part[16][32];

  explicit ShuffleTable256(const uint8_t* table) {
    __m128i before = _mm_setzero_si128();
    for (int j = 0; j < 16; ++j) {
      const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * j));
      const __m128i delta = j % 8 ? _mm_xor_si128(entries, before) : entries;
      _mm256_store_si256(reinterpret_cast<__m256i*>(part[j]), _mm256_broadcastsi128_si256(delta));
      before = entries;
    }
  }

  // Registers: 2 kVectors indices and kVectors results, a part, the constants.
  template <int kVectors>
  inline OCTAVO_INLINE void map(const __m256i (&in)[kVectors], __m256i (&out)[kVectors]) const {
    const __m256i sixteen = _mm256_set1_epi8(16), top = _mm256_set1_epi8(-128);
    __m256i low[kVectors], high[kVectors];
    unroll<kVectors>([&](auto i) OCTAVO_INLINE {
      low[i] = in[i];
      high[i] = _mm256_xor_si256(in[i], top);
      out[i] = _mm256_setzero_si256();
    });
    unroll<8>([&](auto j) OCTAVO_INLINE {
      constexpr int kPart = kIndex<decltype(j)>;
      const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(part[kPart]));
      const __m256i second = _mm256_load_si256(reinterpret_cast<const __m256i*>(part[8 + kPart]));
      unroll<kVectors>([&](auto i) OCTAVO_INLINE {
        out[i] = _mm256_xor_si256(out[i], _mm256_shuffle_epi8(first, low[i]));
        out[i] = _mm256_xor_si256(out[i], _mm256_shuffle_epi8(second, high[i]));
        if constexpr (kPart < 7) {
          low[i] = _mm256_subs_epi8(low[i], sixteen);
          high[i] = _mm256_subs_epi8(high[i], sixteen);
        }
      });
    });
  }
};

static void lookup_avx2(const uint8_t* table, const void* in, int64_t size, void* out) {
  constexpr int kVectors = 3;
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  const ShuffleTable256 parts(table);
  int64_t i = 0;
  for (; i + 32 * kVectors <= size; i += 32 * kVectors) {
    __m256i v[kVectors], r[kVectors];
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { v[j] = Bytes256::load(x + i + 32 * j); });
    parts.map(v, r);
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { Bytes256::store(y + i + 32 * j, r[j]); });
  }
  for (; i < size; i += 32) {
    const int count = static_cast<int>(size - i < 32 ? size - i : 32);
    __m256i v[1] = {count == 32 ? Bytes256::load(x + i) : Bytes256::load_part(x + i, count)}, r[1];
    parts.map(v, r);
    if (count == 32) {
      Bytes256::store(y + i, r[0]);
    } else {
      Bytes256::store_part(y + i, r[0], count);
    }
  }
}

}  // namespace
}  // namespace octavo
