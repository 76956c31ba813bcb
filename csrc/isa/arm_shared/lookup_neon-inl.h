// Look-up in a table of 256 bytes with NEON.
#pragma once

#include <arm_neon.h>

#include "abi/unroll.h"
#include "isa/arm_shared/bytes_neon-inl.h"

namespace octavo {
namespace {

// tbl looks up 64 entries and gives 0 beyond them; tbx leaves there what was found before. So the
// quarters of the table answer x, x - 64, x - 128 and x - 192.
//
// Register budget (32): 16 of the table, kVectors indices and as many results, a constant.
struct ByteTable128 {
  explicit ByteTable128(const uint8_t* table) {
    unroll<4>([&](auto j) OCTAVO_INLINE { quarter[j] = vld1q_u8_x4(table + 64 * j); });
  }
  template <int kVectors>
  inline OCTAVO_INLINE void map(uint8x16_t (&v)[kVectors]) const {
    uint8x16_t index[kVectors];
    unroll<kVectors>([&](auto i) OCTAVO_INLINE {
      index[i] = v[i];
      v[i] = vqtbl4q_u8(quarter[0], index[i]);
    });
    unroll<3>([&](auto j) OCTAVO_INLINE {
      unroll<kVectors>([&](auto i) OCTAVO_INLINE {
        index[i] = vsubq_u8(index[i], vdupq_n_u8(64));
        v[i] = vqtbx4q_u8(v[i], quarter[j + 1], index[i]);
      });
    });
  }
  uint8x16x4_t quarter[4];
};

static void lookup_neon(const uint8_t* table, const void* in, int64_t size, void* out) {
  constexpr int kVectors = 4;
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  const ByteTable128 entries(table);
  int64_t i = 0;
  for (; i + 16 * kVectors <= size; i += 16 * kVectors) {
    uint8x16_t v[kVectors];
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { v[j] = vld1q_u8(x + i + 16 * j); });
    entries.map(v);
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { vst1q_u8(y + i + 16 * j, v[j]); });
  }
  for (; i < size; i += 16) {
    const int count = static_cast<int>(size - i < 16 ? size - i : 16);
    uint8x16_t v[1] = {count == 16 ? Bytes128::load(x + i) : Bytes128::load_part(x + i, count)};
    entries.map(v);
    if (count == 16) {
      Bytes128::store(y + i, v[0]);
    } else {
      Bytes128::store_part(y + i, v[0], count);
    }
  }
}

}  // namespace
}  // namespace octavo
