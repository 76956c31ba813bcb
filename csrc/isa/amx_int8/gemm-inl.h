// GEMM tiles with AMX: 32 x 32 outputs in four tiles, 64 k at a step.
#pragma once

#include <cstring>

#include "abi/kernel_abi.h"
#include "isa/amx_int8/amx-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;

// What a task's scratch holds: the accumulators on their way to the epilogue, and rows of A that
// are not whole.
struct Scratch {
  alignas(64) int32_t acc[2 * kTileRows][2 * kTileRows];
  alignas(64) uint8_t a[2][kTileRows][kTileBytes];
};

// Every tile has its full size for the whole task: reconfiguring clears the tiles. Rows and bytes
// that a problem lacks come as zeros from scratch. Torch's own matmul releases the configuration on
// threads it shares with us, so each task loads it anew.
static void configure_tiles() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = kTileRows;
    config.column_bytes[i] = kTileBytes;
  }
  load_tile_config(&config);
}

// Rows [0, rows) of A, `bytes` wide, as tile kTile: in place where they fill it, else through
// zero-padded scratch.
template <int kTile>
static inline void load_a(const uint8_t* a, ptrdiff_t stride, int rows, int bytes,
                          uint8_t (*padded)[kTileBytes]) {
  if (rows == kTileRows && bytes == kTileBytes) {
    tile_load<kTile>(a, stride);
    return;
  }
  const __mmask64 mask = bytes == kTileBytes ? ~0ull : (1ull << bytes) - 1;
  for (int r = 0; r < kTileRows; ++r) {
    const __m512i row =
        r < rows ? _mm512_maskz_loadu_epi8(mask, a + r * stride) : _mm512_setzero_si512();
    _mm512_store_si512(padded[r], row);
  }
  tile_load<kTile>(padded, kTileBytes);
}

// Tile registers: accumulators 0 .. 3 (row tile * 2 + column tile), A 4 and 5, B 6 and 7. 4
// products for 4 loads.
//
// Past the end of k, B's rows are those of the next tap or panel, or PackedWeight's read-ahead;
// they meet zeros of A.
template <bool kTwoRows, bool kTwoColumns, bool kSigned>
static inline void accumulate(const GemmArgs& g, Scratch& scratch) {
  tile_zero<0>();
  if constexpr (kTwoColumns) tile_zero<1>();
  if constexpr (kTwoRows) tile_zero<2>();
  if constexpr (kTwoRows && kTwoColumns) tile_zero<3>();
  const int upper = g.m < kTileRows ? g.m : kTileRows;
  const int lower = g.m - kTileRows;
  const int8_t* b = g.b;
  for (int t = 0; t < g.taps; ++t) {
    const uint8_t* a = g.a + g.tap[t];
    for (int k = 0; k < g.k; k += kTileBytes) {
      const int bytes = g.k - k < kTileBytes ? g.k - k : kTileBytes;
      tile_load<6>(b, g.b_stride);
      load_a<4>(a + k, g.a_stride, upper, bytes, scratch.a[0]);
      tile_dot<kSigned, 0, 4, 6>();
      if constexpr (kTwoColumns) {
        tile_load<7>(b + kTileBytes, g.b_stride);
        tile_dot<kSigned, 1, 4, 7>();
      }
      if constexpr (kTwoRows) {
        load_a<5>(a + k + kTileRows * g.a_stride, g.a_stride, lower, bytes, scratch.a[1]);
        tile_dot<kSigned, 2, 5, 6>();
        if constexpr (kTwoColumns) tile_dot<kSigned, 3, 5, 7>();
      }
      b += g.b_stride * ((bytes + 3) / 4);
    }
  }
  constexpr ptrdiff_t kStride = sizeof(scratch.acc[0]);
  tile_store<0>(scratch.acc[0], kStride);
  if constexpr (kTwoColumns) tile_store<1>(scratch.acc[0] + kTileRows, kStride);
  if constexpr (kTwoRows) tile_store<2>(scratch.acc[kTileRows], kStride);
  if constexpr (kTwoRows && kTwoColumns) tile_store<3>(scratch.acc[kTileRows] + kTileRows, kStride);
}

static inline void add_init(const GemmArgs& g, Scratch& scratch) {
  for (int c = 0; c < g.n; c += 16) {
    const __m512i init = load_ints(g.epilogue->acc_init + g.n0 + c, lane_mask(g.n - c));
    for (int r = 0; r < g.m; ++r) {
      int32_t* acc = &scratch.acc[r][c];
      _mm512_store_si512(acc, _mm512_add_epi32(init, _mm512_load_si512(acc)));
    }
  }
}

template <bool kSigned>
void gemm_tile(const GemmArgs* args) {
  const GemmArgs& g = *args;
  Scratch& scratch = *static_cast<Scratch*>(g.scratch);
  if (g.m > kTileRows) {
    if (g.n > kTileRows) {
      accumulate<true, true, kSigned>(g, scratch);
    } else {
      accumulate<true, false, kSigned>(g, scratch);
    }
  } else if (g.n > kTileRows) {
    accumulate<false, true, kSigned>(g, scratch);
  } else {
    accumulate<false, false, kSigned>(g, scratch);
  }
  add_init(g, scratch);
  store_rows(scratch.acc[0], 2 * kTileRows, g, 0, g.m);
}

constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<false>;
  row.fn[1] = gemm_tile<true>;
  row.format = {64, 4, 16};
  row.mr = row.m_step = 2 * kTileRows;
  row.nr = 2 * kTileRows;
  row.k_step = kTileBytes;
  row.min_m = 1;
  row.max_n = row.format.nr;
  row.scratch_bytes = sizeof(Scratch);
  return row;
}

}  // namespace
}  // namespace octavo
