// Copies of a pixel's channels.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

// `size` bytes that do not overlap. memcpy costs a call, which is as much as the copy where pixels
// are short; here 16 to 256 bytes are moved in line, the last 16 of them perhaps twice.
static inline void copy_short(const uint8_t* from, int64_t size, uint8_t* to) {
  if (size < 16 || size > 256) {
    std::memcpy(to, from, static_cast<size_t>(size));
    return;
  }
  for (int64_t i = 0; i + 16 <= size; i += 16) std::memcpy(to + i, from + i, 16);
  std::memcpy(to + size - 16, from + size - 16, 16);
}

}  // namespace octavo
