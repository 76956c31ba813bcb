// The bandwidth roof in plain C++.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {
namespace {

static int64_t read_portable(const void* data, int64_t size) {
  const char* p = static_cast<const char*>(data);
  uint64_t sum[32] = {};
  for (const char* end = p + size; p < end; p += 256) {
    for (int i = 0; i < 32; ++i) {
      uint64_t word;
      std::memcpy(&word, p + i * 8, 8);
      sum[i] ^= word;
    }
  }
  for (int i = 1; i < 32; ++i) sum[0] ^= sum[i];
  return static_cast<int64_t>(sum[0]);
}

}  // namespace
}  // namespace octavo
