// The arithmetic roof of tdpbusd on tile registers alone.
#pragma once

#include "isa/amx_int8/amx-inl.h"

namespace octavo {
namespace {

// Tile registers: 4 accumulators, 2 of A, 2 of B, as in the GEMM kernel.
int64_t peak(int64_t steps) {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  tile_zero<4>();
  tile_zero<5>();
  tile_zero<6>();
  tile_zero<7>();
  for (int64_t s = 0; s < steps; ++s) {
    tile_dot<false, 0, 4, 6>();
    tile_dot<false, 1, 4, 7>();
    tile_dot<false, 2, 5, 6>();
    tile_dot<false, 3, 5, 7>();
  }
  return steps * 4 * 16 * 16 * 64;
}

}  // namespace
}  // namespace octavo
