// Requantization of 8 accumulators with AVX2: abi/requantize.h, vector by vector.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/out_kind.h"

namespace octavo {
namespace {

// All ones in the first `lanes` of 8.
static inline __m256i lane_mask8(int lanes) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index);
}

static inline __m256 load_floats8(const float* p, __m256i mask) {
  return _mm256_maskload_ps(p, mask);
}
static inline __m256i load_ints8(const int32_t* p, __m256i mask) {
  return _mm256_maskload_epi32(p, mask);
}

static inline __m128i load_bytes8(const void* p, int lanes) {
  int64_t bytes = 0;
  std::memcpy(&bytes, p, lanes < 8 ? lanes : 8);
  return _mm_cvtsi64_si128(bytes);
}

// The low bytes of 8 int32.
static inline int64_t low_bytes(__m256i q) {
  const __m256i pick =
      _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                       -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(q, pick);
  const __m128i joined =
      _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  return _mm_cvtsi128_si64(joined);
}

static inline __m256i correct_accumulators8(__m256i acc, const Epilogue& e, int32_t m, int32_t n,
                                            __m256i mask) {
  if (e.row_zero) {
    acc = _mm256_sub_epi32(
        acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_zero[m]), load_ints8(e.col_sum + n, mask)));
  }
  if (e.w_zero) {
    acc = _mm256_sub_epi32(
        acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_sum[m]), load_ints8(e.w_zero + n, mask)));
  }
  return acc;
}

static inline __m256 residual8(const Epilogue& e, int32_t m, int32_t n, int lanes) {
  const __m128i bytes = load_bytes8(static_cast<const char*>(e.add) + m * e.add_stride + n, lanes);
  const __m256i q = e.add_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
  const __m256 steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(e.add_zero)));
  return _mm256_mul_ps(steps, _mm256_set1_ps(e.add_scale));
}

// abi/half.h, vector by vector.
static inline __m128i bf16_lanes8(__m256 x) {
  const __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

template <OutKind kOut>
static inline void store_floats8(__m256 x, void* out, __m256i mask, int lanes) {
  if constexpr (kOut == OutKind::kF32) {
    if (lanes >= 8) {
      _mm256_storeu_ps(static_cast<float*>(out), x);
    } else {
      _mm256_maskstore_ps(static_cast<float*>(out), mask, x);
    }
  } else {
    const __m128i halves = kOut == OutKind::kBF16
                               ? bf16_lanes8(x)
                               : _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (lanes >= 8) {
      _mm_storeu_si128(static_cast<__m128i*>(out), halves);
    } else if (lanes > 0) {
      alignas(16) uint16_t all[8];
      _mm_store_si128(reinterpret_cast<__m128i*>(all), halves);
      std::memcpy(out, all, static_cast<size_t>(lanes) * 2);
    }
  }
}

// Stores the first `lanes` (1 .. 8 count, more means 8) for row m and channels n .. n + 7; `out` is
// the first element.
template <OutKind kOut>
static inline void store_lanes8(__m256i acc, const Epilogue& e, int32_t m, int32_t n, void* out,
                                int lanes) {
  const __m256i mask = lane_mask8(lanes);
  if (e.row_zero || e.w_zero) acc = correct_accumulators8(acc, e, m, n, mask);
  if constexpr (kOut == OutKind::kI32) {
    _mm256_maskstore_epi32(static_cast<int*>(out), mask, acc);
    return;
  }
  const __m256 lo = _mm256_set1_ps(e.lo), hi = _mm256_set1_ps(e.hi);
  __m256 x = _mm256_cvtepi32_ps(acc);
  if (e.row_scale) x = _mm256_mul_ps(x, _mm256_set1_ps(e.row_scale[m]));
  if constexpr (is_float(kOut)) {
    x = _mm256_mul_ps(x, load_floats8(e.mult + n, mask));
    x = _mm256_add_ps(x, load_floats8(e.bias + n, mask));
    x = _mm256_min_ps(hi, _mm256_max_ps(lo, x));  // NaN passes through
    store_floats8<kOut>(x, out, mask, lanes);
  } else {
    x = _mm256_add_ps(x, load_floats8(e.bias + n, mask));
    x = _mm256_mul_ps(x, load_floats8(e.mult + n, mask));
    if (e.add) x = _mm256_add_ps(x, residual8(e, m, n, lanes));
    x = _mm256_min_ps(_mm256_max_ps(x, lo), hi);
    const int64_t bytes =
        low_bytes(_mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(e.out_zero)));
    if (lanes >= 8) {
      std::memcpy(out, &bytes, 8);
    } else {
      std::memcpy(out, &bytes, lanes);
    }
  }
}

}  // namespace
}  // namespace octavo
