// Dense convolution of few channels without dot-product instructions, exact for every input.
//
// Where few output channels share a window, preparing each window costs as much as multiplying it.
// Lines of the image widened to 16 bits serve all windows that overlap in them, and vpmaddwd takes
// two neighbouring elements, which cannot overflow, from wherever a window begins. Two k of 16
// columns are two vpmaddwd and two vpaddd, as four k are by x86_shared/gemm_inner_product-inl.h:
// the window's kernel rows are padded to 2 elements instead of 4 (3x3 of 3 channels: 30, not 36).
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// The call's weights, widened, and for each of their pairs where in a window its activations lie.
template <typename V, int NV>
struct LineScratch {
  int32_t offset[kLinePairs];
  alignas(64) int16_t w[kLinePairs][NV][2 * V::kInts];
};

// Activations to 16 bits, int8 ones offset by 128 (LineKernel::a_offset).
template <bool kSigned>
void widen_line(const void* from, int64_t count, uint16_t* to) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  const __m128i flip = _mm_set1_epi8(kSigned ? -128 : 0);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_cvtepu8_epi16(_mm_xor_si128(v, flip)));
  }
  for (; i < count; ++i) to[i] = static_cast<uint16_t>(bytes[i] ^ (kSigned ? 0x80 : 0));
}

// Returns how many pairs there are.
template <typename V, int NV>
__attribute__((noinline)) int widen_line_weights(const GemmArgs& g, LineScratch<V, NV>& scratch) {
  const int8_t* b = g.b;
  int pairs = 0;
  for (int t = 0; t < g.taps; ++t) {
    for (int k = 0; k < g.k; k += 4, b += g.b_stride) {
      const bool two = k + 2 < g.k;
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        const auto bytes = V::load(b + v * 4 * V::kInts);
        V::store(scratch.w[pairs][v], V::template signed_pairs<0>(bytes));
        if (two) V::store(scratch.w[pairs + 1][v], V::template signed_pairs<1>(bytes));
      });
      scratch.offset[pairs] = static_cast<int32_t>(g.tap[t] + 2 * k);
      if (two) scratch.offset[pairs + 1] = static_cast<int32_t>(g.tap[t] + 2 * k + 4);
      pairs += two ? 2 : 1;
    }
  }
  return pairs;
}

// Register budget, 16 ymm as 6 x 2 or 32 zmm as 12 x 2: MR * NV accumulators, NV vectors of B, a
// broadcast of A, a product. Each pair costs a row one load, NV vpmaddwd and NV vpaddd.
template <typename V, int NV, int MR>
__attribute__((noinline)) void line_rows(const GemmArgs& g, int row0, int pairs,
                                         const LineScratch<V, NV>& scratch) {
  typename V::Vec acc[MR][NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    constexpr int kColumn = v * V::kInts;
    const auto init = V::load_ints(g.epilogue->acc_init + g.n0 + kColumn, g.n - kColumn);
    unroll<MR>([&](auto r) OCTAVO_INLINE { acc[r][v] = init; });
  });
  const ptrdiff_t stride = g.a_stride;
  const uint8_t* a = g.a + row0 * stride;
  for (int i = 0; i < pairs; ++i) {
    typename V::Vec b[NV];
    unroll<NV>([&](auto v) OCTAVO_INLINE { b[v] = V::load(scratch.w[i][v]); });
    const uint8_t* at = a + scratch.offset[i];
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      // Rows are addressed from every third one: base + {0, 1, 2} * stride.
      if constexpr (r > 0 && r % 3 == 0) at += 3 * stride;
      int32_t dword;
      std::memcpy(&dword, at + r % 3 * stride, sizeof dword);
      const auto pair = V::set32(dword);
      unroll<NV>([&](auto v)
                     OCTAVO_INLINE { acc[r][v] = V::add32(acc[r][v], V::madd16(pair, b[v])); });
    });
  }
  V::store_tile(acc, g, row0);
}

// Rows from `row` on.
template <typename V, int NV, int MR, int... Rest>
static inline void line_split(const GemmArgs& g, int row, int pairs,
                              const LineScratch<V, NV>& scratch) {
  for (; g.m - row >= MR; row += MR) line_rows<V, NV, MR>(g, row, pairs, scratch);
  if constexpr (sizeof...(Rest) > 0) line_split<V, NV, Rest...>(g, row, pairs, scratch);
}

template <typename V, int NV, int... kRows>
static inline void line_panel(const GemmArgs& g) {
  auto& scratch = *static_cast<LineScratch<V, NV>*>(g.scratch);
  const int pairs = widen_line_weights<V, NV>(g, scratch);
  line_split<V, NV, kRows...>(g, 0, pairs, scratch);
}

// kRows: the row counts that are compiled, largest first, down to 1.
template <typename V, int... kRows>
void multiply_lines(const GemmArgs* g) {
  if (g->n > V::kInts) {
    line_panel<V, 2, kRows...>(*g);
  } else {
    line_panel<V, 1, kRows...>(*g);
  }
}

template <typename V, int... kRows>
constexpr LineKernel line_row(const char* name, PackFormat format) {
  LineKernel row{};
  row.name = name;
  row.fn = multiply_lines<V, kRows...>;
  row.widen[0] = widen_line<false>;
  row.widen[1] = widen_line<true>;
  row.format = format;
  row.nr = 2 * V::kInts;
  row.a_offset[1] = 128;
  row.scratch_bytes = sizeof(LineScratch<V, 2>);
  return row;
}

}  // namespace
}  // namespace octavo
