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
// Register budget (32): 16 of the table (variables, since gcc keeps members of a struct in memory),
// 3 constants, 2 bytes, 2 results and their indices.
static void lookup_neon(const uint8_t* table, const void* in, int64_t size, void* out) {
  constexpr int kVectors = 2;
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  const uint8x16x4_t first = vld1q_u8_x4(table), second = vld1q_u8_x4(table + 64);
  const uint8x16x4_t third = vld1q_u8_x4(table + 128), fourth = vld1q_u8_x4(table + 192);
  const auto map = [&](uint8x16_t index) OCTAVO_INLINE {
    uint8x16_t v = vqtbl4q_u8(first, index);
    v = vqtbx4q_u8(v, second, vsubq_u8(index, vdupq_n_u8(64)));
    v = vqtbx4q_u8(v, third, vsubq_u8(index, vdupq_n_u8(128)));
    return vqtbx4q_u8(v, fourth, vsubq_u8(index, vdupq_n_u8(192)));
  };
  int64_t i = 0;
  for (; i + 16 * kVectors <= size; i += 16 * kVectors) {
    uint8x16_t v[kVectors];
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { v[j] = map(vld1q_u8(x + i + 16 * j)); });
    unroll<kVectors>([&](auto j) OCTAVO_INLINE { vst1q_u8(y + i + 16 * j, v[j]); });
  }
  if (i + 16 <= size) {
    vst1q_u8(y + i, map(vld1q_u8(x + i)));
    i += 16;
  }
  if (i < size) {
    const int count = static_cast<int>(size - i);
    Bytes128::store_part(y + i, map(Bytes128::load_part(x + i, count)), count);
  }
}

}  // namespace
}  // namespace octavo
