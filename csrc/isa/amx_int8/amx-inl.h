// Tile instructions as inline assembly. The compiler's own intrinsics are not used anywhere: gcc
// 12's _tile_loadconfig names 8 of its 64 input bytes, so the stores that fill the rest vanish, and
// _tile_loadd names no memory at all, so packing stores may move past it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {
namespace {

// The 64-byte operand of LDTILECFG, palette 1: 8 tiles of up to 16 rows by 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t column_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

static inline void load_tile_config(const TileConfig* config) {
  __asm__ volatile("ldtilecfg %0" : : "m"(*config) : "memory");
}
static inline void release_tiles() { __asm__ volatile("tilerelease" : : : "memory"); }

template <int kTile>
static inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
static inline void tile_load(const void* base, ptrdiff_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                   :
                   : "r"(base), "r"(stride), "i"(kTile)
                   : "memory");
}
template <int kTile>
static inline void tile_store(void* base, ptrdiff_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                   :
                   : "r"(base), "r"(stride), "i"(kTile)
                   : "memory");
}

// C += A . B; A is uint8 or int8, B int8.
template <bool kSigned, int kC, int kA, int kB>
static inline void tile_dot() {
  if constexpr (kSigned) {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  } else {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
}

}  // namespace
}  // namespace octavo
