#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "abi/gelu.h"
#include "abi/half.h"
#include "ref/dynamic.h"

namespace octavo::ref {

std::vector<float> to_floats(const void* x, int64_t size, int type) {
  std::vector<float> values(size);
  for (int64_t i = 0; i < size; ++i) {
    values[i] = type == 0   ? static_cast<const float*>(x)[i]
                : type == 1 ? bf16_to_float(static_cast<const uint16_t*>(x)[i])
                            : f16_to_float(static_cast<const uint16_t*>(x)[i]);
  }
  return values;
}

void store_float(float y, int64_t i, int type, void* out) {
  if (type == 0) static_cast<float*>(out)[i] = y;
  if (type == 1) static_cast<uint16_t*>(out)[i] = float_to_bf16(y);
  if (type == 2) static_cast<uint16_t*>(out)[i] = float_to_f16(y);
}

Affine qparams_of(const float* x, int64_t size, const Dynamic& how) {
  for (int64_t i = 0; i < size; ++i) {
    if (!std::isfinite(x[i])) return {std::numeric_limits<float>::quiet_NaN(), 0};
  }
  const auto [lo, hi] = std::minmax_element(x, x + size);
  return dynamic_qparams(*lo, *hi, how.reduce_range, how.per_tensor);
}

Affine dynamic_qparams(float lo, float hi, bool reduce_range, bool limit_scale) {
  const int qmax = reduce_range ? 127 : 255;
  double min = lo < 0 ? lo : 0, max = hi > 0 ? hi : 0;
  float scale = static_cast<float>((max - min) / qmax);
  if (scale == 0 || std::isinf(1 / scale)) scale = 0.1f;
  if (limit_scale && scale < 6.1e-5f) {
    const double factor = static_cast<double>(6.1e-5f) / scale;
    scale = 6.1e-5f;
    if (min != 0 && max != 0) {
      min *= factor;
      max *= factor;
    } else if (min == 0) {
      max = static_cast<double>(scale) * qmax;
    } else {
      min = -static_cast<double>(scale) * qmax;
    }
  }
  const double below = std::abs(min / scale), above = std::abs(max / scale);
  const double zero = below < qmax + above ? below : qmax - above;
  return {scale, static_cast<int32_t>(std::nearbyint(std::min<double>(std::max(zero, 0.0), qmax)))};
}

void dynamic_linear(const Layer& layer, const void* x, int64_t rows, const Dynamic& how,
                    void* out) {
  const int64_t k = layer.k, n = layer.n;
  const std::vector<float> values = to_floats(x, rows * k, how.type);
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = values.data() + r * k;
    const Affine q =
        how.per_tensor ? qparams_of(values.data(), rows * k, how) : qparams_of(row, k, how);
    for (int64_t c = 0; c < n; ++c) {
      int64_t acc = 0;
      for (int64_t i = 0; i < k && !std::isnan(q.scale); ++i) {
        const int32_t a = quantize(row[i], q, 0, how.reduce_range ? 127 : 255);
        acc += (a - q.zero_point) * (layer.weights[c * k + i] - layer.zero_point[c]);
      }
      float y = static_cast<float>(acc) * q.scale;
      y = y * layer.scale[c];
      y = y + (layer.bias ? layer.bias[c] : 0.0f);
      if (how.gelu) y = gelu(y);
      if (how.relu && y < 0.0f) y = 0.0f;
      store_float(y, r * n + c, how.type, out);
    }
  }
}

}  // namespace octavo::ref
