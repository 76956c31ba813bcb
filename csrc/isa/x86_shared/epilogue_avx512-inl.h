// Requantization of 16 accumulators with AVX-512: abi/requantize.h, vector by vector.
#pragma once

#include <immintrin.h>

#include "abi/gelu.h"
#include "abi/kernel_abi.h"
#include "abi/out_kind.h"

namespace octavo {
namespace {

// The first `lanes` of 16; none where a tile has fewer columns than the kernel has vectors.
static inline __mmask16 lane_mask(int lanes) {
  if (lanes >= 16) return 0xffff;
  return lanes <= 0 ? 0 : static_cast<__mmask16>((1u << lanes) - 1);
}

static inline __m512 load_floats(const float* p, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}
static inline __m512i load_ints(const int32_t* p, __mmask16 mask) {
  return _mm512_maskz_loadu_epi32(mask, p);
}

// What the epilogue of 16 neighbouring channels needs, loaded once for all rows of a tile: the
// lanes of `mask` from channel n on.
struct Channels {
  Channels(const Epilogue& e, int32_t n, __mmask16 mask)
      : n(n),
        mask(mask),
        mult(load_floats(e.mult + n, mask)),
        bias(load_floats(e.bias + n, mask)),
        lo(_mm512_set1_ps(e.lo)),
        hi(_mm512_set1_ps(e.hi)),
        out_zero(_mm512_set1_epi32(e.out_zero)) {}

  int32_t n;
  __mmask16 mask;
  __m512 mult, bias, lo, hi;
  __m512i out_zero;
};

static inline __m512i correct_accumulators(__m512i acc, const Epilogue& e, int32_t m,
                                           const Channels& c) {
  if (e.row_zero) {
    const __m512i sums = load_ints(e.col_sum + c.n, c.mask);
    acc = _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(e.row_zero[m]), sums));
  }
  if (e.w_zero) {
    const __m512i zeros = load_ints(e.w_zero + c.n, c.mask);
    acc = _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(e.row_sum[m]), zeros));
  }
  return acc;
}

static inline __m512 residual(const Epilogue& e, int32_t m, int32_t n, __mmask16 mask) {
  const __m128i bytes =
      _mm_maskz_loadu_epi8(mask, static_cast<const char*>(e.add) + m * e.add_stride + n);
  const __m512i q = e.add_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
  const __m512 steps = _mm512_cvtepi32_ps(_mm512_sub_epi32(q, _mm512_set1_epi32(e.add_zero)));
  return _mm512_mul_ps(steps, _mm512_set1_ps(e.add_scale));
}

// abi/half.h, vector by vector.
static inline __m256i bf16_lanes(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
}

// abi/gelu.h, vector by vector.
static inline __m512 gelu_lanes(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f);
  const __m512 limit = _mm512_set1_ps(kErfIsOne);
  x = _mm512_max_ps(_mm512_set1_ps(kGeluLowest), x);
  __m512 z = _mm512_mul_ps(x, _mm512_set1_ps(kSqrtHalf));
  z = _mm512_min_ps(limit, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), z));
  const __m512 t = _mm512_mul_ps(z, z);
  __m512 p = _mm512_set1_ps(kGeluNumerator[0]), q = _mm512_set1_ps(kGeluDenominator[0]);
  for (int i = 1; i < kGeluTerms; ++i) {
    p = _mm512_add_ps(_mm512_mul_ps(p, t), _mm512_set1_ps(kGeluNumerator[i]));
    q = _mm512_add_ps(_mm512_mul_ps(q, t), _mm512_set1_ps(kGeluDenominator[i]));
  }
  __m512 erf = _mm512_div_ps(_mm512_mul_ps(z, p), q);
  erf = _mm512_min_ps(one, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), one), erf));
  return _mm512_mul_ps(x, _mm512_add_ps(half, _mm512_mul_ps(half, erf)));
}

template <OutKind kOut>
static inline void store_floats(__m512 x, void* out, __mmask16 mask) {
  if constexpr (kOut == OutKind::kF32) {
    _mm512_mask_storeu_ps(out, mask, x);
  } else if constexpr (kOut == OutKind::kBF16) {
    _mm256_mask_storeu_epi16(out, mask, bf16_lanes(x));
  } else {
    _mm256_mask_storeu_epi16(out, mask,
                             _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
}

// What the accumulators of row m come to before the clamp: in output steps for integer kinds.
template <OutKind kOut>
static inline __m512 scale_lanes(__m512i acc, const Epilogue& e, const Channels& c, int32_t m) {
  if (e.row_zero || e.w_zero) acc = correct_accumulators(acc, e, m, c);
  __m512 x = _mm512_cvtepi32_ps(acc);
  if (e.row_scale) x = _mm512_mul_ps(x, _mm512_set1_ps(e.row_scale[m]));
  if constexpr (is_float(kOut)) {
    x = _mm512_add_ps(_mm512_mul_ps(x, c.mult), c.bias);
    return e.gelu ? gelu_lanes(x) : x;
  } else {
    x = _mm512_mul_ps(_mm512_add_ps(x, c.bias), c.mult);
    return e.add ? _mm512_add_ps(x, residual(e, m, c.n, c.mask)) : x;
  }
}

// Stores row m (index into the per-row arrays) of the channels; `out` is the first element.
template <OutKind kOut>
static inline void store_lanes(__m512i acc, const Epilogue& e, const Channels& c, int32_t m,
                               void* out) {
  if constexpr (kOut == OutKind::kI32) {
    if (e.row_zero || e.w_zero) acc = correct_accumulators(acc, e, m, c);
    _mm512_mask_storeu_epi32(out, c.mask, acc);
    return;
  }
  __m512 x = scale_lanes<kOut>(acc, e, c, m);
  if constexpr (is_float(kOut)) {
    x = _mm512_min_ps(c.hi, _mm512_max_ps(c.lo, x));  // NaN passes through
    store_floats<kOut>(x, out, c.mask);
  } else {
    x = _mm512_min_ps(_mm512_max_ps(x, c.lo), c.hi);
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(x), c.out_zero);
    _mm_mask_storeu_epi8(out, c.mask, _mm512_cvtepi32_epi8(q));
  }
}

static inline bool depends_on_row(const Epilogue& e) {
  return e.row_zero || e.w_zero || e.row_scale;
}
static inline bool is_plain(const Epilogue& e) { return !depends_on_row(e) && !e.add; }

// VECTORS neighbouring vectors of channels to bytes, without a mask. Only the upper clamp happens
// in float: below, conversions give INT_MIN (for NaN too) and the packs saturate, so that bytes can
// be compared instead.
//
// kPlain: nothing depends on the row, see is_plain().
template <int VECTORS, OutKind kOut, bool kPlain>
struct ByteColumns {
  static_assert((VECTORS == 2 || VECTORS == 4) && (kOut == OutKind::kU8 || kOut == OutKind::kS8));

  ByteColumns(const Epilogue& e, int32_t n)
      : channels{{e, n, 0xffff},
                 {e, n + 16, 0xffff},
                 {e, n + (VECTORS == 4 ? 32 : 0), 0xffff},
                 {e, n + (VECTORS == 4 ? 48 : 0), 0xffff}},
        out_zero(_mm512_set1_epi16(static_cast<int16_t>(e.out_zero))),
        lo(_mm512_set1_epi8(static_cast<char>(static_cast<int>(e.lo) + e.out_zero))) {}

  __m512i steps(const int32_t* acc, int v, const Epilogue& e, int32_t m) const {
    if (v >= VECTORS) return _mm512_setzero_si512();
    const __m512i sums = _mm512_load_si512(acc + v * 16);
    __m512 x;
    if constexpr (kPlain) {
      x = _mm512_mul_ps(_mm512_add_ps(_mm512_cvtepi32_ps(sums), channels[v].bias),
                        channels[v].mult);
    } else {
      x = scale_lanes<kOut>(sums, e, channels[v], m);
    }
    return _mm512_cvtps_epi32(_mm512_min_ps(channels[v].hi, x));
  }

  void store(const int32_t* acc, const Epilogue& e, int32_t m, void* out) const {
    const __m512i low = _mm512_packs_epi32(steps(acc, 0, e, m), steps(acc, 1, e, m));
    const __m512i high = _mm512_packs_epi32(steps(acc, 2, e, m), steps(acc, 3, e, m));
    const __m512i a = _mm512_adds_epi16(low, out_zero), b = _mm512_adds_epi16(high, out_zero);
    const __m512i bytes = kOut == OutKind::kU8 ? _mm512_max_epu8(_mm512_packus_epi16(a, b), lo)
                                               : _mm512_max_epi8(_mm512_packs_epi16(a, b), lo);
    // Packing works on 128-bit lanes: dword j of lane i comes from vector j.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i ordered = _mm512_permutexvar_epi32(order, bytes);
    if constexpr (VECTORS == 4) {
      _mm512_storeu_si512(out, ordered);
    } else {
      _mm256_storeu_si256(static_cast<__m256i*>(out), _mm512_castsi512_si256(ordered));
    }
  }

  Channels channels[4];
  __m512i out_zero, lo;
};

// Columns [c, g.n) of the tile, as many blocks of VECTORS vectors as there are; returns what
// follows them.
template <int VECTORS, OutKind kOut, bool kPlain>
static inline int store_byte_columns(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                                     int row0, int rows, int c) {
  for (; c + VECTORS * 16 <= g.n; c += VECTORS * 16) {
    const ByteColumns<VECTORS, kOut, kPlain> columns(*g.epilogue, g.n0 + c);
    char* out = static_cast<char*>(g.out) + row0 * g.out_stride + c;
    for (int r = 0; r < rows; ++r, out += g.out_stride)
      columns.store(acc + r * acc_stride + c, *g.epilogue, g.m0 + row0 + r, out);
  }
  return c;
}

// Stores `rows` rows of a tile from row0 on; `acc` holds their accumulators, [rows][acc_stride], on
// vector boundaries, acc_init included.
//
// Not inlined: the accumulators of a kernel that has all kinds of stores inside do not stay in
// registers (gcc 12), and those that pass through memory once, at the end, do.
__attribute__((noinline)) static void store_rows(const int32_t* acc, ptrdiff_t acc_stride,
                                                 const GemmArgs& g, int row0, int rows) {
  with_kind(g.kind, [&](auto kind) {
    constexpr OutKind kOut = decltype(kind)::value;
    int c = 0;
    if constexpr (kOut == OutKind::kU8 || kOut == OutKind::kS8) {
      if (is_plain(*g.epilogue)) {
        c = store_byte_columns<4, kOut, true>(acc, acc_stride, g, row0, rows, c);
        c = store_byte_columns<2, kOut, true>(acc, acc_stride, g, row0, rows, c);
      } else {
        c = store_byte_columns<4, kOut, false>(acc, acc_stride, g, row0, rows, c);
        c = store_byte_columns<2, kOut, false>(acc, acc_stride, g, row0, rows, c);
      }
    }
    for (; c < g.n; c += 16) {
      char* out = static_cast<char*>(g.out) + row0 * g.out_stride + c * kind_bytes(kOut);
      const int32_t* from = acc + c;
      const Channels channels(*g.epilogue, g.n0 + c, lane_mask(g.n - c));
      for (int r = 0; r < rows; ++r, from += acc_stride, out += g.out_stride) {
        store_lanes<kOut>(_mm512_load_si512(from), *g.epilogue, channels, g.m0 + row0 + r, out);
      }
    }
  });
}

}  // namespace
}  // namespace octavo
