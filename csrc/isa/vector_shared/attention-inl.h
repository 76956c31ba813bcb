// Attention weights and outputs, vector by vector: isa/shared/attention-inl.h. F is one of the
// Attention vectors (attention_<vectors>-inl.h).
#pragma once

#include "abi/attention.h"
#include "isa/shared/attention-inl.h"
#include "isa/vector_shared/exp-inl.h"

namespace octavo {
namespace {

template <typename F>
static inline OCTAVO_INLINE typename F::Vec attention_weight_lanes(typename F::Vec x) {
  const auto v = F::max(x, F::set(kAttentionLowest));
  return F::mul(exp_lanes<F>(v), F::set(kAttentionOne));
}

// Registers: 12 constants, 5 values.
template <typename F>
int32_t attention_weights_vectors(const int32_t* scores, int64_t size, float factor, uint8_t* high,
                                  uint8_t* low) {
  using Ints = typename F::Ints;
  constexpr int kCount = F::kCount;
  Ints most = F::set_int(scores[0]);
  int64_t i = 0;
  for (; i + kCount <= size; i += kCount) most = F::max_int(most, F::load_ints(scores + i));
  int32_t largest = F::largest(most);
  for (; i < size; ++i) largest = scores[i] > largest ? scores[i] : largest;
  const auto weights = [&](Ints s) OCTAVO_INLINE {
    const auto x = F::mul(F::to_float(F::sub_int(s, F::set_int(largest))), F::set(factor));
    return F::to_int(attention_weight_lanes<F>(x));
  };
  Ints sum = F::set_int(0);
  for (i = 0; i + kCount <= size; i += kCount) {
    const Ints w = weights(F::load_ints(scores + i));
    F::store_bytes(high + i, F::upper_byte(w), kCount);
    F::store_bytes(low + i, w, kCount);
    sum = F::add_int(sum, w);
  }
  if (i < size) {
    const int count = static_cast<int>(size - i);
    const Ints w = F::first(weights(F::load_part(scores + i, count)), count);
    F::store_bytes(high + i, F::upper_byte(w), count);
    F::store_bytes(low + i, w, count);
    sum = F::add_int(sum, w);
  }
  return F::total(sum);
}

template <typename F>
void attention_output_vectors(const AttentionOutputArgs* args) {
  using Ints = typename F::Ints;
  const AttentionOutputArgs a = *args;
  const int32_t least = a.out_signed ? -128 : 0;
  const auto lo = F::set(static_cast<float>(least - a.out_zero));
  const auto hi = F::set(static_cast<float>(least + 255 - a.out_zero));
  const auto factor = F::set(a.factor), shift = F::set(a.shift), upper = F::set(256.0f);
  const Ints zero = F::set_int(a.out_zero);
  uint8_t* out = static_cast<uint8_t*>(a.out);
  for (int64_t i = 0; i < a.size; i += F::kCount) {
    const int count = static_cast<int>(a.size - i < F::kCount ? a.size - i : F::kCount);
    const auto high = F::to_float(F::load_part(a.high + i, count));
    const auto both = F::add(F::mul(high, upper), F::to_float(F::load_part(a.low + i, count)));
    const auto t = F::min(F::max(F::add(F::mul(both, factor), shift), lo), hi);
    F::store_bytes(out + i, F::add_int(F::to_int(t), zero), count);
  }
}

}  // namespace
}  // namespace octavo
