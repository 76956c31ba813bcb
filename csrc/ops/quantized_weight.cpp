#include "ops/quantized_weight.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

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

bool same(const QParams& a, const QParams& b) {
  return a.scale == b.scale && a.zero_point == b.zero_point;
}

// The clamp does not shape the arrays, so ReLU is left out.
bool same_arrays(const OutputSpec& a, const OutputSpec& b) {
  const bool a_float = a.kind == OutKind::kF32 || a.kind == OutKind::kI32;
  const bool b_float = b.kind == OutKind::kF32 || b.kind == OutKind::kI32;
  return a_float == b_float && (a_float || a.out.scale == b.out.scale);
}

float checked(float x, const char* what) {
  if (std::isfinite(x)) return x;
  throw std::invalid_argument(
      std::string(what) +
      " is not a finite float32: the scales of input, weight and output are too far apart. "
      "Calibrate again with data of the range that the layer sees.");
}

}  // namespace

QuantizedWeight::QuantizedWeight(const int8_t* weights, const WeightShape& shape,
                                 WeightParams params, bool depthwise)
    : shape_(shape), params_(std::move(params)) {
  validate();
  const auto& zeros = params_.zero_point;
  has_zero_points_ = std::any_of(zeros.begin(), zeros.end(), [](int32_t z) { return z != 0; });
  const int64_t padded = round_up(channels(), kChannelPad);
  col_sum_ = AlignedBuffer::zeroed(padded * sizeof(int32_t));
  padded_zero_points_ = AlignedBuffer::zeroed(padded * sizeof(int32_t));
  std::copy(zeros.begin(), zeros.end(), padded_zero_points_.as<int32_t>());
  if (depthwise && !has_zero_points_) {
    depthwise_ = PackedDepthwise::pack(weights, shape_.groups, shape_.taps);
    sum_taps(weights);
  } else {
    packed_.push_back(PackedWeight::pack(weights, shape_, cpu::active_format(cpu::kernels()),
                                         col_sum_.as<int32_t>()));
    current_.store(packed_.back().get(), std::memory_order_release);
  }
}

void QuantizedWeight::validate() const {
  const int32_t n = channels();
  check_length("weight scale", params_.scale, n);
  check_length("weight zero_point", params_.zero_point, n);
  if (!params_.bias.empty()) check_length("bias", params_.bias, n);
  for (size_t i = 0; i < params_.scale.size(); ++i) {
    const float s = params_.scale[i];
    if (!(s > 0.0f) || !std::isfinite(s)) {
      throw std::invalid_argument(
          at("weight scale", i, std::to_string(s), "scales must be positive and finite"));
    }
    const int32_t z = params_.zero_point[i];
    if (z < -128 || z > 127) {
      throw std::invalid_argument(
          at("weight zero_point", i, std::to_string(z), "int8 weights need -128..127"));
    }
  }
  check_depth();
  for (size_t i = 0; i < params_.bias.size(); ++i) {
    if (!std::isfinite(params_.bias[i])) {
      throw std::invalid_argument(
          at("bias", i, std::to_string(params_.bias[i]), "the bias must be finite"));
    }
  }
}

// PackedWeight checks the depth for weights as they are stored; a zero point makes them up to twice
// as large.
void QuantizedWeight::check_depth() const {
  for (const int32_t z : params_.zero_point) {
    const int64_t largest = std::max(z + 128, 127 - z);
    if (z == 0 || 255 * largest * shape_.depth() <= std::numeric_limits<int32_t>::max()) continue;
    throw std::invalid_argument(
        "weight: with zero point " + std::to_string(z) + ", each output may sum at most " +
        std::to_string(std::numeric_limits<int32_t>::max() / (255 * largest)) +
        " products for an int32 accumulator to be exact; this one sums " +
        std::to_string(shape_.depth()) + ". Use symmetric weights or split the layer.");
  }
}

void QuantizedWeight::sum_taps(const int8_t* weights) {
  for (int32_t c = 0; c < channels(); ++c) {
    const int8_t* taps = weights + int64_t{c} * shape_.taps;
    col_sum_.as<int32_t>()[c] = std::accumulate(taps, taps + shape_.taps, 0);
  }
}

const PackedWeight& QuantizedWeight::packed(PackFormat format) const {
  const PackedWeight* current = current_.load(std::memory_order_acquire);
  if (cpu::same_format(current->format(), format)) return *current;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& p : packed_) {
    if (cpu::same_format(p->format(), format)) {
      current_.store(p.get(), std::memory_order_release);
      return *p;
    }
  }
  std::vector<int8_t> plain(shape_.elements());
  packed_.front()->unpack(plain.data());
  packed_.push_back(PackedWeight::pack(plain.data(), shape_, format));
  current_.store(packed_.back().get(), std::memory_order_release);
  return *packed_.back();
}

void QuantizedWeight::unpack(int8_t* weights) const {
  if (depthwise_) {
    depthwise_->unpack(weights);
  } else {
    current_.load(std::memory_order_acquire)->unpack(weights);
  }
}

int64_t QuantizedWeight::packed_bytes() const {
  return depthwise_ ? depthwise_->bytes() : current_.load(std::memory_order_acquire)->bytes();
}

std::shared_ptr<const ChannelParams> QuantizedWeight::channel_params(QParams input,
                                                                     const OutputSpec& output,
                                                                     int32_t offset) const {
  if (auto hit = cached_.load(std::memory_order_acquire);
      hit && same(hit->input, input) && same_arrays(hit->output, output) && hit->offset == offset) {
    return hit->params;
  }
  const int64_t padded = round_up(channels(), kChannelPad);
  auto result = std::make_shared<ChannelParams>();
  result->acc_init = AlignedBuffer::zeroed(padded * sizeof(int32_t));
  result->mult = AlignedBuffer::zeroed(padded * sizeof(float));
  result->bias = AlignedBuffer::zeroed(padded * sizeof(float));
  const bool real_output = output.kind == OutKind::kF32 || output.kind == OutKind::kI32;
  for (int32_t c = 0; c < channels(); ++c) {
    const uint32_t za = static_cast<uint32_t>(input.zero_point + offset);
    result->acc_init.as<int32_t>()[c] =
        static_cast<int32_t>(0u - za * static_cast<uint32_t>(col_sum()[c]));
    const float aw = checked(input.scale * params_.scale[c], "input scale * weight scale");
    const float bias = params_.bias.empty() ? 0.0f : params_.bias[c];
    result->mult.as<float>()[c] = real_output ? aw : checked(aw / output.out.scale, "scale ratio");
    result->bias.as<float>()[c] =
        real_output || bias == 0.0f ? bias : checked(bias / aw, "bias / (scale product)");
  }
  cached_.store(std::make_shared<const CachedParams>(CachedParams{input, output, offset, result}),
                std::memory_order_release);
  return result;
}

Epilogue make_epilogue(const QuantizedWeight& weight, const ChannelParams& params,
                       const OutputSpec& output) {
  Epilogue e{};
  e.acc_init = params.acc_init.as<int32_t>();
  e.mult = params.mult.as<float>();
  e.bias = params.bias.as<float>();
  e.col_sum = weight.col_sum();
  const float inf = std::numeric_limits<float>::infinity();
  switch (output.kind) {
    case OutKind::kU8:
    case OutKind::kS8: {
      const int32_t qmin = output.kind == OutKind::kU8 ? 0 : -128;
      e.out_zero = output.out.zero_point;
      e.lo = static_cast<float>(output.relu ? 0 : qmin - e.out_zero);
      e.hi = static_cast<float>(qmin + 255 - e.out_zero);
      break;
    }
    case OutKind::kI32:
    case OutKind::kF32:
      e.lo = output.relu ? 0.0f : -inf;
      e.hi = inf;
      break;
  }
  return e;
}

}  // namespace octavo
