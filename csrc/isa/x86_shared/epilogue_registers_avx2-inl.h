// From a kernel's accumulators to outputs with AVX2: 8-bit ones without a detour through memory.
#pragma once

#include <immintrin.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

// Whether store_bytes8() takes the outputs of a call; store_rows8() takes any.
template <int NV>
static inline bool stores_bytes8(const GemmArgs& g) {
  const Epilogue& e = *g.epilogue;
  return (g.kind == OutKind::kU8 || g.kind == OutKind::kS8) && e.stays_int32 && g.n == NV * 8 &&
         !e.row_zero && !e.w_zero && !e.row_scale && !e.add;
}

// As store_bytes() with AVX-512: MR rows of NV vectors, those of two rows or of four at a time.
//
// Register budget (16 ymm): MR * NV <= 12 accumulators, 3 temporaries; what else finds no register
// is read from memory.
template <int MR, int NV>
static inline OCTAVO_INLINE void store_bytes8(const __m256i (&acc)[MR][NV], const GemmArgs& g,
                                              int row0) {
  static_assert(NV == 1 || NV == 2);
  constexpr int kRows = 4 / NV;  // of four vectors
  const Epilogue& e = *g.epilogue;
  const int offset = g.kind == OutKind::kS8 ? 128 : 0;
  const int zero = e.out_zero + offset;
  const __m256i zeros = _mm256_set1_epi16(static_cast<int16_t>(zero));
  const __m256i lo = _mm256_set1_epi8(static_cast<char>(static_cast<int>(e.lo) + zero));
  const __m256i hi = _mm256_set1_epi8(static_cast<char>(static_cast<int>(e.hi) + zero));
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(offset));
  // Packing works on 128-bit lanes: dword j of lane i comes from vector j.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const float *bias = e.bias + g.n0, *mult = e.mult + g.n0;
  char* out = static_cast<char*>(g.out) + row0 * g.out_stride;
  unroll<(MR + kRows - 1) / kRows>([&](auto block) OCTAVO_INLINE {
    // Vector i of four; where the tile has no more rows, again that of the last one.
    const auto steps = [&](auto i) OCTAVO_INLINE {
      constexpr int kRow = kIndex<decltype(block)> * kRows + kIndex<decltype(i)> / NV;
      constexpr int r = kRow < MR ? kRow : MR - 1, v = kIndex<decltype(i)> % NV;
      const __m256 sums =
          _mm256_add_ps(_mm256_cvtepi32_ps(acc[r][v]), _mm256_loadu_ps(bias + v * 8));
      return _mm256_cvtps_epi32(_mm256_mul_ps(sums, _mm256_loadu_ps(mult + v * 8)));
    };
    const __m256i low = _mm256_packs_epi32(steps(Index<0>()), steps(Index<1>()));
    const __m256i high = _mm256_packs_epi32(steps(Index<2>()), steps(Index<3>()));
    const __m256i packed =
        _mm256_packus_epi16(_mm256_adds_epi16(low, zeros), _mm256_adds_epi16(high, zeros));
    const __m256i clamped = _mm256_min_epu8(_mm256_max_epu8(packed, lo), hi);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_xor_si256(clamped, flip), order);
    unroll<kRows>([&](auto i) OCTAVO_INLINE {
      constexpr int kPart = kIndex<decltype(i)>;
      if constexpr (kIndex<decltype(block)> * kRows + kPart < MR) {
        const __m128i half = _mm256_extracti128_si256(bytes, kPart * NV / 2);
        if constexpr (NV == 2) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(out), half);
        } else {
          _mm_storel_epi64(reinterpret_cast<__m128i*>(out),
                           kPart % 2 ? _mm_unpackhi_epi64(half, half) : half);
        }
        out += g.out_stride;
      }
    });
  });
}

// Stores MR rows of a tile from row0 on, whatever their kind; acc_init is included.
template <int MR, int NV>
static inline OCTAVO_INLINE void store_accumulators8(const __m256i (&acc)[MR][NV],
                                                     const GemmArgs& g, int row0) {
  if (stores_bytes8<NV>(g)) return store_bytes8<MR, NV>(acc, g, row0);
  alignas(64) int32_t tile[MR][NV * 8];
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      _mm256_store_si256(reinterpret_cast<__m256i*>(&tile[r][v * 8]), acc[r][v]);
    });
  });
  store_rows8(tile[0], NV * 8, g, row0, MR);
}

}  // namespace
}  // namespace octavo
