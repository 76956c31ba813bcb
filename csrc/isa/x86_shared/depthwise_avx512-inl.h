// Depthwise convolution with AVX-512: 16 channels by up to 4 pixels.
#pragma once

#include <immintrin.h>

#include "abi/kernel_abi.h"
#include "abi/out_kind.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

// A byte and a weight, each widened to 32 bits, are multiplied by vpmaddwd: the low halves give the
// product, and one of the high halves is zero (the activation's when it is unsigned, else the
// weight's is cleared).
//
// Register budget: PIXELS accumulators, 1 weight vector, 1 activation vector.
template <int PIXELS, bool kSigned, OutKind kOut>
static inline void depthwise_block(const DepthwiseArgs& d, int pixel, int channel, __mmask16 mask) {
  const Epilogue& e = *d.epilogue;
  const int8_t* w = d.w + static_cast<ptrdiff_t>(channel) * d.taps;
  const uint8_t* const* rows = d.rows + static_cast<ptrdiff_t>(pixel) * d.taps;
  const __m512i init = load_ints(e.acc_init + d.n0 + channel, mask);
  __m512i acc[PIXELS];
  unroll<PIXELS>([&](auto p) OCTAVO_INLINE { acc[p] = init; });
  for (int t = 0; t < d.taps; ++t, w += kDepthwiseBlock) {
    __m512i weight = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
    if constexpr (kSigned) weight = _mm512_and_si512(weight, _mm512_set1_epi32(0xffff));
    unroll<PIXELS>([&](auto p) OCTAVO_INLINE {
      const __m128i bytes =
          _mm_maskz_loadu_epi8(mask, rows[static_cast<ptrdiff_t>(p) * d.taps + t] + channel);
      const __m512i a = kSigned ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
      acc[p] = _mm512_add_epi32(acc[p], _mm512_madd_epi16(a, weight));
    });
  }
  const Channels channels(e, d.n0 + channel, mask);
  constexpr ptrdiff_t kSize = kind_bytes(kOut);
  unroll<PIXELS>([&](auto p) OCTAVO_INLINE {
    char* out = static_cast<char*>(d.out) + (pixel + p) * d.out_stride + channel * kSize;
    store_lanes<kOut>(acc[p], e, channels, d.m0 + pixel + p, out);
  });
}

template <bool kSigned>
void depthwise_avx512(const DepthwiseArgs* args) {
  const DepthwiseArgs& d = *args;
  with_kind(d.kind, [&](auto kind) {
    constexpr OutKind kOut = decltype(kind)::value;
    for (int channel = 0; channel < d.channels; channel += kDepthwiseBlock) {
      const __mmask16 mask = lane_mask(d.channels - channel);
      int pixel = 0;
      for (; pixel + 4 <= d.pixels; pixel += 4)
        depthwise_block<4, kSigned, kOut>(d, pixel, channel, mask);
      for (; pixel < d.pixels; ++pixel) depthwise_block<1, kSigned, kOut>(d, pixel, channel, mask);
    }
  });
}

constexpr DepthwiseKernel depthwise_avx512_row(const char* name) {
  return {name, {depthwise_avx512<false>, depthwise_avx512<true>}, 0};
}

}  // namespace
}  // namespace octavo
