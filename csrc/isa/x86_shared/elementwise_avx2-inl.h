// Element-wise kernels with AVX2; what is not here is isa/shared/elementwise-inl.h compiled for
// AVX2.
#pragma once

#include <immintrin.h>

#include "abi/unroll.h"
#include "isa/shared/elementwise-inl.h"
#include "isa/vector_shared/cell-inl.h"
#include "isa/vector_shared/elementwise_bytes-inl.h"
#include "isa/vector_shared/fake_quantize-inl.h"
#include "isa/x86_shared/attention_avx2-inl.h"
#include "isa/x86_shared/embedding_avx2-inl.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"
#include "isa/x86_shared/floats_avx2-inl.h"
#include "isa/x86_shared/lookup_avx2-inl.h"
#include "isa/x86_shared/normalize_avx2-inl.h"
#include "isa/x86_shared/pooling_avx2-inl.h"
#include "isa/x86_shared/softmax_avx2-inl.h"

namespace octavo {
namespace {

// 32 int32 in the range of their type, as bytes in order.
template <bool kSigned>
static inline __m256i pack_bytes(const __m256i (&q)[4]) {
  const __m256i low = _mm256_packs_epi32(q[0], q[1]), high = _mm256_packs_epi32(q[2], q[3]);
  const __m256i bytes = kSigned ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// What every result goes through: clamp, round half to even, add the zero point.
struct Steps8 {
  Steps8(float lo, float hi, int32_t zero)
      : lo(_mm256_set1_ps(lo)), hi(_mm256_set1_ps(hi)), zero(_mm256_set1_epi32(zero)) {}
  __m256i operator()(__m256 x) const {
    x = _mm256_min_ps(_mm256_max_ps(x, lo), hi);
    return _mm256_add_epi32(_mm256_cvtps_epi32(x), zero);
  }
  __m256 lo, hi;
  __m256i zero;
};

// out[i] = steps(value(i)): value(i, lanes) gives 8 floats, of which the first `lanes` count.
template <bool kSigned, typename Value>
static inline OCTAVO_INLINE void map_to_bytes(int64_t size, void* to, const Steps8& steps,
                                              const Value& value) {
  uint8_t* out = static_cast<uint8_t*>(to);
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    __m256i q[4];
    unroll<4>([&](auto j) OCTAVO_INLINE { q[j] = steps(value(i + j * 8, 8)); });
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), pack_bytes<kSigned>(q));
  }
  for (; i < size; i += 8) {
    const int lanes = static_cast<int>(size - i < 8 ? size - i : 8);
    const int64_t bytes = low_bytes(steps(value(i, lanes)));
    std::memcpy(out + i, &bytes, lanes);
  }
}

template <bool kSigned>
void quantize_avx2(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                   int32_t hi, void* q) {
  const __m256 inv = _mm256_set1_ps(inv_scale);
  const Steps8 steps(static_cast<float>(lo - zero), static_cast<float>(hi - zero), zero);
  map_to_bytes<kSigned>(size, q, steps, [&](int64_t i, int lanes) OCTAVO_INLINE {
    const __m256 in = lanes == 8 ? _mm256_loadu_ps(x + i) : load_floats8(x + i, lane_mask8(lanes));
    const __m256 v = _mm256_mul_ps(in, inv);
    return _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));  // NaN: the zero point
  });
}

template <bool kSigned>
void dequantize_avx2(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(q);
  const __m256 vscale = _mm256_set1_ps(scale);
  const __m256i vzero = _mm256_set1_epi32(zero);
  const auto values = [&](__m128i bytes) {
    const __m256i wide = kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(wide, vzero)), vscale);
  };
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) _mm256_storeu_ps(x + i, values(load_bytes8(in + i, 8)));
  if (i < size) {
    const int lanes = static_cast<int>(size - i);
    _mm256_maskstore_ps(x + i, lane_mask8(lanes), values(load_bytes8(in + i, lanes)));
  }
}

static void range_avx2(const float* x, int64_t size, FloatRange* range) {
  __m256 lo[2], hi[2], nan = _mm256_setzero_ps();
  for (int j = 0; j < 2; ++j) {
    lo[j] = _mm256_set1_ps(range->lo);
    hi[j] = _mm256_set1_ps(range->hi);
  }
  // The value comes first: where it is NaN or compares equal, the bound stays.
  const auto extend = [&](__m256 v, int j) {
    lo[j] = _mm256_min_ps(v, lo[j]);
    hi[j] = _mm256_max_ps(v, hi[j]);
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  };
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) {
    extend(_mm256_loadu_ps(x + i), 0);
    extend(_mm256_loadu_ps(x + i + 8), 1);
  }
  for (; i < size; i += 8) {
    const int lanes = static_cast<int>(size - i < 8 ? size - i : 8);
    extend(load_floats8(x + i, lane_mask8(lanes)), 0);
  }
  alignas(32) float low[8], high[8];
  _mm256_store_ps(low, _mm256_min_ps(lo[0], lo[1]));
  _mm256_store_ps(high, _mm256_max_ps(hi[0], hi[1]));
  for (int j = 0; j < 8; ++j) {
    range->lo = low[j] < range->lo ? low[j] : range->lo;
    range->hi = high[j] > range->hi ? high[j] : range->hi;
  }
  if (_mm256_movemask_ps(nan)) range->lo = range->hi = bits_float(0x7fc00000);
}

template <bool kF16>
void to_float_avx2(const void* halves, int64_t size, float* x) {
  const uint16_t* in = static_cast<const uint16_t*>(halves);
  const auto convert = [](__m128i v) {
    if constexpr (kF16) {
      return _mm256_cvtph_ps(v);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    }
  };
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(x + i, convert(v));
  }
  if (i < size) {
    alignas(16) uint16_t tail[8] = {};
    const int lanes = static_cast<int>(size - i);
    std::memcpy(tail, in + i, static_cast<size_t>(lanes) * 2);
    const __m256 v = convert(_mm_load_si128(reinterpret_cast<const __m128i*>(tail)));
    _mm256_maskstore_ps(x + i, lane_mask8(lanes), v);
  }
}

constexpr ElementwiseFns elementwise_avx2() {
  ElementwiseFns fns = portable_elementwise();
  fns.quantize[0] = quantize_avx2<false>;
  fns.quantize[1] = quantize_avx2<true>;
  fns.dequantize[0] = dequantize_avx2<false>;
  fns.dequantize[1] = dequantize_avx2<true>;
  fns.range = range_avx2;
  fns.to_float[0] = to_float_avx2<false>;
  fns.to_float[1] = to_float_avx2<true>;
  fns.max_pool[0] = max_pool_vectors<Bytes256, false>;
  fns.max_pool[1] = max_pool_vectors<Bytes256, true>;
  fns.avg_pool[0] = avg_pool_vectors<Bytes256, false>;
  fns.avg_pool[1] = avg_pool_vectors<Bytes256, true>;
  fns.interpolate[0] = interpolate_vectors<Bytes256, false>;
  fns.interpolate[1] = interpolate_vectors<Bytes256, true>;
  fns.cell[static_cast<int>(CellKind::kLstm)] = lstm_cell<Floats256>;
  fns.cell[static_cast<int>(CellKind::kGru)] = gru_cell<Floats256>;
  fns.cell[static_cast<int>(CellKind::kRnnTanh)] = rnn_cell<Floats256, false>;
  fns.cell[static_cast<int>(CellKind::kRnnRelu)] = rnn_cell<Floats256, true>;
  fns.embedding[0] = embedding_bags<VectorRows<TableBytes256>>;
  fns.embedding[1] = embedding_bags<VectorRows<TableNibbles256>>;
  fns.lookup = lookup_avx2;
  fns.softmax = softmax_vectors<SoftmaxBytes256>;
  fns.attention_weights = attention_weights_vectors<Attention256>;
  fns.attention_output = attention_output_vectors<Attention256>;
  fns.fake_quantize = fake_quantize_vectors<Floats256>;
  fns.masked_gradient = masked_gradient_vectors<Floats256>;
  add_elementwise_bytes<FloatBytes256>(fns);
  add_normalize<FloatBytes256>(fns);
  return fns;
}

}  // namespace
}  // namespace octavo
