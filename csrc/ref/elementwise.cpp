#include <cmath>

#include "ref/reference.h"

namespace octavo::ref {

int32_t round_and_clamp(float x, int32_t lo, int32_t hi) {
  const float rounded = std::nearbyint(x);
  if (!(rounded > static_cast<float>(lo))) return lo;
  if (rounded >= static_cast<float>(hi)) return hi;
  return static_cast<int32_t>(rounded);
}

// In double, because zero + rounded must be exact for a 32-bit clamp too.
int32_t quantize(float x, Affine qparams, int32_t lo, int32_t hi) {
  const float inv_scale = 1.0f / qparams.scale;
  const float product = x * inv_scale;
  const double steps = std::isnan(product) ? 0.0 : static_cast<double>(std::nearbyint(product));
  const double q = steps + qparams.zero_point;
  return static_cast<int32_t>(q < lo ? lo : q > hi ? hi : q);
}

float dequantize(int32_t q, Affine qparams) {
  const int64_t steps = int64_t{q} - qparams.zero_point;
  return static_cast<float>(steps) * qparams.scale;
}

int32_t scaled(float x, int32_t out_zero, float lo, float hi) {
  return out_zero + round_and_clamp(x, static_cast<int32_t>(lo), static_cast<int32_t>(hi));
}

int32_t requantize(int32_t q, Affine input, Affine output, int32_t lo, int32_t hi) {
  const float scale = input.scale / output.scale;
  const float x = static_cast<float>(q - input.zero_point) * scale;
  return output.zero_point + round_and_clamp(x, lo - output.zero_point, hi - output.zero_point);
}

int32_t add(int32_t a, Affine a_params, int32_t b, Affine b_params, Affine output, int32_t lo,
            int32_t hi) {
  const float a_scale = a_params.scale / output.scale;
  const float b_scale = b_params.scale / output.scale;
  const float x = static_cast<float>(a - a_params.zero_point) * a_scale;
  const float y = static_cast<float>(b - b_params.zero_point) * b_scale;
  return output.zero_point + round_and_clamp(x + y, lo - output.zero_point, hi - output.zero_point);
}

int32_t mul(int32_t a, Affine a_params, int32_t b, Affine b_params, Affine output, int32_t lo,
            int32_t hi) {
  const float product_scale = a_params.scale * b_params.scale;
  const float scale = product_scale / output.scale;
  const float x = static_cast<float>((a - a_params.zero_point) * (b - b_params.zero_point)) * scale;
  return output.zero_point + round_and_clamp(x, lo - output.zero_point, hi - output.zero_point);
}

void quantize_kernel(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                     int32_t hi, bool is_signed, void* q) {
  for (int64_t i = 0; i < size; ++i) {
    const float product = x[i] * inv_scale;
    const double steps = std::isnan(product) ? 0.0 : static_cast<double>(std::nearbyint(product));
    const double value = steps + zero;
    store_byte(q, i, is_signed, static_cast<int32_t>(value < lo ? lo : value > hi ? hi : value));
  }
}

void add_kernel(const BinaryArgs& args, bool is_signed) {
  const Bytes a{args.a, is_signed}, b{args.b, is_signed};
  for (int64_t i = 0; i < args.size; ++i) {
    const float x = static_cast<float>(a.at(i) - args.a_zero) * args.a_scale;
    const float y = static_cast<float>(b.at(i) - args.b_zero) * args.b_scale;
    store_byte(args.out, i, is_signed, scaled(x + y, args.out_zero, args.lo, args.hi));
  }
}

void mul_kernel(const BinaryArgs& args, bool is_signed) {
  const Bytes a{args.a, is_signed}, b{args.b, is_signed};
  for (int64_t i = 0; i < args.size; ++i) {
    const int32_t product = (a.at(i) - args.a_zero) * (b.at(i) - args.b_zero);
    const float x = static_cast<float>(product) * args.a_scale;
    store_byte(args.out, i, is_signed, scaled(x, args.out_zero, args.lo, args.hi));
  }
}

void requantize_kernel(const UnaryArgs& args, bool in_signed, bool out_signed) {
  const Bytes in{args.in, in_signed};
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t i = 0; i < args.size; ++i) {
      const int32_t steps = in.at(r * args.in_stride + i) - args.in_zero;
      const float x = static_cast<float>(steps) * args.scale;
      store_byte(args.out, r * args.out_stride + i, out_signed,
                 scaled(x, args.out_zero, args.lo, args.hi));
    }
  }
}

}  // namespace octavo::ref
