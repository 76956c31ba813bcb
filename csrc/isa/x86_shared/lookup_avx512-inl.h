// Look-up in a table of 256 bytes with AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

// Calls map(vector) for 64 bytes at a time.
template <typename Map>
static inline __attribute__((always_inline)) void map_bytes512(const void* in, int64_t size,
                                                               void* out, const Map& map) {
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  int64_t i = 0;
  for (; i + 64 <= size; i += 64) _mm512_storeu_si512(y + i, map(_mm512_loadu_si512(x + i)));
  if (i < size) {
    const __mmask64 rest = (uint64_t{1} << (size - i)) - 1;
    _mm512_mask_storeu_epi8(y + i, rest, map(_mm512_maskz_loadu_epi8(rest, x + i)));
  }
}

// vpermi2w looks up 64 words, so two of them look up the word that an entry is in by the upper 7
// bits of its index; bytes at even and at odd places apart. The lowest bit shifts the entry to
// where it belongs.
//
// Registers: 4 of the table, 2 constants, about 8 for the bytes.
static void lookup_avx512(const uint8_t* table, const void* in, int64_t size, void* out) {
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  const __m512i one = _mm512_set1_epi16(1), bit7 = _mm512_set1_epi16(128);
  map_bytes512(
      in, size, out, [&](__m512i v) __attribute__((always_inline)) {
        const __m512i even_at = _mm512_srli_epi16(v, 1), odd_at = _mm512_srli_epi16(v, 9);
        const __m512i even = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(v, bit7),
                                                     _mm512_permutex2var_epi16(t0, even_at, t1),
                                                     _mm512_permutex2var_epi16(t2, even_at, t3));
        const __m512i odd = _mm512_mask_blend_epi16(_mm512_movepi16_mask(v),
                                                    _mm512_permutex2var_epi16(t0, odd_at, t1),
                                                    _mm512_permutex2var_epi16(t2, odd_at, t3));
        const __m512i down = _mm512_slli_epi16(_mm512_and_si512(v, one), 3);
        const __m512i up = _mm512_slli_epi16(_mm512_andnot_si512(_mm512_srli_epi16(v, 8), one), 3);
        return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, _mm512_srlv_epi16(even, down),
                                      _mm512_sllv_epi16(odd, up));
      });
}

// vpermi2b looks up 128 bytes.
__attribute__((target("avx512vbmi"))) static void lookup_avx512_vbmi(const uint8_t* table,
                                                                     const void* in, int64_t size,
                                                                     void* out) {
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  for (int64_t i = 0; i < size; i += 64) {
    const __mmask64 mask = size - i < 64 ? (uint64_t{1} << (size - i)) - 1 : ~uint64_t{0};
    const __m512i v = _mm512_maskz_loadu_epi8(mask, x + i);
    const __m512i low = _mm512_permutex2var_epi8(t0, v, t1);
    const __m512i high = _mm512_permutex2var_epi8(t2, v, t3);
    _mm512_mask_storeu_epi8(y + i, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high));
  }
}

}  // namespace
}  // namespace octavo
