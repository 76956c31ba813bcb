// Recurrent cells: isa/shared/cell-inl.h, vector by vector. F is one of the
// Floats vectors (floats_<vectors>-inl.h).
//
// Register budget: one unit's sigmoids and tanhs follow one another with 5 to 7 values alive; their
// 25 constants do not fit beside them with 16 registers and are operands from memory there.
#pragma once

#include "abi/cell.h"
#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/exp-inl.h"

namespace octavo {
namespace {

template <typename F>
static inline OCTAVO_INLINE typename F::Vec clamp_lanes(typename F::Vec x, float limit) {
  return F::min(F::set(limit), F::max(F::set(-limit), x));
}

template <typename F>
static inline OCTAVO_INLINE typename F::Vec sigmoid_lanes(typename F::Vec x) {
  const auto v = clamp_lanes<F>(F::sub(F::set(0.0f), x), kExpLimit);
  return F::div(F::set(1.0f), F::add(F::set(1.0f), exp_lanes<F>(v)));
}

template <typename F>
static inline OCTAVO_INLINE typename F::Vec tanh_lanes(typename F::Vec x) {
  using Vec = typename F::Vec;
  const Vec z = clamp_lanes<F>(x, kTanhIsOne), t = F::mul(z, z);
  Vec p = F::set(kTanhNumerator[0]), q = F::set(kTanhDenominator[0]);
  unroll<kTanhTerms - 1>([&](auto i) OCTAVO_INLINE {
    p = F::add(F::mul(p, t), F::set(kTanhNumerator[i + 1]));
    q = F::add(F::mul(q, t), F::set(kTanhDenominator[i + 1]));
  });
  return clamp_lanes<F>(F::div(F::mul(z, p), q), 1.0f);
}

// The first `count` of the units from `u` on: what body(u, count) is called with.
template <typename F, typename Body>
static inline OCTAVO_INLINE void for_each_unit(int32_t size, const Body& body) {
  int32_t u = 0;
  for (; u + F::kCount <= size; u += F::kCount) body(u, F::kCount);
  if (u < size) body(u, size - u);
}

template <typename F>
void lstm_cell(const CellArgs* args) {
  using Vec = typename F::Vec;
  const CellArgs& a = *args;
  for_each_unit<F>(a.size, [&](int32_t u, int count) OCTAVO_INLINE {
    const auto gate = [&](int32_t index) OCTAVO_INLINE {
      const int32_t at = index * a.size + u;
      return F::add(F::load(a.input + at, count), F::load(a.hidden + at, count));
    };
    const Vec i = sigmoid_lanes<F>(gate(0)), f = sigmoid_lanes<F>(gate(1));
    const Vec g = tanh_lanes<F>(gate(2));
    const Vec c = F::add(F::mul(f, F::load(a.c + u, count)), F::mul(i, g));
    F::store(a.c + u, c, count);
    F::store(a.h + u, F::mul(sigmoid_lanes<F>(gate(3)), tanh_lanes<F>(c)), count);
  });
}

template <typename F>
void gru_cell(const CellArgs* args) {
  using Vec = typename F::Vec;
  const CellArgs& a = *args;
  for_each_unit<F>(a.size, [&](int32_t u, int count) OCTAVO_INLINE {
    const auto input = [&](int32_t gate)
                           OCTAVO_INLINE { return F::load(a.input + gate * a.size + u, count); };
    const auto hidden = [&](int32_t gate)
                            OCTAVO_INLINE { return F::load(a.hidden + gate * a.size + u, count); };
    const Vec r = sigmoid_lanes<F>(F::add(input(0), hidden(0)));
    const Vec z = sigmoid_lanes<F>(F::add(input(1), hidden(1)));
    const Vec fresh = tanh_lanes<F>(F::add(input(2), F::mul(r, hidden(2))));
    const Vec change = F::mul(F::sub(F::load(a.h + u, count), fresh), z);
    F::store(a.h + u, F::add(change, fresh), count);
  });
}

template <typename F, bool kRelu>
void rnn_cell(const CellArgs* args) {
  const CellArgs& a = *args;
  for_each_unit<F>(a.size, [&](int32_t u, int count) OCTAVO_INLINE {
    const auto x = F::add(F::load(a.input + u, count), F::load(a.hidden + u, count));
    F::store(a.h + u, kRelu ? F::max(F::set(0.0f), x) : tanh_lanes<F>(x), count);
  });
}

}  // namespace
}  // namespace octavo
