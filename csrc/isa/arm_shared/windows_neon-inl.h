// The window kernels of ARM: their rows of a table.
#pragma once

#include "abi/kernel_abi.h"
#include "isa/arm_shared/window_lanes_neon-inl.h"
#include "isa/vector_shared/depthwise_any-inl.h"
#include "isa/vector_shared/depthwise_rows-inl.h"
#include "isa/vector_shared/grouped_any-inl.h"
#include "isa/vector_shared/grouped_rows-inl.h"

namespace octavo {
namespace {

template <int K, int S, bool kSigned>
void depthwise_rows(const WindowArgs* args) {
  int channel = args->begin;
  for (; args->end - channel >= 16; channel += 16)
    depthwise_block<WindowNeon, 1, K, S, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_block<WindowNeon, 1, K, S, kSigned, true>(*args, channel, args->end - channel);
}

template <bool kSigned>
void depthwise_any(const WindowArgs* args) {
  int channel = args->begin;
  for (; args->end - channel >= 16; channel += 16)
    depthwise_any_block<WindowNeon, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_any_block<WindowNeon, kSigned, true>(*args, channel, args->end - channel);
}

constexpr WindowKernel window_row(const char* name, WindowKind kind, int kernel, int stride,
                                  WindowFn on_uint8, WindowFn on_int8) {
  return {name,
          kind,
          static_cast<uint8_t>(kernel),
          static_cast<uint8_t>(stride),
          {on_uint8, on_int8},
          {kWindowOffset[0], kWindowOffset[1]}};
}

template <int K, int S>
constexpr WindowKernel depthwise_rows_row(const char* name) {
  return window_row(name, WindowKind::kDepthwise, K, S, depthwise_rows<K, S, false>,
                    depthwise_rows<K, S, true>);
}
constexpr WindowKernel depthwise_any_row(const char* name) {
  return window_row(name, WindowKind::kDepthwise, 0, 0, depthwise_any<false>, depthwise_any<true>);
}
template <int K, int S>
constexpr WindowKernel grouped_rows_row(const char* name) {
  return window_row(name, WindowKind::kGrouped, K, S, grouped_rows<WindowNeon, K, S, false>,
                    grouped_rows<WindowNeon, K, S, true>);
}
constexpr WindowKernel grouped_any_row(const char* name) {
  return window_row(name, WindowKind::kGrouped, 0, 0, grouped_any<WindowNeon, false>,
                    grouped_any<WindowNeon, true>);
}

}  // namespace
}  // namespace octavo
