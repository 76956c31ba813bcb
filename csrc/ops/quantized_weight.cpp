#include "ops/quantized_weight.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "abi/out_kind.h"
#include "cpu/dispatch.h"

namespace octavo {
namespace {

template <typename T>
void check_length(const char* name, const std::vector<T>& values, int32_t channels) {
  if (values.size() == static_cast<size_t>(channels)) return;
  throw std::invalid_argument(std::string(name) + ": expected one element for each of " +
                              std::to_string(channels) + " output channels, got " +
                              std::to_string(values.size()));
}

std::string at(const char* name, size_t i, const std::string& value, const char* rule) {
  return std::string(name) + "[" + std::to_string(i) + "] is " + value + "; " + rule;
}

float checked(float x, const char* what) {
  if (std::isfinite(x)) return x;
  throw std::invalid_argument(
      std::string(what) +
      " is not a finite float32: the scales of input, weight and output are too far apart. "
      "Calibrate again with data of the range that the layer sees.");
}

void check_clamp(const Clamp& clamp) {
  if (clamp.lo <= clamp.hi) return;
  throw std::invalid_argument("clamp: the lower bound " + std::to_string(clamp.lo) +
                              " must not exceed the upper bound " + std::to_string(clamp.hi));
}

// A bound in steps from the zero point, which lie in [least, most].
float to_steps(float bound, float inverse_scale, float least, float most) {
  const float steps = bound * inverse_scale;
  // 0 times the inverse of a scale so small that it has none is the zero point, as quantize() has
  // it.
  return std::isnan(steps) ? std::max(0.0f, least)
                           : std::nearbyint(std::min(std::max(steps, least), most));
}

}  // namespace

QuantizedWeight::QuantizedWeight(const int8_t* weights, const WeightShape& shape,
                                 WeightParams params, bool window)
    : shape_(shape), params_(std::move(params)) {
  check_weight_params(params_, channels(), shape_.depth());
  const auto& zeros = params_.zero_point;
  has_zero_points_ = std::any_of(zeros.begin(), zeros.end(), [](int32_t z) { return z != 0; });
  const int64_t padded = round_up(channels(), kChannelPad);
  col_sum_ = AlignedBuffer::zeroed(padded * sizeof(int32_t));
  padded_zero_points_ = AlignedBuffer::zeroed(padded * sizeof(int32_t));
  std::copy(zeros.begin(), zeros.end(), padded_zero_points_.as<int32_t>());
  if (window && !has_zero_points_) {
    window_ = PackedWindow::pack(weights, shape_);
    sum_columns(weights);
  } else {
    add_form(PackedWeight::pack(weights, shape_, cpu::active_format(cpu::kernels()),
                                col_sum_.as<int32_t>()));
  }
}

QuantizedWeight::QuantizedWeight(std::shared_ptr<const PackedWeight> packed)
    : shape_(packed->shape()) {
  add_form(std::move(packed));
}

namespace {

// PackedWeight checks the depth for weights as they are stored; a zero point makes them up to twice
// as large.
void check_depth(const WeightParams& params, int64_t depth) {
  for (const int32_t z : params.zero_point) {
    const int64_t largest = std::max(z + 128, 127 - z);
    if (z == 0 || 255 * largest * depth <= std::numeric_limits<int32_t>::max()) continue;
    throw std::invalid_argument(
        "weight: with zero point " + std::to_string(z) + ", each output may sum at most " +
        std::to_string(std::numeric_limits<int32_t>::max() / (255 * largest)) +
        " products for an int32 accumulator to be exact; this one sums " + std::to_string(depth) +
        ". Use symmetric weights or split the layer.");
  }
}

}  // namespace

void check_weight_params(const WeightParams& params, int32_t channels, int64_t depth) {
  check_length("weight scale", params.scale, channels);
  check_length("weight zero_point", params.zero_point, channels);
  if (!params.bias.empty()) check_length("bias", params.bias, channels);
  for (size_t i = 0; i < params.scale.size(); ++i) {
    const float s = params.scale[i];
    if (!(s > 0.0f) || !std::isfinite(s)) {
      throw std::invalid_argument(
          at("weight scale", i, std::to_string(s), "scales must be positive and finite"));
    }
    const int32_t z = params.zero_point[i];
    if (z < -128 || z > 127) {
      throw std::invalid_argument(
          at("weight zero_point", i, std::to_string(z), "int8 weights need -128..127"));
    }
  }
  check_depth(params, depth);
  for (size_t i = 0; i < params.bias.size(); ++i) {
    if (!std::isfinite(params.bias[i])) {
      throw std::invalid_argument(
          at("bias", i, std::to_string(params.bias[i]), "the bias must be finite"));
    }
  }
}

void QuantizedWeight::sum_columns(const int8_t* weights) {
  for (int32_t c = 0; c < channels(); ++c) {
    const int8_t* column = weights + c * shape_.depth();
    col_sum_.as<int32_t>()[c] = std::accumulate(column, column + shape_.depth(), 0);
  }
}

QuantizedWeight::~QuantizedWeight() {
  for (const Form* form = forms_.load(std::memory_order_acquire); form;) {
    delete std::exchange(form, form->next);
  }
}

const PackedWeight& QuantizedWeight::packed(PackFormat format) const {
  const Form* newest = forms_.load(std::memory_order_acquire);
  for (const Form* form = newest; form; form = form->next) {
    if (cpu::same_format(form->packed->format(), format)) return *form->packed;
  }
  // Threads that come here together pack each for itself; which of the equal forms is found
  // afterwards makes no difference.
  std::vector<int8_t> plain(shape_.elements());
  newest->packed->unpack(plain.data());
  return add_form(PackedWeight::pack(plain.data(), shape_, format));
}

const PackedWeight& QuantizedWeight::add_form(std::shared_ptr<const PackedWeight> packed) const {
  Form* form = new Form{std::move(packed), forms_.load(std::memory_order_relaxed)};
  while (!forms_.compare_exchange_weak(form->next, form, std::memory_order_release,
                                       std::memory_order_relaxed)) {
  }
  return *form->packed;
}

void QuantizedWeight::unpack(int8_t* weights) const {
  if (window_) {
    window_->unpack(weights);
  } else {
    forms_.load(std::memory_order_acquire)->packed->unpack(weights);
  }
}

int64_t QuantizedWeight::packed_bytes() const {
  return window_ ? window_->bytes() : forms_.load(std::memory_order_acquire)->packed->bytes();
}

ChannelParamsCache::Lease QuantizedWeight::channel_params(QParams input, const OutputSpec& output,
                                                          int32_t offset) const {
  // The clamp does not shape the arrays, so ReLU and the output's zero point are no part of the
  // key.
  const bool real_output = is_float(output.kind) || output.kind == OutKind::kI32;
  const ChannelParamsKey key{input.scale, input.zero_point + offset, real_output,
                             real_output ? 0.0f : output.out.scale};
  return channel_params_.get(key, [&](ChannelParams& params) { fill(key, params); });
}

void QuantizedWeight::fill(const ChannelParamsKey& key, ChannelParams& params) const {
  if (params.bias.size() == 0) {
    const int64_t bytes = round_up(channels(), kChannelPad) * sizeof(float);
    params.acc_init = AlignedBuffer::zeroed(bytes);
    params.mult = AlignedBuffer::zeroed(bytes);
    params.bias = AlignedBuffer::zeroed(bytes);
  }
  const uint32_t za = static_cast<uint32_t>(key.input_zero);
  const float products = 255.0f * 128.0f * static_cast<float>(shape_.depth());
  params.stays_int32 = true;
  for (int32_t c = 0; c < channels(); ++c) {
    params.acc_init.as<int32_t>()[c] =
        static_cast<int32_t>(0u - za * static_cast<uint32_t>(col_sum()[c]));
    const float aw = checked(key.input_scale * params_.scale[c], "input scale * weight scale");
    const float bias = params_.bias.empty() ? 0.0f : params_.bias[c];
    params.mult.as<float>()[c] = key.real_output ? aw : checked(aw / key.out_scale, "scale ratio");
    params.bias.as<float>()[c] =
        key.real_output || bias == 0.0f ? bias : checked(bias / aw, "bias / (scale product)");
    const float largest = products +
                          std::abs(static_cast<float>(params.acc_init.as<int32_t>()[c])) +
                          std::abs(params.bias.as<float>()[c]);
    params.stays_int32 &= largest * params.mult.as<float>()[c] < 0x1p30f;
  }
}

Epilogue make_epilogue(const QuantizedWeight& weight, const ChannelParams& params,
                       const OutputSpec& output) {
  Epilogue e{};
  e.acc_init = params.acc_init.as<int32_t>();
  e.mult = params.mult.as<float>();
  e.bias = params.bias.as<float>();
  e.col_sum = weight.col_sum();
  e.stays_int32 = params.stays_int32;
  if (output.gelu && !is_float(output.kind)) {
    throw std::invalid_argument("output: GELU is fused into float outputs only");
  }
  e.gelu = output.gelu;
  check_clamp(output.clamp);
  switch (output.kind) {
    case OutKind::kU8:
    case OutKind::kS8: {
      const int32_t qmin = output.kind == OutKind::kU8 ? 0 : -128;
      e.out_zero = output.out.zero_point;
      const float least = static_cast<float>(qmin - e.out_zero), most = least + 255.0f;
      const float inverse = 1.0f / output.out.scale;
      e.lo = to_steps(output.clamp.lo, inverse, output.relu ? 0.0f : least, most);
      e.hi = to_steps(output.clamp.hi, inverse, least, most);
      break;
    }
    case OutKind::kI32:
    case OutKind::kF32:
    case OutKind::kBF16:
    case OutKind::kF16:
      e.lo = output.relu ? std::max(0.0f, output.clamp.lo) : output.clamp.lo;
      e.hi = output.clamp.hi;
      break;
  }
  // ReLU and an upper bound below zero: the bound wins.
  e.lo = std::min(e.lo, e.hi);
  return e;
}

}  // namespace octavo
