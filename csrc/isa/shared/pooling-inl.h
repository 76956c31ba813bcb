// Pooling and interpolation in plain C++; each ISA folder compiles its own copy with its own flags.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/requantize.h"

namespace octavo {
namespace {

template <typename T>
constexpr int32_t kLowest = static_cast<T>(-1) < static_cast<T>(0) ? -128 : 0;

// Calls visit(pixel) with the address of each tap of output pixel `index`.
template <typename T, typename Visit>
void for_each_tap_portable(const PoolArgs& p, int64_t index, Visit visit) {
  const T* window = static_cast<const T*>(p.in) + index * p.in_stride;
  for (int32_t d = 0; d < p.taps[0]; ++d) {
    for (int32_t h = 0; h < p.taps[1]; ++h) {
      const T* row = window + d * p.tap_stride[0] + h * p.tap_stride[1];
      for (int32_t w = 0; w < p.taps[2]; ++w) visit(row + w * p.tap_stride[2]);
    }
  }
}

template <typename T>
void max_pool_portable(const PoolArgs* args) {
  const PoolArgs& p = *args;
  for (int64_t i = 0; i < p.pixels; ++i) {
    T* out = static_cast<T*>(p.out) + i * p.out_stride;
    for (int c = 0; c < p.channels; ++c) out[c] = static_cast<T>(kLowest<T>);
    for_each_tap_portable<T>(p, i, [&](const T* in) {
      for (int c = 0; c < p.channels; ++c) out[c] = in[c] > out[c] ? in[c] : out[c];
    });
  }
}

// Sums fit int32 for windows of up to 2^23 pixels; ops/pooling.cpp checks that.
template <typename T>
void avg_pool_portable(const PoolArgs* args) {
  const PoolArgs& p = *args;
  constexpr int kBlock = 64;
  const float lo = static_cast<float>(kLowest<T> - p.zero_point);
  const float hi = static_cast<float>(kLowest<T> + 255 - p.zero_point);
  for (int64_t i = 0; i < p.pixels; ++i) {
    T* out = static_cast<T*>(p.out) + i * p.out_stride;
    for (int c0 = 0; c0 < p.channels; c0 += kBlock) {
      const int block = p.channels - c0 < kBlock ? p.channels - c0 : kBlock;
      int32_t sum[kBlock] = {};
      for_each_tap_portable<T>(p, i, [&](const T* in) {
        for (int c = 0; c < block; ++c) sum[c] += static_cast<int32_t>(in[c0 + c]) - p.zero_point;
      });
      for (int c = 0; c < block; ++c) {
        const float mean = static_cast<float>(sum[c]) * p.scale;
        out[c0 + c] = static_cast<T>(
            static_cast<int32_t>(round_half_even(clamp_float(mean, lo, hi))) + p.zero_point);
      }
    }
  }
}

// The sum is below 2^22, so the float holds it exactly; a mean of values needs no clamp.
template <typename T>
void interpolate_portable(const InterpolateArgs* args) {
  const InterpolateArgs& p = *args;
  for (int64_t i = 0; i < p.pixels; ++i) {
    T* out = static_cast<T*>(p.out) + i * p.out_stride;
    const int32_t* weights = p.weights + i * p.row_count;
    for (int c = 0; c < p.channels; ++c) {
      int32_t sum = -p.zero_point * kInterpolationOne;
      for (int r = 0; r < p.row_count; ++r) {
        const T* row = static_cast<const T*>(p.rows[r]);
        sum += static_cast<int32_t>(row[p.left[i] + c]) * (weights[r] & 0xffff) +
               static_cast<int32_t>(row[p.right[i] + c]) * (weights[r] >> 16);
      }
      const float steps = static_cast<float>(sum) * (1.0f / kInterpolationOne);
      out[c] = static_cast<T>(static_cast<int32_t>(round_half_even(steps)) + p.zero_point);
    }
  }
}

}  // namespace
}  // namespace octavo
