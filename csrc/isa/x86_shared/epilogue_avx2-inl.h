// Requantization of 8 accumulators with AVX2: abi/requantize.h, vector by vector.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/gelu.h"
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

// What the epilogue of 8 neighbouring channels needs, loaded once for all rows of a tile: the first
// `lanes` (1 .. 8 count, more means 8) from channel n on.
struct Channels8 {
  Channels8(const Epilogue& e, int32_t n, int lanes)
      : n(n),
        lanes(lanes),
        mask(lane_mask8(lanes)),
        mult(load_floats8(e.mult + n, mask)),
        bias(load_floats8(e.bias + n, mask)),
        lo(_mm256_set1_ps(e.lo)),
        hi(_mm256_set1_ps(e.hi)),
        out_zero(_mm256_set1_epi32(e.out_zero)) {}

  int32_t n;
  int lanes;
  __m256i mask;
  __m256 mult, bias, lo, hi;
  __m256i out_zero;
};

static inline __m256i correct_accumulators8(__m256i acc, const Epilogue& e, int32_t m,
                                            const Channels8& c) {
  if (e.row_zero) {
    const __m256i sums = load_ints8(e.col_sum + c.n, c.mask);
    acc = _mm256_sub_epi32(acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_zero[m]), sums));
  }
  if (e.w_zero) {
    const __m256i zeros = load_ints8(e.w_zero + c.n, c.mask);
    acc = _mm256_sub_epi32(acc, _mm256_mullo_epi32(_mm256_set1_epi32(e.row_sum[m]), zeros));
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

// abi/gelu.h, vector by vector.
static inline __m256 gelu_lanes8(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
  const __m256 limit = _mm256_set1_ps(kErfIsOne);
  x = _mm256_max_ps(_mm256_set1_ps(kGeluLowest), x);
  __m256 z = _mm256_mul_ps(x, _mm256_set1_ps(kSqrtHalf));
  z = _mm256_min_ps(limit, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), limit), z));
  const __m256 t = _mm256_mul_ps(z, z);
  __m256 p = _mm256_set1_ps(kGeluNumerator[0]), q = _mm256_set1_ps(kGeluDenominator[0]);
  for (int i = 1; i < kGeluTerms; ++i) {
    p = _mm256_add_ps(_mm256_mul_ps(p, t), _mm256_set1_ps(kGeluNumerator[i]));
    q = _mm256_add_ps(_mm256_mul_ps(q, t), _mm256_set1_ps(kGeluDenominator[i]));
  }
  __m256 erf = _mm256_div_ps(_mm256_mul_ps(z, p), q);
  erf = _mm256_min_ps(one, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), one), erf));
  return _mm256_mul_ps(x, _mm256_add_ps(half, _mm256_mul_ps(half, erf)));
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

// What the accumulators of row m come to before the clamp: in output steps for integer kinds.
template <OutKind kOut>
static inline __m256 scale_lanes8(__m256i acc, const Epilogue& e, const Channels8& c, int32_t m) {
  if (e.row_zero || e.w_zero) acc = correct_accumulators8(acc, e, m, c);
  __m256 x = _mm256_cvtepi32_ps(acc);
  if (e.row_scale) x = _mm256_mul_ps(x, _mm256_set1_ps(e.row_scale[m]));
  if constexpr (is_float(kOut)) {
    x = _mm256_add_ps(_mm256_mul_ps(x, c.mult), c.bias);
    return e.gelu ? gelu_lanes8(x) : x;
  } else {
    x = _mm256_mul_ps(_mm256_add_ps(x, c.bias), c.mult);
    return e.add ? _mm256_add_ps(x, residual8(e, m, c.n, c.lanes)) : x;
  }
}

// Stores row m of the channels; `out` is the first element.
template <OutKind kOut>
static inline void store_lanes8(__m256i acc, const Epilogue& e, const Channels8& c, int32_t m,
                                void* out) {
  if constexpr (kOut == OutKind::kI32) {
    if (e.row_zero || e.w_zero) acc = correct_accumulators8(acc, e, m, c);
    _mm256_maskstore_epi32(static_cast<int*>(out), c.mask, acc);
    return;
  }
  __m256 x = scale_lanes8<kOut>(acc, e, c, m);
  if constexpr (is_float(kOut)) {
    x = _mm256_min_ps(c.hi, _mm256_max_ps(c.lo, x));  // NaN passes through
    store_floats8<kOut>(x, out, c.mask, c.lanes);
  } else {
    x = _mm256_min_ps(_mm256_max_ps(x, c.lo), c.hi);
    const int64_t bytes = low_bytes(_mm256_add_epi32(_mm256_cvtps_epi32(x), c.out_zero));
    if (c.lanes >= 8) {
      std::memcpy(out, &bytes, 8);
    } else {
      std::memcpy(out, &bytes, c.lanes);
    }
  }
}

// 16 neighbouring columns of two rows to bytes. Only the upper clamp happens in float: below,
// conversions give INT_MIN (for NaN too) and the packs saturate, so that bytes can be compared
// instead.
template <OutKind kOut>
struct ByteColumns16 {
  ByteColumns16(const Epilogue& e, int32_t n)
      : channels{{e, n, 8}, {e, n + 8, 8}},
        out_zero(_mm256_set1_epi16(static_cast<int16_t>(e.out_zero))),
        lo(_mm256_set1_epi8(static_cast<char>(static_cast<int>(e.lo) + e.out_zero))) {}

  __m256i steps(const int32_t* acc, int v, const Epilogue& e, int32_t m) const {
    const __m256i sums = _mm256_load_si256(reinterpret_cast<const __m256i*>(acc + v * 8));
    return _mm256_cvtps_epi32(
        _mm256_min_ps(channels[v].hi, scale_lanes8<kOut>(sums, e, channels[v], m)));
  }

  // The 16 bytes of each row; `second` may be the same row.
  __m256i bytes(const int32_t* first, const int32_t* second, const Epilogue& e, int32_t m,
                int32_t second_m) const {
    const __m256i a = _mm256_packs_epi32(steps(first, 0, e, m), steps(first, 1, e, m));
    const __m256i b =
        _mm256_packs_epi32(steps(second, 0, e, second_m), steps(second, 1, e, second_m));
    const __m256i x = _mm256_adds_epi16(a, out_zero), y = _mm256_adds_epi16(b, out_zero);
    const __m256i packed = kOut == OutKind::kU8 ? _mm256_max_epu8(_mm256_packus_epi16(x, y), lo)
                                                : _mm256_max_epi8(_mm256_packs_epi16(x, y), lo);
    // Packing works on 128-bit lanes.
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }

  Channels8 channels[2];
  __m256i out_zero, lo;
};

// Columns [c, g.n) of the tile, as many blocks of 16 as there are; returns what follows them.
template <OutKind kOut>
static inline int store_byte_columns16(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                                       int row0, int rows, int c) {
  const Epilogue& e = *g.epilogue;
  for (; c + 16 <= g.n; c += 16) {
    const ByteColumns16<kOut> columns(e, g.n0 + c);
    char* out = static_cast<char*>(g.out) + row0 * g.out_stride + c;
    for (int r = 0; r < rows; r += 2, out += 2 * g.out_stride) {
      const int second = r + 1 < rows ? r + 1 : r, m = g.m0 + row0;
      const __m256i bytes = columns.bytes(acc + r * acc_stride + c, acc + second * acc_stride + c,
                                          e, m + r, m + second);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(bytes));
      if (second != r) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + g.out_stride),
                         _mm256_extracti128_si256(bytes, 1));
      }
    }
  }
  return c;
}

// Stores `rows` rows of a tile from row0 on; `acc` holds their accumulators, [rows][acc_stride], on
// vector boundaries, acc_init included.
//
// Not inlined: the accumulators of a kernel that has all kinds of stores inside do not stay in
// registers (gcc 12), and those that pass through memory once, at the end, do.
__attribute__((noinline)) static void store_rows8(const int32_t* acc, ptrdiff_t acc_stride,
                                                  const GemmArgs& g, int row0, int rows) {
  with_kind(g.kind, [&](auto kind) {
    constexpr OutKind kOut = decltype(kind)::value;
    int c = 0;
    if constexpr (kOut == OutKind::kU8 || kOut == OutKind::kS8)
      c = store_byte_columns16<kOut>(acc, acc_stride, g, row0, rows, c);
    for (; c < g.n; c += 8) {
      char* out = static_cast<char*>(g.out) + row0 * g.out_stride + c * kind_bytes(kOut);
      const int32_t* from = acc + c;
      const Channels8 channels(*g.epilogue, g.n0 + c, g.n - c);
      for (int r = 0; r < rows; ++r, from += acc_stride, out += g.out_stride) {
        store_lanes8<kOut>(_mm256_load_si256(reinterpret_cast<const __m256i*>(from)), *g.epilogue,
                           channels, g.m0 + row0 + r, out);
      }
    }
  });
}

}  // namespace
}  // namespace octavo
