// What the tests of the emulator share: AMX instructions as inline assembly, configurations, and
// plain C arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

#include "amx_emulator.h"

namespace octavo::amx_test {

// The memory operand of LDTILECFG.
struct alignas(64) Config {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  Config& Set(int tile, int tile_rows, int tile_row_bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(tile_row_bytes);
    return *this;
  }
  static Config AllFull() {
    Config config;
    for (int tile = 0; tile < 8; ++tile) config.Set(tile, 16, 64);
    return config;
  }
  bool operator==(const Config& other) const { return memcmp(this, &other, sizeof(*this)) == 0; }
};
static_assert(sizeof(Config) == 64);

inline void LoadConfig(const Config& config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
inline Config StoredConfig() {
  Config config;
  memset(static_cast<void*>(&config), 0xee, sizeof(config));
  __asm__ volatile("sttilecfg %0" : "=m"(config) : : "memory");
  return config;
}
inline void Release() { __asm__ volatile("tilerelease" : : : "memory"); }

// The tile number is part of the instruction.
template <int kTile>
void Zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile) : "memory");
}
template <int kTile>
void Load(const void* rows, ptrdiff_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(rows), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kTile>
void Store(void* rows, ptrdiff_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(rows), "r"(stride), "i"(kTile)
                   : "memory");
}

// 1 KiB: a full tile, rows 64 bytes apart.
struct alignas(64) TileBytes {
  uint8_t row[16][64] = {};
  bool operator==(const TileBytes& other) const { return memcmp(row, other.row, sizeof(row)) == 0; }
};

// Call with a tile number known only at run time.
void LoadTile(int tile, const void* rows, ptrdiff_t stride);
void StoreTile(int tile, void* rows, ptrdiff_t stride);
void ZeroTile(int tile);

inline TileBytes RandomTile(std::mt19937* random) {
  TileBytes tile;
  for (auto& row : tile.row) {
    for (uint8_t& byte : row) byte = static_cast<uint8_t>((*random)());
  }
  return tile;
}

// dst += src1 * src2 as the SDM has it, rows x columns dwords over `depth` dwords of src1.
inline void ReferenceDotProduct(bool signed1, bool signed2, int rows, int columns, int depth,
                                const TileBytes& src1, const TileBytes& src2, TileBytes* dst) {
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      uint32_t sum;
      memcpy(&sum, &dst->row[m][4 * n], 4);
      for (int byte = 0; byte < 4 * depth; ++byte) {
        const uint8_t a = src1.row[m][byte];
        const uint8_t b = src2.row[byte / 4][4 * n + byte % 4];
        const int64_t x = signed1 ? static_cast<int8_t>(a) : a;
        const int64_t y = signed2 ? static_cast<int8_t>(b) : b;
        sum += static_cast<uint32_t>(x * y);
      }
      memcpy(&dst->row[m][4 * n], &sum, 4);
    }
  }
}

inline bool Emulated() { return octavo_emulated_cpu_features()[0] != '\0'; }
// The text that the emulator writes before a fatal exception; a CPU writes nothing.
inline const char* Message(const char* text) { return Emulated() ? text : ""; }

}  // namespace octavo::amx_test
