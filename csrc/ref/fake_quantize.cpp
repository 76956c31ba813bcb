#include <algorithm>
#include <cmath>

#include "ref/reference.h"

namespace octavo::ref {
namespace {

// An operation of float32: computed in double and rounded once.
float rounded(double x) { return static_cast<float>(x); }

float moved(float old, float latest, const FakeQuantizeRule& rule) {
  if (std::isinf(old) || rule.constant == 1.0f) return latest;
  return rounded(double{old} + rounded(double{rule.constant} * rounded(double{latest} - old)));
}

}  // namespace

void fake_quantize_kernel(const FakeQuantizeArgs& args) {
  for (int64_t i = 0; i < args.size; ++i) {
    const float steps = std::nearbyint(args.x[i] * args.inverse);
    const float level = std::isnan(steps) ? steps : std::clamp(steps, args.lo, args.hi);
    args.out[i] = (level == 0.0f ? 0.0f : level) * args.scale;
    if (args.inside) args.inside[i] = steps >= args.lo && steps <= args.hi;
  }
}

int64_t observe(const std::vector<float>& values, const FakeQuantizeRule& rule, float& min,
                float& max, Affine& qparams) {
  std::vector<float> finite;
  for (float v : values) {
    if (std::isfinite(v)) finite.push_back(v);
  }
  if (!finite.empty()) {
    const float low = *std::min_element(finite.begin(), finite.end());
    const float high = *std::max_element(finite.begin(), finite.end());
    min = rule.averages ? moved(min, low, rule) : std::min(min, low);
    max = rule.averages ? moved(max, high, rule) : std::max(max, high);
  }
  qparams = {};
  if (min <= max) {
    const double low = std::min(min, 0.0f), high = std::max(max, 0.0f), steps = rule.hi - rule.lo;
    if (rule.symmetric) {
      qparams.scale = std::max(rounded(std::max(-low, high) / (steps / 2)), rule.eps);
      qparams.zero_point = rule.zero_point;
    } else {
      float scale = rounded(double{rounded(high - low)} / steps);
      if (std::isinf(scale)) scale = rounded(double{rounded(high / steps)} - rounded(low / steps));
      qparams.scale = std::max(scale, rule.eps);
      const double below = std::nearbyint(rounded(low / qparams.scale));
      qparams.zero_point =
          static_cast<int32_t>(std::clamp<double>(rule.lo - below, rule.lo, rule.hi));
    }
  }
  return static_cast<int64_t>(values.size() - finite.size());
}

}  // namespace octavo::ref
