// Window kernels in plain C++, for ISA folders without their own.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/requantize.h"

namespace octavo {
namespace {

template <bool kSigned>
static inline int32_t activation(const uint8_t* p) {
  return kSigned ? static_cast<int32_t>(static_cast<int8_t>(*p)) : *p;
}

template <bool kSigned>
void depthwise_portable(const WindowArgs* args) {
  const WindowArgs& d = *args;
  const Epilogue& e = *d.epilogue;
  for (int p = 0; p < d.pixels; ++p) {
    const uint8_t* const* rows = d.rows + static_cast<ptrdiff_t>(p) * d.taps;
    void* out = static_cast<char*>(d.out) + p * d.out_stride;
    for (int c = d.begin; c < d.end; ++c) {
      const int8_t* w = static_cast<const int8_t*>(d.w) +
                        static_cast<ptrdiff_t>(c / kDepthwiseBlock) * d.taps * kDepthwiseBlock +
                        c % kDepthwiseBlock;
      uint32_t acc = static_cast<uint32_t>(e.acc_init[c]);
      for (int t = 0; t < d.taps; ++t) {
        acc += static_cast<uint32_t>(activation<kSigned>(rows[t] + c) * w[t * kDepthwiseBlock]);
      }
      store_output(d.kind, acc, e, d.m0 + p, c, out, c);
    }
  }
}

template <bool kSigned>
static inline uint32_t grouped_sum(const WindowArgs& d, const GroupedBlock& block,
                                   const uint8_t* const* rows, int lane) {
  const uint8_t* pick = reinterpret_cast<const uint8_t*>(&block + 1);
  const auto* w = reinterpret_cast<const int8_t*>(pick + ptrdiff_t{d.chunks} * 4 * kGroupedLanes);
  uint32_t acc = static_cast<uint32_t>(d.epilogue->acc_init[block.first + lane]);
  for (int t = 0; t < d.taps; ++t) {
    for (int chunk = 0; chunk < d.chunks; ++chunk, w += 4 * kGroupedLanes) {
      for (int i = 0; i < 4; ++i) {
        const uint8_t from = pick[(chunk * kGroupedLanes + lane) * 4 + i];
        if (from > 127) continue;
        const uint8_t* a = rows[t] + block.load[chunk] + from;
        acc += static_cast<uint32_t>(activation<kSigned>(a) * w[lane * 4 + i]);
      }
    }
  }
  return acc;
}

template <bool kSigned>
void grouped_portable(const WindowArgs* args) {
  const WindowArgs& d = *args;
  const ptrdiff_t size = grouped_record_bytes(d.taps, d.chunks);
  for (int p = 0; p < d.pixels; ++p) {
    const uint8_t* const* rows = d.rows + static_cast<ptrdiff_t>(p) * d.taps;
    void* out = static_cast<char*>(d.out) + p * d.out_stride;
    for (int b = d.begin; b < d.end; ++b) {
      const auto& block =
          *reinterpret_cast<const GroupedBlock*>(static_cast<const char*>(d.w) + b * size);
      for (int lane = 0; lane < block.count; ++lane) {
        const uint32_t acc = grouped_sum<kSigned>(d, block, rows, lane);
        store_output(d.kind, acc, *d.epilogue, d.m0 + p, block.first + lane, out,
                     block.first + lane);
      }
    }
  }
}

constexpr WindowKernel depthwise_portable_row(const char* name) {
  return {
      name,  WindowKind::kDepthwise, 0, 0, {depthwise_portable<false>, depthwise_portable<true>},
      {0, 0}};
}
constexpr WindowKernel grouped_portable_row(const char* name) {
  return {name,  WindowKind::kGrouped, 0, 0, {grouped_portable<false>, grouped_portable<true>},
          {0, 0}};
}

}  // namespace
}  // namespace octavo
