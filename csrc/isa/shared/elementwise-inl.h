// Element-wise kernels in plain C++. Each ISA folder compiles its own copy with its own flags; the
// loops are written so that compilers vectorize them, and every float operation is a separate IEEE
// one, so that all copies agree to the bit.
#pragma once

#include "abi/half.h"
#include "abi/kernel_abi.h"
#include "abi/requantize.h"
#include "isa/shared/attention-inl.h"
#include "isa/shared/cell-inl.h"
#include "isa/shared/embedding-inl.h"
#include "isa/shared/fake_quantize-inl.h"
#include "isa/shared/normalize-inl.h"
#include "isa/shared/pooling-inl.h"

namespace octavo {
namespace {

template <typename T>
void quantize_portable(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                       int32_t hi, void* q) {
  T* out = static_cast<T*>(q);
  const float flo = static_cast<float>(lo - zero), fhi = static_cast<float>(hi - zero);
  for (int64_t i = 0; i < size; ++i) {
    float v = x[i] * inv_scale;
    v = v == v ? v : 0.0f;
    out[i] = static_cast<T>(static_cast<int32_t>(round_half_even(clamp_float(v, flo, fhi))) + zero);
  }
}

template <typename T>
void dequantize_portable(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const T* in = static_cast<const T*>(q);
  for (int64_t i = 0; i < size; ++i)
    x[i] = static_cast<float>(static_cast<int32_t>(in[i]) - zero) * scale;
}

template <typename T>
void add_portable(const BinaryArgs* args) {
  const BinaryArgs p = *args;
  const T* a = static_cast<const T*>(p.a);
  const T* b = static_cast<const T*>(p.b);
  T* out = static_cast<T*>(p.out);
  for (int64_t i = 0; i < p.size; ++i) {
    const float x = static_cast<float>(static_cast<int32_t>(a[i]) - p.a_zero) * p.a_scale;
    const float y = static_cast<float>(static_cast<int32_t>(b[i]) - p.b_zero) * p.b_scale;
    const float sum = x + y;
    out[i] = static_cast<T>(static_cast<int32_t>(round_half_even(clamp_float(sum, p.lo, p.hi))) +
                            p.out_zero);
  }
}

template <typename T>
void mul_portable(const BinaryArgs* args) {
  const BinaryArgs p = *args;
  const T* a = static_cast<const T*>(p.a);
  const T* b = static_cast<const T*>(p.b);
  T* out = static_cast<T*>(p.out);
  for (int64_t i = 0; i < p.size; ++i) {
    const int32_t product =
        (static_cast<int32_t>(a[i]) - p.a_zero) * (static_cast<int32_t>(b[i]) - p.b_zero);
    const float x = static_cast<float>(product) * p.a_scale;
    out[i] = static_cast<T>(static_cast<int32_t>(round_half_even(clamp_float(x, p.lo, p.hi))) +
                            p.out_zero);
  }
}

template <typename In, typename Out>
void requantize_portable(const UnaryArgs* args) {
  const UnaryArgs p = *args;
  for (int64_t r = 0; r < p.rows; ++r) {
    const In* in = static_cast<const In*>(p.in) + r * p.in_stride;
    Out* out = static_cast<Out*>(p.out) + r * p.out_stride;
    for (int64_t i = 0; i < p.size; ++i) {
      const float x = static_cast<float>(static_cast<int32_t>(in[i]) - p.in_zero) * p.scale;
      out[i] = static_cast<Out>(static_cast<int32_t>(round_half_even(clamp_float(x, p.lo, p.hi))) +
                                p.out_zero);
    }
  }
}

template <typename T>
void clamp_portable(const void* in, int64_t size, int32_t lo, int32_t hi, void* out) {
  const T* x = static_cast<const T*>(in);
  T* y = static_cast<T*>(out);
  const T low = static_cast<T>(lo), high = static_cast<T>(hi);
  for (int64_t i = 0; i < size; ++i) {
    const T v = x[i] > low ? x[i] : low;
    y[i] = v < high ? v : high;
  }
}

static void range_portable(const float* x, int64_t size, FloatRange* range) {
  float lo = range->lo, hi = range->hi, nan = 0.0f;
  for (int64_t i = 0; i < size; ++i) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
    nan = x[i] == x[i] ? nan : x[i];
  }
  range->lo = nan == nan ? lo : nan;
  range->hi = nan == nan ? hi : nan;
}

template <bool kF16>
void to_float_portable(const void* halves, int64_t size, float* x) {
  const uint16_t* in = static_cast<const uint16_t*>(halves);
  for (int64_t i = 0; i < size; ++i) x[i] = kF16 ? f16_to_float(in[i]) : bf16_to_float(in[i]);
}

constexpr ElementwiseFns portable_elementwise() {
  return {
      {quantize_portable<uint8_t>, quantize_portable<int8_t>},
      {dequantize_portable<uint8_t>, dequantize_portable<int8_t>},
      {add_portable<uint8_t>, add_portable<int8_t>},
      {mul_portable<uint8_t>, mul_portable<int8_t>},
      {{requantize_portable<uint8_t, uint8_t>, requantize_portable<uint8_t, int8_t>},
       {requantize_portable<int8_t, uint8_t>, requantize_portable<int8_t, int8_t>}},
      {clamp_portable<uint8_t>, clamp_portable<int8_t>},
      range_portable,
      {to_float_portable<false>, to_float_portable<true>},
      {max_pool_portable<uint8_t>, max_pool_portable<int8_t>},
      {avg_pool_portable<uint8_t>, avg_pool_portable<int8_t>},
      {interpolate_portable<uint8_t>, interpolate_portable<int8_t>},
      {lstm_portable, gru_portable, rnn_portable<false>, rnn_portable<true>},
      {embedding_bags<PortableRows<false>>, embedding_bags<PortableRows<true>>},
      lookup_portable,
      nullptr,
      {{affine_portable<AffineKind::kScaleShift, uint8_t>,
        affine_portable<AffineKind::kScaleShift, int8_t>},
       {affine_portable<AffineKind::kNormalize, uint8_t>,
        affine_portable<AffineKind::kNormalize, int8_t>},
       {affine_portable<AffineKind::kPrelu, uint8_t>, affine_portable<AffineKind::kPrelu, int8_t>}},
      moments_portable,
      column_moments_portable,
      softmax_rows,
      attention_weights_portable,
      attention_output_portable,
      fake_quantize_portable,
      masked_gradient_portable};
}

}  // namespace
}  // namespace octavo
