// abi/exp.h, vector by vector. F is one of the Floats vectors (floats_<vectors>-inl.h).
#pragma once

#include "abi/exp.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// Lanes are within +-kExpLimit.
template <typename F>
static inline OCTAVO_INLINE typename F::Vec exp_lanes(typename F::Vec v) {
  using Vec = typename F::Vec;
  const Vec shifted = F::add(F::mul(v, F::set(kPerLn2)), F::set(kRoundToInteger));
  const Vec n = F::sub(shifted, F::set(kRoundToInteger));
  Vec r = F::sub(v, F::mul(n, F::set(kLn2High)));
  r = F::sub(r, F::mul(n, F::set(kLn2Low)));
  Vec e = F::set(kExpTerm[0]);
  unroll<kExpTerms - 1>([&](auto i)
                            OCTAVO_INLINE { e = F::add(F::mul(e, r), F::set(kExpTerm[i + 1])); });
  e = F::add(F::mul(e, r), F::set(1.0f));
  return F::mul(e, F::power_of_two(shifted));
}

}  // namespace
}  // namespace octavo
