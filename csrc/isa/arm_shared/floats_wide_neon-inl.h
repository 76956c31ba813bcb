// Floats of N registers under the names of Floats128: constants stay in registers for all N, and
// what waits for one of them leaves time for the others.
#pragma once

#include "abi/unroll.h"
#include "isa/arm_shared/floats_neon-inl.h"

namespace octavo {
namespace {

template <int N>
struct FloatsWide {
  using F = Floats128;
  struct Vec {
    F::Vec part[N];
  };
  static constexpr int kCount = N * F::kCount;

  // part[i] = value(i)
  template <typename Value>
  static inline OCTAVO_INLINE Vec each(const Value& value) {
    Vec v;
    unroll<N>([&](auto i) OCTAVO_INLINE { v.part[i] = value(i); });
    return v;
  }
  static inline OCTAVO_INLINE Vec set(float x) {
    const F::Vec all = F::set(x);
    return each([&](auto) OCTAVO_INLINE { return all; });
  }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline OCTAVO_INLINE Vec load(const float* p, int count) {
    if (count == kCount) return each([&](auto i) OCTAVO_INLINE { return vld1q_f32(p + 4 * i); });
    return each([&](auto i) OCTAVO_INLINE {
      const int left = count - 4 * i;
      return left > 0 ? F::load(p + 4 * i, left < 4 ? left : 4) : F::set(0.0f);
    });
  }
  static inline OCTAVO_INLINE void store(float* p, const Vec& v, int count) {
    if (count == kCount) {
      unroll<N>([&](auto i) OCTAVO_INLINE { vst1q_f32(p + 4 * i, v.part[i]); });
      return;
    }
    unroll<N>([&](auto i) OCTAVO_INLINE {
      const int left = count - 4 * i;
      if (left > 0) F::store(p + 4 * i, v.part[i], left < 4 ? left : 4);
    });
  }
  static inline OCTAVO_INLINE Vec add(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::add(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec sub(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::sub(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec mul(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::mul(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec div(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::div(a.part[i], b.part[i]); });
  }
  // a * b + c, rounded once.
  static inline OCTAVO_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return each([&](auto i) OCTAVO_INLINE { return F::fma(a.part[i], b.part[i], c.part[i]); });
  }
  // Where one is NaN, or both are zeros: the second.
  static inline OCTAVO_INLINE Vec min(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::min(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec max(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return F::max(a.part[i], b.part[i]); });
  }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline OCTAVO_INLINE Vec power_of_two(const Vec& v) {
    return each([&](auto i) OCTAVO_INLINE { return F::power_of_two(v.part[i]); });
  }
};

}  // namespace
}  // namespace octavo
