#include "ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "ops/row_runs.h"
#include "ops/unary_table.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

constexpr int64_t kChunk = 1 << 15;  // elements per task

template <typename Body>
void for_chunks(int64_t size, Body body) {
  parallel_for(ceil_div(size, kChunk), size, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    body(begin, std::min(kChunk, size - begin));
  });
}

const ElementwiseFns& fns() {
  const KernelSet& set = cpu::kernels();
  return set.elementwise;
}

const uint8_t* bytes(const void* p, int64_t offset) {
  return static_cast<const uint8_t*>(p) + offset;
}
uint8_t* bytes(void* p, int64_t offset) { return static_cast<uint8_t*>(p) + offset; }

IntRange type_range(bool is_signed) { return is_signed ? IntRange{-128, 127} : IntRange{0, 255}; }

float reciprocal(float scale) {
  const float inverse = 1.0f / scale;
  if (!(scale > 0.0f) || !std::isfinite(scale) || !std::isfinite(inverse)) {
    throw std::invalid_argument(
        "scale is " + std::to_string(scale) +
        "; it must be positive and finite, and so must its reciprocal in float32");
  }
  return inverse;
}

float ratio(float a, float b, const char* what) {
  const float r = a / b;
  if (std::isfinite(r)) return r;
  throw std::invalid_argument(std::string(what) +
                              ": the ratio of the scales is not a finite float32");
}

// qint32 has no vector kernel: it is a container for biases and accumulators, not a hot path.
void quantize_i32(const float* x, int64_t size, float inv_scale, int32_t zero, IntRange range,
                  int32_t* q) {
  for (int64_t i = 0; i < size; ++i) {
    const float v = x[i] * inv_scale;
    if (v != v) {
      q[i] = std::clamp(zero, range.lo, range.hi);
      continue;
    }
    // Every float beyond 2^33 saturates, and below it the double sum is exact.
    const double steps = std::nearbyint(static_cast<double>(std::clamp(v, -0x1p33f, 0x1p33f)));
    q[i] = static_cast<int32_t>(
        std::clamp(steps + zero, static_cast<double>(range.lo), static_cast<double>(range.hi)));
  }
}

void quantize_run(const float* x, int64_t size, float inv_scale, int32_t zero, IntRange range,
                  Storage storage, void* q, int64_t offset) {
  if (storage == Storage::kI32) {
    quantize_i32(x + offset, size, inv_scale, zero, range, static_cast<int32_t*>(q) + offset);
  } else {
    fns().quantize[storage == Storage::kS8](x + offset, size, inv_scale, zero, range.lo, range.hi,
                                            bytes(q, offset));
  }
}

void dequantize_run(const void* q, int64_t size, QParams qparams, Storage storage, float* x,
                    int64_t offset) {
  if (storage == Storage::kI32) {
    const int32_t* in = static_cast<const int32_t*>(q) + offset;
    for (int64_t i = 0; i < size; ++i) {
      x[offset + i] =
          static_cast<float>(static_cast<int64_t>(in[i]) - qparams.zero_point) * qparams.scale;
    }
  } else {
    fns().dequantize[storage == Storage::kS8](bytes(q, offset), size, qparams.scale,
                                              qparams.zero_point, x + offset);
  }
}

BinaryArgs binary_args(QParams a, QParams b, bool is_signed, QParams output, bool relu) {
  check_qparams("first operand", a, is_signed);
  check_qparams("second operand", b, is_signed);
  check_qparams("output", output, is_signed);
  const IntRange range = type_range(is_signed);
  BinaryArgs args{};
  args.a_zero = a.zero_point;
  args.b_zero = b.zero_point;
  args.out_zero = output.zero_point;
  args.lo = static_cast<float>(relu ? 0 : range.lo - output.zero_point);
  args.hi = static_cast<float>(range.hi - output.zero_point);
  return args;
}

void run_binary(void (*fn)(const BinaryArgs*), const BinaryArgs& all, const void* a, const void* b,
                int64_t size, void* out) {
  for_chunks(size, [&](int64_t begin, int64_t count) {
    BinaryArgs args = all;
    args.a = bytes(a, begin);
    args.b = bytes(b, begin);
    args.out = bytes(out, begin);
    args.size = count;
    fn(&args);
  });
}

}  // namespace

void quantize(const float* x, int64_t size, QParams qparams, IntRange range, Storage storage,
              void* q) {
  const float inverse = reciprocal(qparams.scale);
  for_chunks(size, [&](int64_t begin, int64_t count) {
    quantize_run(x, count, inverse, qparams.zero_point, range, storage, q, begin);
  });
}

void quantize_per_channel(const float* x, int64_t outer, int64_t channels, int64_t inner,
                          const float* scales, const int32_t* zero_points, IntRange range,
                          Storage storage, void* q) {
  for (int64_t c = 0; c < channels; ++c) reciprocal(scales[c]);
  parallel_for(outer * channels, outer * channels * inner, [&](int64_t task) {
    const int64_t c = task % channels;
    quantize_run(x, inner, 1.0f / scales[c], zero_points[c], range, storage, q, task * inner);
  });
}

void dequantize(const void* q, int64_t size, QParams qparams, Storage storage, float* x) {
  for_chunks(size, [&](int64_t begin, int64_t count) {
    dequantize_run(q, count, qparams, storage, x, begin);
  });
}

void dequantize_per_channel(const void* q, int64_t outer, int64_t channels, int64_t inner,
                            const float* scales, const int32_t* zero_points, Storage storage,
                            float* x) {
  parallel_for(outer * channels, outer * channels * inner, [&](int64_t task) {
    const int64_t c = task % channels;
    dequantize_run(q, inner, {scales[c], zero_points[c]}, storage, x, task * inner);
  });
}

void requantize(const void* q, int64_t size, QParams input, bool input_signed, QParams output,
                bool output_signed, IntRange range, void* out) {
  check_qparams("input", input, input_signed);
  check_qparams("output", output, output_signed);
  UnaryArgs all{};
  all.scale = ratio(input.scale, output.scale, "requantize");
  all.in_zero = input.zero_point;
  all.out_zero = output.zero_point;
  all.lo = static_cast<float>(range.lo - output.zero_point);
  all.hi = static_cast<float>(range.hi - output.zero_point);
  const auto fn = fns().requantize[input_signed][output_signed];
  const auto run = [&](const void* from, int64_t count, void* to) {
    UnaryArgs args = all;
    args.in = from;
    args.out = to;
    args.size = count;
    fn(&args);
  };
  if (size >= active_lookup().worth) {
    uint8_t table[256];
    run(kAllBytes.data(), 256, table);
    return lookup(table, q, size, out);
  }
  for_chunks(size,
             [&](int64_t begin, int64_t count) { run(bytes(q, begin), count, bytes(out, begin)); });
}

void add(const void* a, QParams a_params, const void* b, QParams b_params, int64_t size,
         bool is_signed, QParams output, bool relu, void* out) {
  BinaryArgs args = binary_args(a_params, b_params, is_signed, output, relu);
  args.a_scale = ratio(a_params.scale, output.scale, "add");
  args.b_scale = ratio(b_params.scale, output.scale, "add");
  run_binary(fns().add[is_signed], args, a, b, size, out);
}

void mul(const void* a, QParams a_params, const void* b, QParams b_params, int64_t size,
         bool is_signed, QParams output, bool relu, void* out) {
  BinaryArgs args = binary_args(a_params, b_params, is_signed, output, relu);
  args.a_scale = ratio(a_params.scale * b_params.scale, output.scale, "mul");
  run_binary(fns().mul[is_signed], args, a, b, size, out);
}

void clamp(const void* q, int64_t size, bool is_signed, IntRange range, void* out) {
  const auto fn = fns().clamp[is_signed];
  for_chunks(size, [&](int64_t begin, int64_t count) {
    fn(bytes(q, begin), count, range.lo, range.hi, bytes(out, begin));
  });
}

}  // namespace octavo
