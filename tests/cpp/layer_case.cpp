#include "layer_case.h"

#include <cmath>

#include "abi/out_kind.h"

namespace octavo::testing {

LayerCase::LayerCase(Random& random, int32_t groups_, int32_t n_, int32_t taps_, int32_t k_,
                     Zeros zeros, bool with_bias, float input_scale)
    : groups(groups_), n(n_), taps(taps_), k(k_), binary_scales(random.chance(2)) {
  const int32_t channels = groups * n;
  weights.resize(size_t(channels) * taps * k);
  random.fill(weights.data(), weights.size());
  const bool per_channel = random.chance(2);
  for (int32_t c = 0; c < channels; ++c) {
    const float scale =
        binary_scales ? std::ldexp(1.0f, random.integer(-6, -4)) : random.real(0.001f, 0.05f);
    params.scale.push_back(per_channel || c == 0 ? scale : params.scale[0]);
    params.zero_point.push_back(zeros == Zeros::kSome ? random.integer(-128, 127) : 0);
    if (!with_bias) continue;
    // Half a step of the product's scale makes ties; the size is that of the sums.
    const float unit = input_scale * params.scale.back() * 0.5f;
    params.bias.push_back(unit * static_cast<float>(random.integer(-2000, 2000)));
  }
}

ref::Layer LayerCase::reference() const {
  return {weights.data(),
          groups,
          n,
          taps,
          k,
          params.scale.data(),
          params.zero_point.data(),
          params.bias.empty() ? nullptr : params.bias.data()};
}

float LayerCase::output_scale(Random& random, float input_scale) const {
  const float typical =
      input_scale * params.scale[0] * 74.0f * 74.0f * std::sqrt(static_cast<float>(taps) * k);
  const float scale = typical / 70.0f;
  return binary_scales ? std::exp2(std::round(std::log2(scale))) : scale * random.real(0.5f, 2.0f);
}

QuantizedBytes::QuantizedBytes(Random& random, int64_t size, bool is_signed_)
    : data(size), is_signed(is_signed_) {
  static const std::vector<int32_t> kZeros = {0, 1, 127, 128, 255};
  random.fill(data.data(), data.size());
  qparams.scale =
      random.chance(2) ? std::ldexp(1.0f, random.integer(-7, -2)) : random.real(0.002f, 0.2f);
  qparams.zero_point = random.pick(kZeros) - (is_signed ? 128 : 0);
}

OutputSpec random_output(Random& random, OutKind kind, float scale) {
  static const std::vector<int32_t> kZeros = {0, 1, 127, 128, 255};
  OutputSpec output;
  output.kind = kind;
  output.relu = kind != OutKind::kI32 && random.chance(3);
  output.gelu = is_float(kind) && random.chance(3);
  if (kind == OutKind::kU8 || kind == OutKind::kS8) {
    output.out = {scale, random.pick(kZeros) - (kind == OutKind::kS8 ? 128 : 0)};
  }
  if (kind != OutKind::kI32 && random.chance(3)) {  // from below to above what is typical
    output.clamp.lo = scale * random.real(-150.0f, 30.0f);
    output.clamp.hi = output.clamp.lo + scale * random.real(0.0f, 200.0f);
  }
  return output;
}

ref::Output reference_output(const OutputSpec& output) {
  return {output.kind,     {output.out.scale, output.out.zero_point},
          output.relu,     output.clamp.lo,
          output.clamp.hi, output.gelu};
}

std::vector<const char*> kernel_choices(const KernelSet& set) {
  std::vector<const char*> names = {nullptr};
  for (int32_t i = 0; i < set.gemm_count; ++i) names.push_back(set.gemm[i].name);
  return names;
}

std::string output_difference(OutKind kind, const std::vector<uint8_t>& got,
                              const std::vector<uint8_t>& expected) {
  const std::string difference = first_difference(got.data(), expected.data(), expected.size());
  return difference.empty() ? "" : std::string(kind_name(kind)) + " output, " + difference;
}

}  // namespace octavo::testing
