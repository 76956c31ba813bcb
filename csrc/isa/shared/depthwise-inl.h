// Depthwise convolution in plain C++, for ISA folders without one of their own.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/requantize.h"

namespace octavo {
namespace {

template <bool kSigned>
void depthwise_portable(const DepthwiseArgs* args) {
  const DepthwiseArgs& d = *args;
  const Epilogue& e = *d.epilogue;
  for (int p = 0; p < d.pixels; ++p) {
    const uint8_t* const* rows = d.rows + static_cast<ptrdiff_t>(p) * d.taps;
    void* out = static_cast<char*>(d.out) + p * d.out_stride;
    for (int c = 0; c < d.channels; ++c) {
      const int8_t* w = d.w +
                        static_cast<ptrdiff_t>(c / kDepthwiseBlock) * d.taps * kDepthwiseBlock +
                        c % kDepthwiseBlock;
      uint32_t acc = static_cast<uint32_t>(e.acc_init[d.n0 + c]);
      for (int t = 0; t < d.taps; ++t) {
        const uint8_t a = rows[t][c];
        const int32_t value = kSigned ? static_cast<int32_t>(static_cast<int8_t>(a)) : a;
        acc += static_cast<uint32_t>(value * w[t * kDepthwiseBlock]);
      }
      store_output(d.kind, acc, e, d.m0 + p, d.n0 + c, out, c);
    }
  }
}

constexpr DepthwiseKernel depthwise_portable_row(const char* name) {
  return {name, {depthwise_portable<false>, depthwise_portable<true>}, 0};
}

}  // namespace
}  // namespace octavo
