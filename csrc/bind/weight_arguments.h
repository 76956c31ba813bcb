// Arguments that the bindings of linear layers and convolutions share.
#pragma once

#include "abi/out_kind.h"
#include "bind/bindings.h"
#include "ops/dynamic_linear.h"

namespace octavo::bind {

inline OutKind out_kind(int code) {
  if (code < 0 || code >= kOutKinds) throw std::invalid_argument("output kind must be 0 .. 5");
  return static_cast<OutKind>(code);
}

inline WeightParams weight_params(int32_t channels, uintptr_t scales, uintptr_t zeros,
                                  uintptr_t bias) {
  WeightParams p;
  const auto* scale = pointer<const float>(scales, channels);
  const auto* zero = pointer<const int32_t>(zeros, channels);
  p.scale.assign(scale, scale + channels);
  p.zero_point.assign(zero, zero + channels);
  if (bias) {
    const auto* values = pointer<const float>(bias, channels);
    p.bias.assign(values, values + channels);
  }
  return p;
}

inline FloatType float_type(int code) {
  if (code < 0 || code > 2) throw std::invalid_argument("float type must be 0 .. 2");
  return static_cast<FloatType>(code);
}

}  // namespace octavo::bind
