// The bandwidth roof with 128-bit loads.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "abi/unroll.h"

namespace octavo {
namespace {

// Register budget (32): 16 sums, 16 loads.
static int64_t read_neon(const void* data, int64_t size) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint8x16_t sum[16];
  unroll<16>([&](auto i) OCTAVO_INLINE { sum[i] = vdupq_n_u8(0); });
  for (const uint8_t* end = p + size; p < end; p += 256) {
    unroll<16>([&](auto i) OCTAVO_INLINE { sum[i] = veorq_u8(sum[i], vld1q_u8(p + i * 16)); });
  }
  for (int i = 1; i < 16; ++i) sum[0] = veorq_u8(sum[0], sum[i]);
  const uint64x2_t words = vreinterpretq_u64_u8(sum[0]);
  return static_cast<int64_t>(vgetq_lane_u64(words, 0) ^ vgetq_lane_u64(words, 1));
}

}  // namespace
}  // namespace octavo
