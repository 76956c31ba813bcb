// The window kernels of x86: how channels are cut into vectors, and their rows of a table.
#pragma once

#include "abi/kernel_abi.h"
#include "isa/vector_shared/depthwise_any-inl.h"
#include "isa/vector_shared/depthwise_rows-inl.h"
#include "isa/vector_shared/grouped_any-inl.h"
#include "isa/vector_shared/grouped_rows-inl.h"
#include "isa/x86_shared/window_lanes-inl.h"

namespace octavo {
namespace {

#if defined(__AVX512BW__)
using GroupedLanes = Window512;
#else
using GroupedLanes = Window256;
#endif

// Cuts channels into blocks of a vector; where what is left is less than half a vector, rows share
// one.
template <int K, int S, bool kSigned>
void depthwise_rows(const WindowArgs* args) {
  int channel = args->begin;
#if defined(__AVX512BW__)
  for (; args->end - channel >= 64; channel += 64)
    depthwise_block<Window512, 1, K, S, kSigned, false>(*args, channel, 64);
  const int n = args->end - channel;
  if (n > 32) {
    depthwise_block<Window512, 1, K, S, kSigned, true>(*args, channel, n);
  } else if (n > 16) {
    depthwise_block<Window512, 2, K, S, kSigned, true>(*args, channel, n);
  } else if (n > 0) {
    depthwise_block<Window512, 4, K, S, kSigned, true>(*args, channel, n);
  }
#else
  for (; args->end - channel >= 32; channel += 32)
    depthwise_block<Window256, 1, K, S, kSigned, false>(*args, channel, 32);
  for (; args->end - channel >= 16; channel += 16)
    depthwise_block<Window256, 2, K, S, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_block<Window256, 2, K, S, kSigned, true>(*args, channel, args->end - channel);
#endif
}

template <int K, int S>
constexpr WindowKernel depthwise_rows_row(const char* name) {
  return {name,
          WindowKind::kDepthwise,
          K,
          S,
          {depthwise_rows<K, S, false>, depthwise_rows<K, S, true>},
          {0, 128}};
}

// Cuts channels into blocks of the widest vectors that are more than half full.
template <bool kSigned>
void depthwise_any(const WindowArgs* args) {
  int channel = args->begin;
#if defined(__AVX512BW__)
  for (; args->end - channel >= 64; channel += 64)
    depthwise_any_block<Window512, kSigned, false>(*args, channel, 64);
  const int n = args->end - channel;
  if (n > 32) {
    depthwise_any_block<Window512, kSigned, true>(*args, channel, n);
  } else if (n > 16) {
    depthwise_any_block<Window256, kSigned, true>(*args, channel, n);
  } else if (n > 0) {
    depthwise_any_block<Window128, kSigned, true>(*args, channel, n);
  }
#else
  for (; args->end - channel >= 32; channel += 32)
    depthwise_any_block<Window256, kSigned, false>(*args, channel, 32);
  for (; args->end - channel >= 16; channel += 16)
    depthwise_any_block<Window128, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_any_block<Window128, kSigned, true>(*args, channel, args->end - channel);
#endif
}

constexpr WindowKernel depthwise_any_row(const char* name) {
  return {name,    WindowKind::kDepthwise, 0, 0, {depthwise_any<false>, depthwise_any<true>},
          {0, 128}};
}

template <int K, int S>
constexpr WindowKernel grouped_rows_row(const char* name) {
  return {name,
          WindowKind::kGrouped,
          K,
          S,
          {grouped_rows<GroupedLanes, K, S, false>, grouped_rows<GroupedLanes, K, S, true>},
          {0, 128}};
}
constexpr WindowKernel grouped_any_row(const char* name) {
  return {name,
          WindowKind::kGrouped,
          0,
          0,
          {grouped_any<GroupedLanes, false>, grouped_any<GroupedLanes, true>},
          {0, 128}};
}

}  // namespace
}  // namespace octavo
