// Depthwise convolution with AVX2: 8 channels by up to 4 pixels.
#pragma once

#include <immintrin.h>

#include "abi/kernel_abi.h"
#include "abi/out_kind.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

// As in x86_shared/depthwise_avx512-inl.h: byte and weight widened to 32 bits, multiplied by
// vpmaddwd.
//
// Register budget: PIXELS accumulators, 1 weight vector, 1 activation vector.
template <int PIXELS, bool kSigned, bool kWhole, OutKind kOut>
static inline void depthwise_block(const DepthwiseArgs& d, int pixel, int channel) {
  const Epilogue& e = *d.epilogue;
  const int lanes = d.channels - channel;
  const int block = channel / kDepthwiseBlock * kDepthwiseBlock;
  const int8_t* w = d.w + static_cast<ptrdiff_t>(block) * d.taps + (channel - block);
  const uint8_t* const* rows = d.rows + static_cast<ptrdiff_t>(pixel) * d.taps;
  const __m256i init = load_ints8(e.acc_init + d.n0 + channel, lane_mask8(lanes));
  __m256i acc[PIXELS];
  unroll<PIXELS>([&](auto p) OCTAVO_INLINE { acc[p] = init; });
  for (int t = 0; t < d.taps; ++t, w += kDepthwiseBlock) {
    __m256i weight = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w)));
    if constexpr (kSigned) weight = _mm256_and_si256(weight, _mm256_set1_epi32(0xffff));
    unroll<PIXELS>([&](auto p) OCTAVO_INLINE {
      const uint8_t* row = rows[static_cast<ptrdiff_t>(p) * d.taps + t] + channel;
      const __m128i bytes = load_bytes8(row, kWhole ? 8 : lanes);
      const __m256i a = kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
      acc[p] = _mm256_add_epi32(acc[p], _mm256_madd_epi16(a, weight));
    });
  }
  const Channels8 channels(e, d.n0 + channel, lanes);
  constexpr ptrdiff_t kSize = kind_bytes(kOut);
  unroll<PIXELS>([&](auto p) OCTAVO_INLINE {
    char* out = static_cast<char*>(d.out) + (pixel + p) * d.out_stride + channel * kSize;
    store_lanes8<kOut>(acc[p], e, channels, d.m0 + pixel + p, out);
  });
}

template <bool kSigned, bool kWhole, OutKind kOut>
static inline void depthwise_pixels(const DepthwiseArgs& d, int channel) {
  int pixel = 0;
  for (; pixel + 4 <= d.pixels; pixel += 4)
    depthwise_block<4, kSigned, kWhole, kOut>(d, pixel, channel);
  for (; pixel < d.pixels; ++pixel) depthwise_block<1, kSigned, kWhole, kOut>(d, pixel, channel);
}

template <bool kSigned>
void depthwise_avx2(const DepthwiseArgs* args) {
  const DepthwiseArgs& d = *args;
  with_kind(d.kind, [&](auto kind) {
    constexpr OutKind kOut = decltype(kind)::value;
    int channel = 0;
    for (; channel + 8 <= d.channels; channel += 8)
      depthwise_pixels<kSigned, true, kOut>(d, channel);
    if (channel < d.channels) depthwise_pixels<kSigned, false, kOut>(d, channel);
  });
}

constexpr DepthwiseKernel depthwise_avx2_row(const char* name) {
  return {name, {depthwise_avx2<false>, depthwise_avx2<true>}, 0};
}

}  // namespace
}  // namespace octavo
