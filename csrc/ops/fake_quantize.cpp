#include "ops/fake_quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "cpu/dispatch.h"
#include "parallel/parallel.h"
#include "util/aligned_buffer.h"

namespace octavo {
namespace {

constexpr int64_t kChunk = 1 << 15;        // elements per task
constexpr int64_t kChannelsPerTask = 256;  // at most; their ranges lie on the stack
constexpr int64_t kRangeUnit = 16;
constexpr int64_t kShortestRow = 128;  // elements that a task takes of an outer slice, or more
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr FloatRange kNothing = {kInfinity, -kInfinity};

// Any of the values was not finite, or there were none.
bool is_finite(FloatRange r) { return std::isfinite(r.lo) && std::isfinite(r.hi); }

// Extends `range` by the values, some of which may not be finite. What the kernel would fill up
// with zeros stays here.
void extend(const float* x, int64_t size, FloatRange& range) {
  const int64_t whole = size / kRangeUnit * kRangeUnit;
  if (whole) cpu::kernels().elementwise.range(x, whole, &range);
  float unusual = 0.0f;  // NaN once a value was NaN or infinite
  for (int64_t i = whole; i < size; ++i) {
    range.lo = x[i] < range.lo ? x[i] : range.lo;
    range.hi = x[i] > range.hi ? x[i] : range.hi;
    unusual += x[i] - x[i];
  }
  if (std::isnan(unusual)) range.lo = unusual;
}

// Extends `range` by the finite values and returns how many others there are.
int64_t finite_range(const float* x, int64_t size, FloatRange& range) {
  int64_t others = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (!std::isfinite(x[i])) {
      ++others;
      continue;
    }
    range.lo = std::min(range.lo, x[i]);
    range.hi = std::max(range.hi, x[i]);
  }
  return others;
}

float updated(float old, float latest, bool is_min, const ObserveRule& rule) {
  if (!std::isfinite(latest)) return old;
  if (!rule.averages) return is_min == (latest < old) ? latest : old;
  if (!std::isfinite(old) || rule.constant == 1.0f) return latest;
  return old + rule.constant * (latest - old);
}

void derive(float min, float max, const ObserveRule& rule, float& scale, int32_t& zero_point) {
  if (!(min <= max)) {
    scale = 1.0f;
    zero_point = 0;
    return;
  }
  const float low = std::min(min, 0.0f), high = std::max(max, 0.0f);
  const float steps = static_cast<float>(rule.range.hi - rule.range.lo);
  if (rule.symmetric) {
    scale = std::max(std::max(-low, high) / (steps / 2.0f), rule.eps);
    zero_point = rule.zero_point;
    return;
  }
  float width = (high - low) / steps;
  if (std::isinf(width)) width = high / steps - low / steps;
  scale = std::max(width, rule.eps);
  const float below = std::nearbyint(low / scale);
  const int64_t zero =
      rule.range.lo - (below > -0x1p30f ? static_cast<int64_t>(below) : -(1 << 30));
  zero_point = static_cast<int32_t>(std::clamp<int64_t>(zero, rule.range.lo, rule.range.hi));
}

void take(const FakeQuantizeStep& s, int64_t channel, FloatRange latest) {
  s.min[channel] = updated(s.min[channel], latest.lo, true, s.rule);
  s.max[channel] = updated(s.max[channel], latest.hi, false, s.rule);
  if (!s.scale) return;
  derive(s.min[channel], s.max[channel], s.rule, s.scale[channel], s.zero_point[channel]);
}

void round_run(const FakeQuantizeStep& s, int64_t channel, int64_t offset, int64_t size) {
  const int64_t zero = s.zero_point[channel];
  const FakeQuantizeArgs args{s.x + offset,
                              size,
                              1.0f / s.scale[channel],
                              s.scale[channel],
                              static_cast<float>(s.range.lo - zero),
                              static_cast<float>(s.range.hi - zero),
                              s.out + offset,
                              s.inside ? s.inside + offset : nullptr};
  cpu::kernels().elementwise.fake_quantize(&args);
}

template <typename Body>
void for_chunks(int64_t size, Body body) {
  parallel_for(ceil_div(size, kChunk), size, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    body(task, begin, std::min(kChunk, size - begin));
  });
}

FloatRange tensor_range(const float* x, int64_t size) {
  const int64_t chunks = ceil_div(size, kChunk);
  auto* parts = reinterpret_cast<FloatRange*>(call_scratch(chunks * sizeof(FloatRange)));
  for_chunks(size, [&](int64_t task, int64_t begin, int64_t count) {
    parts[task] = kNothing;
    extend(x + begin, count, parts[task]);
  });
  FloatRange all = parts[0];
  for (int64_t i = 1; i < chunks; ++i) {
    if (!is_finite(parts[i])) return parts[i];
    all.lo = std::min(all.lo, parts[i].lo);
    all.hi = std::max(all.hi, parts[i].hi);
  }
  return all;
}

int64_t step_per_tensor(const FakeQuantizeStep& s) {
  const int64_t size = s.grid.elements();
  int64_t others = 0;
  if (s.observe) {
    FloatRange range = tensor_range(s.x, size);
    if (!is_finite(range)) {
      range = kNothing;
      others = finite_range(s.x, size, range);
    }
    take(s, 0, range);
  }
  if (s.out) {
    for_chunks(size, [&](int64_t, int64_t begin, int64_t count) { round_run(s, 0, begin, count); });
  }
  return others;
}

// Calls body(channel, offset) for each run of a block of channels, in the order of memory.
template <typename Body>
void for_runs(const ChannelGrid& g, int64_t begin, int64_t end, Body body) {
  for (int64_t o = 0; o < g.outer; ++o) {
    for (int64_t c = begin; c < end; ++c) body(c, (o * g.channels + c) * g.inner);
  }
}

int64_t observe_channels(const FakeQuantizeStep& s, int64_t begin, int64_t end) {
  const ChannelGrid& g = s.grid;
  FloatRange ranges[kChannelsPerTask];
  std::fill_n(ranges, end - begin, kNothing);
  for_runs(g, begin, end,
           [&](int64_t c, int64_t offset) { extend(s.x + offset, g.inner, ranges[c - begin]); });
  int64_t others = 0;
  for (int64_t c = begin; c < end; ++c) {
    FloatRange& range = ranges[c - begin];
    if (!is_finite(range)) {
      range = kNothing;
      for_runs(g, c, c + 1, [&](int64_t, int64_t offset) {
        others += finite_range(s.x + offset, g.inner, range);
      });
    }
    take(s, c, range);
  }
  return others;
}

// A task is a block of channels, in all of the outer slices.
int64_t step_per_channel(const FakeQuantizeStep& s) {
  const ChannelGrid& g = s.grid;
  const int64_t block = std::clamp<int64_t>(kChunk / (g.outer * g.inner),
                                            ceil_div(kShortestRow, g.inner), kChannelsPerTask);
  std::atomic<int64_t> others = 0;
  parallel_for(ceil_div(g.channels, block), g.elements(), [&](int64_t task) {
    const int64_t begin = task * block, end = std::min(begin + block, g.channels);
    if (s.observe) others += observe_channels(s, begin, end);
    if (s.out) {
      for_runs(g, begin, end, [&](int64_t c, int64_t offset) { round_run(s, c, offset, g.inner); });
    }
  });
  return others;
}

}  // namespace

int64_t fake_quantize_step(const FakeQuantizeStep& step) {
  return step.grid.channels == 1 ? step_per_tensor(step) : step_per_channel(step);
}

void masked_gradient(const float* gradient, const uint8_t* inside, int64_t size, float* out) {
  const auto mask = cpu::kernels().elementwise.masked_gradient;
  for_chunks(size, [&](int64_t, int64_t begin, int64_t count) {
    mask(gradient + begin, inside + begin, count, out + begin);
  });
}

}  // namespace octavo
