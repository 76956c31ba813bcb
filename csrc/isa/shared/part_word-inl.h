// The last bytes of a row, read and written as words that reach no further.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {
namespace {

template <typename T>
static inline uint64_t load_word(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// The first n bytes, 0 < n <= 8, from the lowest byte on; the others are 0. Pieces overlap where n
// is not a sum of two of them.
static inline uint64_t load_part_word(const uint8_t* p, int n) {
  if (n == 8) return load_word<uint64_t>(p);
  if (n >= 4) return load_word<uint32_t>(p) | load_word<uint32_t>(p + n - 4) << (8 * (n - 4));
  const int middle = n / 2;
  return p[0] | uint64_t{p[middle]} << (8 * middle) | uint64_t{p[n - 1]} << (8 * (n - 1));
}

// Stores the lowest n bytes, 0 < n <= 8.
static inline void store_part_word(uint8_t* p, uint64_t word, int n) {
  if (n == 8) {
    std::memcpy(p, &word, 8);
  } else if (n >= 4) {
    const uint32_t first = static_cast<uint32_t>(word);
    const uint32_t last = static_cast<uint32_t>(word >> (8 * (n - 4)));
    std::memcpy(p, &first, 4);
    std::memcpy(p + n - 4, &last, 4);
  } else {
    p[0] = static_cast<uint8_t>(word);
    p[n / 2] = static_cast<uint8_t>(word >> (8 * (n / 2)));
    p[n - 1] = static_cast<uint8_t>(word >> (8 * (n - 1)));
  }
}

}  // namespace
}  // namespace octavo
