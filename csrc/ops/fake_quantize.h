// A step of fake quantization on float32: take statistics, derive scales, round to levels and back.
#pragma once

#include <cstdint>

#include "ops/elementwise.h"

namespace octavo {

// Dense memory as [outer][channels][inner]; per tensor: one channel.
struct ChannelGrid {
  int64_t outer, channels, inner;
  int64_t elements() const { return outer * channels * inner; }
};

// How the extremes of a step enter the statistics, and how these become scale and zero point: in
// float32, one rounding an operation, as octavo.quantization.utils.interval_to_qparams says.
struct ObserveRule {
  bool averages;   // min += constant * (new - min), or new where constant is 1 or nothing was seen;
  float constant;  // otherwise the smallest and largest ever
  float eps;       // smallest scale, > 0
  IntRange range;  // at most 2^23 steps
  bool symmetric;
  int32_t zero_point;  // where symmetric
};

struct FakeQuantizeStep {
  const float* x;
  ChannelGrid grid;
  bool observe;  // update min, max, scale and zero_point by `rule`
  ObserveRule rule;
  float *min, *max;     // [channels]; +inf and -inf where nothing was seen
  float* scale;         // [channels], > 0; or null: update min and max only, and do not round
  int32_t* zero_point;  // [channels]; or null with scale
  IntRange range;       // levels to round to, at most 2^23 steps
  float* out;           // or null: do not round
  uint8_t* inside;      // 1 where a value lies within the range; or null
};

// Returns how many values were not finite where it observes; they are left out of the statistics.
int64_t fake_quantize_step(const FakeQuantizeStep& step);

// out[i] = gradient[i] * inside[i]
void masked_gradient(const float* gradient, const uint8_t* inside, int64_t size, float* out);

}  // namespace octavo
