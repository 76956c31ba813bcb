// The 16-bit float formats, bit by bit, as every ISA converts them: to nearest even, NaN stays NaN
// and becomes quiet, values too large for fp16 become infinite.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {
namespace {

static inline uint32_t float_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}

static inline float bits_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

static inline uint16_t float_to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if (x != x) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static inline float bf16_to_float(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }

static inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x), magnitude = u & 0x7fffffff;
  const uint16_t sign = static_cast<uint16_t>(u >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (u >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and beyond
  if (magnitude < 0x38800000) {
    // Below 2^-14 the last place is worth 2^-24, and adding 0.5 makes float arithmetic round there.
    const uint32_t rounded = float_bits(bits_float(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

static inline float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) {
    const uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
    return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | quiet);
  }
  if (magnitude < 0x400) {
    return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24f));
  }
  return bits_float(sign | ((magnitude << 13) + 0x38000000));
}

}  // namespace
}  // namespace octavo
