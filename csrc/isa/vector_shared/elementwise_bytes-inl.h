// Sums, products and requantization of bytes on vectors of any width: `L` is one of the FloatBytes
// vectors (normalize_<vectors>-inl.h).
//
// A byte b in the lowest bits of the float 2^23 makes 2^23 + b, so bytes become floats by shuffles
// alone, in an order that packing undoes, and subtracting 2^23 and the zero point together is
// exact. Results are clamped as bytes: packing saturates, where no value leaves int32, which the
// scales tell; where one might, the portable form takes over.
#pragma once

#include <type_traits>

#include "abi/unroll.h"
#include "isa/shared/elementwise-inl.h"

namespace octavo {
namespace {

template <bool kSigned>
using ByteOf = std::conditional_t<kSigned, int8_t, uint8_t>;

// Bytes less their zero point.
template <typename L, bool kSigned>
struct CenteredBytes {
  using Floats = typename L::Floats;

  explicit CenteredBytes(int32_t zero)
      : center(L::set_float(static_cast<float>(0x800000 + zero + (kSigned ? 128 : 0)))) {}
  inline OCTAVO_INLINE void operator()(typename L::Vec bytes, Floats (&x)[4]) const {
    L::widen(kSigned ? L::flip(bytes, L::set8(128)) : bytes, x);
    unroll<4>([&](auto j) OCTAVO_INLINE { x[j] = L::sub(x[j], center); });
  }
  Floats center;
};

// Floats below 2^30 in steps of the output, rounded, with the zero point added, clamped.
template <typename L, bool kSigned>
struct ClampedBytes {
  using Vec = typename L::Vec;

  ClampedBytes(float lowest, float highest, int32_t out_zero)
      : zero(L::set16(out_zero)), lo(bound(lowest, out_zero)), hi(bound(highest, out_zero)) {}
  static Vec bound(float steps, int32_t out_zero) {
    constexpr int32_t kLeast = kSigned ? -128 : 0;
    const int32_t q = static_cast<int32_t>(clamp_float(steps, -1024.0f, 1024.0f)) + out_zero;
    return L::set8(q < kLeast ? kLeast : q > kLeast + 255 ? kLeast + 255 : q);
  }
  inline OCTAVO_INLINE Vec operator()(const typename L::Floats (&t)[4]) const {
    const Vec low = L::adds16(L::pack32(L::round(t[0]), L::round(t[1])), zero);
    const Vec high = L::adds16(L::pack32(L::round(t[2]), L::round(t[3])), zero);
    return kSigned ? L::min_s8(L::max_s8(L::pack16_s8(low, high), lo), hi)
                   : L::min_u8(L::max_u8(L::pack16_u8(low, high), lo), hi);
  }
  Vec zero, lo, hi;
};

// What |t| may at most be, with room for rounding.
constexpr float kPackable = 1 << 29;
static inline float magnitude(float x) { return x < 0.0f ? -x : x; }

template <typename L, typename Block>
static inline OCTAVO_INLINE void map_pairs(const BinaryArgs& p, const Block& block) {
  const uint8_t *a = static_cast<const uint8_t*>(p.a), *b = static_cast<const uint8_t*>(p.b);
  uint8_t* out = static_cast<uint8_t*>(p.out);
  int64_t i = 0;
  for (; i + L::kBytes <= p.size; i += L::kBytes) {
    L::store(out + i, block(L::load(a + i), L::load(b + i)));
  }
  if (i < p.size) {
    const int rest = static_cast<int>(p.size - i);
    L::store_part(out + i, block(L::load_part(a + i, rest), L::load_part(b + i, rest)), rest);
  }
}

// Registers: 8 of values, 7 constants, and on 512 bits 5 to widen bytes.
template <typename L, bool kSigned>
void add_vectors(const BinaryArgs* args) {
  using Floats = typename L::Floats;
  const BinaryArgs p = *args;
  if (!(510.0f * (magnitude(p.a_scale) + magnitude(p.b_scale)) < kPackable)) {
    add_portable<ByteOf<kSigned>>(args);
    return;
  }
  const CenteredBytes<L, kSigned> center_a(p.a_zero), center_b(p.b_zero);
  const Floats a_scale = L::set_float(p.a_scale), b_scale = L::set_float(p.b_scale);
  const ClampedBytes<L, kSigned> bytes(p.lo, p.hi, p.out_zero);
  map_pairs<L>(p, [&](typename L::Vec a, typename L::Vec b) OCTAVO_INLINE {
    Floats x[4], y[4];
    center_a(a, x);
    center_b(b, y);
    unroll<4>([&](auto j)
                  OCTAVO_INLINE { x[j] = L::add(L::mul(x[j], a_scale), L::mul(y[j], b_scale)); });
    return bytes(x);
  });
}

// The product of two bytes is exact in a float. Registers: as add_vectors, one constant less.
template <typename L, bool kSigned>
void mul_vectors(const BinaryArgs* args) {
  using Floats = typename L::Floats;
  const BinaryArgs p = *args;
  if (!(510.0f * 510.0f * magnitude(p.a_scale) < kPackable)) {
    mul_portable<ByteOf<kSigned>>(args);
    return;
  }
  const CenteredBytes<L, kSigned> center_a(p.a_zero), center_b(p.b_zero);
  const Floats scale = L::set_float(p.a_scale);
  const ClampedBytes<L, kSigned> bytes(p.lo, p.hi, p.out_zero);
  map_pairs<L>(p, [&](typename L::Vec a, typename L::Vec b) OCTAVO_INLINE {
    Floats x[4], y[4];
    center_a(a, x);
    center_b(b, y);
    unroll<4>([&](auto j) OCTAVO_INLINE { x[j] = L::mul(L::mul(x[j], y[j]), scale); });
    return bytes(x);
  });
}

// Registers: 4 of values, 5 constants, and on 512 bits 5 to widen bytes.
template <typename L, bool kIn, bool kOut>
void requantize_vectors(const UnaryArgs* args) {
  using Floats = typename L::Floats;
  const UnaryArgs p = *args;
  if (!(510.0f * magnitude(p.scale) < kPackable)) {
    requantize_portable<ByteOf<kIn>, ByteOf<kOut>>(args);
    return;
  }
  const CenteredBytes<L, kIn> center(p.in_zero);
  const Floats scale = L::set_float(p.scale);
  const ClampedBytes<L, kOut> bytes(p.lo, p.hi, p.out_zero);
  const auto block = [&](typename L::Vec q) OCTAVO_INLINE {
    Floats x[4];
    center(q, x);
    unroll<4>([&](auto j) OCTAVO_INLINE { x[j] = L::mul(x[j], scale); });
    return bytes(x);
  };
  for (int64_t r = 0; r < p.rows; ++r) {
    const uint8_t* in = static_cast<const uint8_t*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    int64_t i = 0;
    for (; i + L::kBytes <= p.size; i += L::kBytes) L::store(out + i, block(L::load(in + i)));
    if (i < p.size) {
      const int rest = static_cast<int>(p.size - i);
      L::store_part(out + i, block(L::load_part(in + i, rest)), rest);
    }
  }
}

template <typename L>
constexpr void add_elementwise_bytes(ElementwiseFns& fns) {
  fns.add[0] = add_vectors<L, false>;
  fns.add[1] = add_vectors<L, true>;
  fns.mul[0] = mul_vectors<L, false>;
  fns.mul[1] = mul_vectors<L, true>;
  fns.requantize[0][0] = requantize_vectors<L, false, false>;
  fns.requantize[0][1] = requantize_vectors<L, false, true>;
  fns.requantize[1][0] = requantize_vectors<L, true, false>;
  fns.requantize[1][1] = requantize_vectors<L, true, true>;
}

}  // namespace
}  // namespace octavo
