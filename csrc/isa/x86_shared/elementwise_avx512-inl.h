// Element-wise kernels with AVX-512; what is not here is isa/shared/elementwise-inl.h compiled for
// AVX-512.
#pragma once

#include <immintrin.h>

#include "abi/unroll.h"
#include "isa/shared/elementwise-inl.h"
#include "isa/vector_shared/cell-inl.h"
#include "isa/vector_shared/elementwise_bytes-inl.h"
#include "isa/vector_shared/fake_quantize-inl.h"
#include "isa/x86_shared/attention_avx512-inl.h"
#include "isa/x86_shared/embedding_avx512-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"
#include "isa/x86_shared/floats_avx512-inl.h"
#include "isa/x86_shared/lookup_avx512-inl.h"
#include "isa/x86_shared/normalize_avx512-inl.h"
#include "isa/x86_shared/pooling_avx512-inl.h"
#include "isa/x86_shared/softmax_avx512-inl.h"

namespace octavo {
namespace {

// 64 int32 in the range of their type, as bytes in order.
template <bool kSigned>
static inline __m512i pack_bytes(const __m512i (&q)[4]) {
  const __m512i low = _mm512_packs_epi32(q[0], q[1]), high = _mm512_packs_epi32(q[2], q[3]);
  const __m512i bytes = kSigned ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}

// What every result goes through: clamp, round half to even, add the zero point.
struct Steps16 {
  Steps16(float lo, float hi, int32_t zero)
      : lo(_mm512_set1_ps(lo)), hi(_mm512_set1_ps(hi)), zero(_mm512_set1_epi32(zero)) {}
  __m512i operator()(__m512 x) const {
    x = _mm512_min_ps(_mm512_max_ps(x, lo), hi);
    return _mm512_add_epi32(_mm512_cvtps_epi32(x), zero);
  }
  __m512 lo, hi;
  __m512i zero;
};

// out[i] = steps(value(i)): value(i, mask) gives 16 floats, of which those in the mask count.
template <bool kSigned, typename Value>
static inline OCTAVO_INLINE void map_to_bytes(int64_t size, void* to, const Steps16& steps,
                                              const Value& value) {
  uint8_t* out = static_cast<uint8_t*>(to);
  int64_t i = 0;
  for (; i + 64 <= size; i += 64) {
    __m512i q[4];
    unroll<4>([&](auto j) OCTAVO_INLINE { q[j] = steps(value(i + j * 16, 0xffff)); });
    _mm512_storeu_si512(out + i, pack_bytes<kSigned>(q));
  }
  for (; i < size; i += 16) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i < 16 ? size - i : 16));
    _mm_mask_storeu_epi8(out + i, mask, _mm512_cvtepi32_epi8(steps(value(i, mask))));
  }
}

template <bool kSigned>
void quantize_avx512(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                     int32_t hi, void* q) {
  const __m512 inv = _mm512_set1_ps(inv_scale);
  const Steps16 steps(static_cast<float>(lo - zero), static_cast<float>(hi - zero), zero);
  map_to_bytes<kSigned>(size, q, steps, [&](int64_t i, __mmask16 mask) OCTAVO_INLINE {
    const __m512 v = _mm512_mul_ps(load_floats(x + i, mask), inv);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v);  // NaN: the zero point
  });
}

template <bool kSigned>
void dequantize_avx512(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(q);
  const __m512 vscale = _mm512_set1_ps(scale);
  const __m512i vzero = _mm512_set1_epi32(zero);
  const auto values = [&](__m128i bytes) {
    const __m512i wide = kSigned ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(wide, vzero)), vscale);
  };
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) {
    _mm512_storeu_ps(x + i, values(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
  if (i < size) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i));
    _mm512_mask_storeu_ps(x + i, mask, values(_mm_maskz_loadu_epi8(mask, in + i)));
  }
}

static void range_avx512(const float* x, int64_t size, FloatRange* range) {
  __m512 lo[2], hi[2];
  __mmask16 nan = 0;
  for (int j = 0; j < 2; ++j) {
    lo[j] = _mm512_set1_ps(range->lo);
    hi[j] = _mm512_set1_ps(range->hi);
  }
  // The value comes first: where it is NaN or compares equal, the bound stays.
  const auto extend = [&](__m512 v, int j) {
    lo[j] = _mm512_min_ps(v, lo[j]);
    hi[j] = _mm512_max_ps(v, hi[j]);
    nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q));
  };
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    extend(_mm512_loadu_ps(x + i), 0);
    extend(_mm512_loadu_ps(x + i + 16), 1);
  }
  for (; i < size; i += 16)
    extend(load_floats(x + i, lane_mask(static_cast<int>(size - i < 16 ? size - i : 16))), 0);
  alignas(64) float low[16], high[16];
  _mm512_store_ps(low, _mm512_min_ps(lo[0], lo[1]));
  _mm512_store_ps(high, _mm512_max_ps(hi[0], hi[1]));
  for (int j = 0; j < 16; ++j) {
    range->lo = low[j] < range->lo ? low[j] : range->lo;
    range->hi = high[j] > range->hi ? high[j] : range->hi;
  }
  if (nan) range->lo = range->hi = bits_float(0x7fc00000);
}

template <bool kF16>
void to_float_avx512(const void* halves, int64_t size, float* x) {
  const uint16_t* in = static_cast<const uint16_t*>(halves);
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i < 16 ? size - i : 16));
    const __m256i v = _mm256_maskz_loadu_epi16(mask, in + i);
    const __m512 wide = kF16 ? _mm512_cvtph_ps(v)
                             : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
    _mm512_mask_storeu_ps(x + i, mask, wide);
  }
}

constexpr ElementwiseFns elementwise_avx512() {
  ElementwiseFns fns = portable_elementwise();
  fns.quantize[0] = quantize_avx512<false>;
  fns.quantize[1] = quantize_avx512<true>;
  fns.dequantize[0] = dequantize_avx512<false>;
  fns.dequantize[1] = dequantize_avx512<true>;
  fns.range = range_avx512;
  fns.to_float[0] = to_float_avx512<false>;
  fns.to_float[1] = to_float_avx512<true>;
  fns.max_pool[0] = max_pool_vectors<Bytes512, false>;
  fns.max_pool[1] = max_pool_vectors<Bytes512, true>;
  fns.avg_pool[0] = avg_pool_vectors<Bytes512, false>;
  fns.avg_pool[1] = avg_pool_vectors<Bytes512, true>;
  fns.interpolate[0] = interpolate_vectors<Bytes512, false>;
  fns.interpolate[1] = interpolate_vectors<Bytes512, true>;
  fns.cell[static_cast<int>(CellKind::kLstm)] = lstm_cell<Floats512>;
  fns.cell[static_cast<int>(CellKind::kGru)] = gru_cell<Floats512>;
  fns.cell[static_cast<int>(CellKind::kRnnTanh)] = rnn_cell<Floats512, false>;
  fns.cell[static_cast<int>(CellKind::kRnnRelu)] = rnn_cell<Floats512, true>;
  fns.embedding[0] = embedding_bags<VectorRows<TableBytes512>>;
  fns.embedding[1] = embedding_bags<VectorRows<TableNibbles512>>;
  fns.lookup = lookup_avx512;
  fns.lookup_vbmi = lookup_avx512_vbmi;
  fns.softmax = softmax_vectors<SoftmaxBytes512>;
  fns.attention_weights = attention_weights_vectors<Attention512>;
  fns.attention_output = attention_output_vectors<Attention512>;
  fns.fake_quantize = fake_quantize_vectors<Floats512>;
  fns.masked_gradient = masked_gradient_vectors<Floats512>;
  add_elementwise_bytes<FloatBytes512>(fns);
  add_normalize<FloatBytes512>(fns);
  return fns;
}

}  // namespace
}  // namespace octavo
