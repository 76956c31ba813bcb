// The largest of 16 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace octavo {
namespace {

// vphminposuw finds the smallest of 8 words: those of each pair's smaller complement.
static inline uint8_t largest_of_128(__m128i v) {
  const __m128i complement = _mm_xor_si128(v, _mm_set1_epi8(-1));
  const __m128i pairs = _mm_min_epu8(complement, _mm_srli_epi16(complement, 8));
  return static_cast<uint8_t>(~_mm_cvtsi128_si32(_mm_minpos_epu16(pairs)));
}

}  // namespace
}  // namespace octavo
