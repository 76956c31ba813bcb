// Portable GEMM tiles: the floor that every CPU can run, and odd tiles that only tests select.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/requantize.h"

namespace octavo {
namespace {

// Register budget: none is planned; the accumulators live in an MR x NR array on the stack.
template <int MR, int NR, int KR, bool kSigned>
void gemm_tile(const GemmArgs* args) {
  const GemmArgs& g = *args;
  const Epilogue& e = *g.epilogue;
  uint32_t acc[MR][NR];
  for (int r = 0; r < g.m; ++r) {
    for (int c = 0; c < g.n; ++c) acc[r][c] = static_cast<uint32_t>(e.acc_init[g.n0 + c]);
  }
  const int8_t* b = g.b;
  for (int t = 0; t < g.taps; ++t) {
    for (int k0 = 0; k0 < g.k; k0 += KR, b += g.b_stride) {
      const int depth = g.k - k0 < KR ? g.k - k0 : KR;
      for (int r = 0; r < g.m; ++r) {
        const uint8_t* a = g.a + r * g.a_stride + g.tap[t] + k0;
        for (int c = 0; c < g.n; ++c) {
          int32_t sum = 0;
          for (int j = 0; j < depth; ++j) {
            const int32_t value = kSigned ? static_cast<int32_t>(static_cast<int8_t>(a[j])) : a[j];
            sum += value * b[c * KR + j];
          }
          acc[r][c] += static_cast<uint32_t>(sum);
        }
      }
    }
  }
  for (int r = 0; r < g.m; ++r) {
    void* row = static_cast<char*>(g.out) + r * g.out_stride;
    for (int c = 0; c < g.n; ++c) store_output(g.kind, acc[r][c], e, g.m0 + r, g.n0 + c, row, c);
  }
}

template <int MR, int NR, int KR>
constexpr GemmKernel gemm_row(const char* name, uint32_t flags) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<MR, NR, KR, false>;
  row.fn[1] = gemm_tile<MR, NR, KR, true>;
  row.format = {NR, KR, NR};
  row.mr = row.m_step = MR;
  row.nr = NR;
  row.k_step = KR;
  row.min_m = 1;
  row.max_n = NR;
  row.flags = flags;
  return row;
}

}  // namespace
}  // namespace octavo
