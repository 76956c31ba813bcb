#include "abi/attention.h"

#include <algorithm>

#include "ref/reference.h"

namespace octavo::ref {

int32_t attention_weights(const int32_t* scores, int64_t size, float factor, uint8_t* high,
                          uint8_t* low) {
  const int32_t largest = *std::max_element(scores, scores + size);
  int32_t sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float x = static_cast<float>(scores[i] - largest) * factor;
    const int32_t weight = static_cast<int32_t>(attention_weight(x));
    high[i] = static_cast<uint8_t>(weight / 256);
    low[i] = static_cast<uint8_t>(weight % 256);
    sum += weight;
  }
  return sum;
}

void attention_output(const AttentionOutputArgs& a) {
  const int32_t least = a.out_signed ? -128 : 0;
  for (int64_t i = 0; i < a.size; ++i) {
    float t = static_cast<float>(a.high[i]) * 256.0f;
    t = t + static_cast<float>(a.low[i]);
    t = t * a.factor;
    t = t + a.shift;
    const int32_t steps = round_and_clamp(t, least - a.out_zero, least + 255 - a.out_zero);
    store_byte(a.out, i, a.out_signed != 0, steps + a.out_zero);
  }
}

void attention(const Attention& a, const Bytes& q, Affine q_params, const Bytes& k, Affine k_params,
               const Bytes& v, Affine v_params, bool out_signed, Affine output, void* out) {
  const double product = static_cast<double>(q_params.scale) * static_cast<double>(k_params.scale);
  const float factor = static_cast<float>(product * static_cast<double>(a.scale));
  const double ratio = static_cast<double>(v_params.scale) / static_cast<double>(output.scale);
  const int32_t k_offset = k.is_signed ? 0 : 128, v_offset = v.is_signed ? 0 : 128;
  std::vector<int32_t> scores(a.keys), high(a.value_size), low(a.value_size);
  std::vector<uint8_t> upper(a.keys), lower(a.keys);
  for (int64_t g = 0; g < a.groups; ++g) {
    for (int64_t i = 0; i < a.queries; ++i) {
      for (int64_t j = 0; j < a.keys; ++j) {
        scores[j] = 0;
        for (int64_t d = 0; d < a.size; ++d) {
          scores[j] += (q.at((g * a.queries + i) * a.size + d) - q_params.zero_point) *
                       (k.at((g * a.keys + j) * a.size + d) - k_offset);
        }
      }
      const int32_t sum =
          attention_weights(scores.data(), a.keys, factor, upper.data(), lower.data());
      for (int64_t c = 0; c < a.value_size; ++c) {
        high[c] = low[c] = 0;
        for (int64_t j = 0; j < a.keys; ++j) {
          const int32_t value = v.at((g * a.keys + j) * a.value_size + c) - v_offset;
          high[c] += upper[j] * value;
          low[c] += lower[j] * value;
        }
      }
      AttentionOutputArgs args{};
      args.high = high.data();
      args.low = low.data();
      args.size = a.value_size;
      args.factor = static_cast<float>(ratio / sum);
      args.shift = static_cast<float>(-ratio * (v_params.zero_point - v_offset));
      args.out_zero = output.zero_point;
      args.out_signed = out_signed;
      args.out = static_cast<uint8_t*>(out) + (g * a.queries + i) * a.value_size;
      attention_output(args);
    }
  }
}

}  // namespace octavo::ref
