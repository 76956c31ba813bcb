// From a kernel's accumulators to outputs with AVX-512: 8-bit ones without a detour through memory.
#pragma once

#include <immintrin.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

// Whether store_bytes() takes the outputs of a call, of which NV vectors of columns are none too
// many; store_rows() takes any.
template <int NV>
static inline bool stores_bytes(const GemmArgs& g) {
  return (g.kind == OutKind::kU8 || g.kind == OutKind::kS8) && !depends_on_row(*g.epilogue) &&
         g.epilogue->stays_int32 && g.n > (NV - 1) * 16;
}

// abi/requantize.h for 8-bit outputs of MR rows of NV vectors, four vectors at a time: those of a
// row, of two rows or of four. Bounds are integers, so clamping after rounding gives what clamping
// before gives, and packing with saturation does most of it. int8 outputs are computed 128 higher,
// as uint8.
//
// Residuals become floats by bits alone: 2^23 + q, from which 2^23 + zero is subtracted, both
// exact.
//
// Register budget (32 zmm): MR * NV <= 24 accumulators, 3 temporaries, 5 constants, 8 with
// residuals; what finds no register, bias and multipliers first, is read from memory.
template <int MR, int NV, bool kAdd>
static inline OCTAVO_INLINE void store_bytes(const __m512i (&acc)[MR][NV], const GemmArgs& g,
                                             int row0) {
  constexpr int kRows = NV >= 3 ? 1 : 4 / NV;  // of four vectors
  const Epilogue& e = *g.epilogue;
  const int offset = g.kind == OutKind::kS8 ? 128 : 0;
  const int zero = e.out_zero + offset;
  const __m512i zeros = _mm512_set1_epi16(static_cast<int16_t>(zero));
  const __m512i lo = _mm512_set1_epi8(static_cast<char>(static_cast<int>(e.lo) + zero));
  const __m512i hi = _mm512_set1_epi8(static_cast<char>(static_cast<int>(e.hi) + zero));
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(offset));
  // Packing works on 128-bit lanes: dword j of lane i comes from vector j.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __mmask64 columns = ~0ull >> (64 - g.n);
  const __mmask16 last = static_cast<__mmask16>(columns >> (NV - 1) * 16);
  __m512 bias[NV], mult[NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    const __mmask16 mask = v < NV - 1 ? 0xffff : last;
    bias[v] = load_floats(e.bias + g.n0 + v * 16, mask);
    mult[v] = load_floats(e.mult + g.n0 + v * 16, mask);
  });
  const int add_offset = e.add_signed ? 128 : 0;
  const __m512i shift = _mm512_set1_epi32(0x4b000000 | add_offset);
  const __m512 shifted_zero = _mm512_set1_ps(0x1p23f + static_cast<float>(e.add_zero + add_offset));
  const char* added = static_cast<const char*>(e.add);
  if constexpr (kAdd) added += (g.m0 + row0) * e.add_stride + g.n0;
  char* out = static_cast<char*>(g.out) + row0 * g.out_stride;
  unroll<(MR + kRows - 1) / kRows>([&](auto block) OCTAVO_INLINE {
    // Vector i of four; what there is none for repeats another.
    const auto steps = [&](auto i) OCTAVO_INLINE {
      constexpr int kFlat = kIndex<decltype(i)>, kFirst = kIndex<decltype(block)> * kRows;
      constexpr int kRow = kFirst + (NV >= 3 ? 0 : kFlat / NV), r = kRow < MR ? kRow : MR - 1;
      constexpr int v = NV >= 3 ? (kFlat < NV ? kFlat : NV - 1) : kFlat % NV;
      const __m512 sums = _mm512_cvtepi32_ps(acc[r][v]);
      __m512 x = _mm512_mul_ps(_mm512_add_ps(sums, bias[v]), mult[v]);
      if constexpr (kAdd) {
        const char* from = added + r * e.add_stride + v * 16;
        const __m128i q = _mm_maskz_loadu_epi8(v < NV - 1 ? 0xffff : last, from);
        const __m512i shifted = _mm512_xor_si512(_mm512_cvtepu8_epi32(q), shift);
        const __m512 steps = _mm512_sub_ps(_mm512_castsi512_ps(shifted), shifted_zero);
        x = _mm512_add_ps(x, _mm512_mul_ps(steps, _mm512_set1_ps(e.add_scale)));
      }
      return _mm512_cvtps_epi32(x);
    };
    const __m512i low = _mm512_packs_epi32(steps(Index<0>()), steps(Index<1>()));
    const __m512i high = _mm512_packs_epi32(steps(Index<2>()), steps(Index<3>()));
    const __m512i packed =
        _mm512_packus_epi16(_mm512_adds_epi16(low, zeros), _mm512_adds_epi16(high, zeros));
    const __m512i clamped = _mm512_min_epu8(_mm512_max_epu8(packed, lo), hi);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_xor_si512(clamped, flip));
    unroll<kRows>([&](auto i) OCTAVO_INLINE {
      constexpr int kPart = kIndex<decltype(i)>;
      if constexpr (kIndex<decltype(block)> * kRows + kPart < MR) {
        if constexpr (NV >= 3) {
          _mm512_mask_storeu_epi8(out, columns, bytes);
        } else if constexpr (NV == 2) {
          _mm256_mask_storeu_epi8(out, static_cast<__mmask32>(columns),
                                  _mm512_extracti64x4_epi64(bytes, kPart));
        } else {
          _mm_mask_storeu_epi8(out, static_cast<__mmask16>(columns),
                               _mm512_extracti32x4_epi32(bytes, kPart));
        }
        out += g.out_stride;
      }
    });
  });
}

// Stores MR rows of a tile from row0 on, whatever their kind; acc_init is included.
template <int MR, int NV>
static inline OCTAVO_INLINE void store_accumulators(const __m512i (&acc)[MR][NV], const GemmArgs& g,
                                                    int row0) {
  // A second form behind the loop of a small tile costs more than it saves (4x32 without VNNI 1.1
  // times the time, residuals or not).
  constexpr bool kAdds = MR * NV > 8;
  if (stores_bytes<NV>(g) && (kAdds || !g.epilogue->add)) {
    if constexpr (kAdds) {
      if (g.epilogue->add) return store_bytes<MR, NV, true>(acc, g, row0);
    }
    return store_bytes<MR, NV, false>(acc, g, row0);
  }
  alignas(64) int32_t tile[MR][NV * 16];
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    unroll<NV>([&](auto v) OCTAVO_INLINE { _mm512_store_si512(&tile[r][v * 16], acc[r][v]); });
  });
  store_rows(tile[0], NV * 16, g, row0, MR);
}

}  // namespace
}  // namespace octavo
