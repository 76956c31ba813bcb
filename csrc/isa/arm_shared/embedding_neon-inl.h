// Rows of embedding tables with NEON.
#pragma once

#include "isa/arm_shared/bytes_neon-inl.h"
#include "isa/arm_shared/floats_wide_neon-inl.h"
#include "isa/vector_shared/embedding-inl.h"

namespace octavo {
namespace {

// 16 columns, which are done with before the next begin: gcc would start all of a row at once, and
// keep sums in memory.
struct TableFloats : FloatsWide<4> {
  static inline OCTAVO_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return done(FloatsWide<4>::fma(a, b, c));
  }
  static inline OCTAVO_INLINE Vec max(const Vec& a, const Vec& b) {
    return done(FloatsWide<4>::max(a, b));
  }
  static inline OCTAVO_INLINE uint8x16_t begin(uint8x16_t v) {
    asm volatile("" : "+w"(v));
    return v;
  }

 private:
  static inline OCTAVO_INLINE Vec done(Vec v) {
    asm volatile("" : "+w"(v.part[0]), "+w"(v.part[1]), "+w"(v.part[2]), "+w"(v.part[3]));
    return v;
  }
};

// Registers: 16 sums, scale, 3 constants, a vector of bytes as 2 of 16 bits and 4 of floats.
struct TableBytes128 : TableFloats {
  using Copied = TableBytes128;
  static constexpr int kMost = 4, kBytes = 16;

  static inline OCTAVO_INLINE Vec row(const uint8_t* p) { return widen(begin(Bytes128::load(p))); }
  static inline OCTAVO_INLINE Vec row_part(const uint8_t* p, int n) {
    return widen(Bytes128::load_part(p, n));
  }

 private:
  // 0x4b0000qq is the float 2^23 + q. Shuffles and a subtraction run in more pipelines than
  // conversions do.
  static inline OCTAVO_INLINE Vec widen(uint8x16_t v) {
    const uint8x16_t none = vdupq_n_u8(0);
    const uint16x8_t exponent = vdupq_n_u16(0x4b00);
    const uint16x8_t low = vreinterpretq_u16_u8(vzip1q_u8(v, none)),
                     high = vreinterpretq_u16_u8(vzip2q_u8(v, none));
    const auto floats = [](uint16x8_t bits) OCTAVO_INLINE {
      return vsubq_f32(vreinterpretq_f32_u16(bits), vdupq_n_f32(0x1p23f));
    };
    return {{floats(vzip1q_u16(low, exponent)), floats(vzip2q_u16(low, exponent)),
             floats(vzip1q_u16(high, exponent)), floats(vzip2q_u16(high, exponent))}};
  }
};

// Registers: 16 sums, scale, 4 constants, and as above.
struct TableNibbles128 : TableFloats {
  using Copied = TableNibbles128;
  static constexpr int kMost = 4, kBytes = 8;

  static inline OCTAVO_INLINE Vec row(const uint8_t* p) {
    return spread(vcombine_u8(vld1_u8(p), vcreate_u8(0)));
  }
  static inline OCTAVO_INLINE Vec row_part(const uint8_t* p, int n) {
    return spread(vcombine_u8(vcreate_u8(load_part_word(p, (n + 1) / 2)), vcreate_u8(0)));
  }

 private:
  // The upper halves of the floats 0 to 15, whose lower ones are 0, are looked up byte by byte.
  static inline OCTAVO_INLINE Vec spread(uint8x16_t pairs) {
    const uint8x16_t upper = {0x00, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
                              0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41};
    const uint8x16_t lower = {0x00, 0x80, 0x00, 0x40, 0x80, 0xa0, 0xc0, 0xe0,
                              0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70};
    const uint8x16_t v = begin(pairs);
    const uint8x16_t q = vzip1q_u8(vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8(v, 4));
    const uint8x16_t a = vqtbl1q_u8(lower, q), b = vqtbl1q_u8(upper, q);
    const uint16x8_t low = vreinterpretq_u16_u8(vzip1q_u8(a, b)),
                     high = vreinterpretq_u16_u8(vzip2q_u8(a, b));
    const uint16x8_t none = vdupq_n_u16(0);
    const auto floats = [](uint16x8_t bits) OCTAVO_INLINE { return vreinterpretq_f32_u16(bits); };
    return {{floats(vzip1q_u16(none, low)), floats(vzip2q_u16(none, low)),
             floats(vzip1q_u16(none, high)), floats(vzip2q_u16(none, high))}};
  }
};

constexpr void add_embedding_neon(ElementwiseFns& fns) {
  fns.embedding[0] = embedding_bags<VectorRows<TableBytes128>>;
  fns.embedding[1] = embedding_bags<VectorRows<TableNibbles128>>;
}

}  // namespace
}  // namespace octavo
