// The arithmetic roof of portable code: a dot product of bytes that stay in the L1 cache.
#pragma once

#include <cstdint>

namespace octavo {
namespace {

int64_t peak(int64_t steps) {
  constexpr int kSize = 256;
  uint8_t a[kSize];
  int8_t b[kSize];
  for (int i = 0; i < kSize; ++i) {
    a[i] = static_cast<uint8_t>(i);
    b[i] = static_cast<int8_t>(i * 7);
  }
  for (int64_t s = 0; s < steps; ++s) {
    __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
    int32_t sum = 0;
    for (int i = 0; i < kSize; ++i) sum += a[i] * b[i];
    __asm__ volatile("" : : "r"(sum));
  }
  return steps * kSize;
}

}  // namespace
}  // namespace octavo
