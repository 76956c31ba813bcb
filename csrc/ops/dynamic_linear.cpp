#include "ops/dynamic_linear.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/gemm_plan.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

constexpr float kSmallestScale = 6.1e-5f;

OutKind out_kind(FloatType type) {
  switch (type) {
    case FloatType::kF32:
      return OutKind::kF32;
    case FloatType::kBF16:
      return OutKind::kBF16;
    case FloatType::kF16:
      return OutKind::kF16;
  }
  throw std::logic_error("unknown float type");
}

int64_t element_bytes(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }

// Row `r` of x in float32: in place, or converted into `buffer`.
const float* float_row(const FloatView& x, int64_t r, float* buffer, const ElementwiseFns& fns) {
  const char* row = static_cast<const char*>(x.data) + r * x.stride * element_bytes(x.type);
  if (x.type == FloatType::kF32) return reinterpret_cast<const float*>(row);
  fns.to_float[x.type == FloatType::kF16](row, x.columns, buffer);
  return buffer;
}

// What quantizing a row needs. Rows that are not finite have a scale of NaN, which their outputs
// take on; the bytes are zeros.
struct RowQuantizer {
  float scale, inverse;
  int32_t zero_point, hi;
};

RowQuantizer row_quantizer(FloatRange range, const DynamicSpec& spec) {
  const int32_t qmax = spec.reduce_range ? 127 : 255;
  if (!std::isfinite(range.lo) || !std::isfinite(range.hi)) {
    return {std::numeric_limits<float>::quiet_NaN(), 0.0f, 0, qmax};
  }
  const QParams q = choose_qparams(range.lo, range.hi, spec.reduce_range, spec.per_tensor);
  return {q.scale, 1.0f / q.scale, q.zero_point, qmax};
}

// The range of all rows. Threads take parts; the parts' ranges are joined in order, though any
// order gives the same.
FloatRange tensor_range(const FloatView& x, const ElementwiseFns& fns) {
  constexpr int64_t kParts = 64;
  std::array<FloatRange, kParts> ranges{};
  const int64_t part = ceil_div(x.rows, kParts);
  parallel_for(ceil_div(x.rows, part), x.rows * x.columns, [&](int64_t task) {
    float* buffer = reinterpret_cast<float*>(thread_scratch(x.columns * sizeof(float)));
    for (int64_t r = task * part; r < std::min((task + 1) * part, x.rows); ++r)
      fns.range(float_row(x, r, buffer, fns), x.columns, &ranges[task]);
  });
  FloatRange all{};
  for (const FloatRange& range : ranges) {
    if (std::isnan(range.lo)) return range;
    all.lo = std::min(all.lo, range.lo);
    all.hi = std::max(all.hi, range.hi);
  }
  return all;
}

// A task's scratch: quantized rows, their qparams, one row of float32, and what run_rows() wants.
struct TaskScratch {
  uint8_t* rows;
  float* scale;
  int32_t* zero_point;
  float* buffer;
  uint8_t* rest;

  static int64_t row_bytes(int64_t k) { return round_up(k, kAlignment) + 8; }
  static size_t fixed_bytes(int64_t k) { return round_up(k * sizeof(float), kAlignment); }

  TaskScratch(const GemmCall& call, int64_t count, int64_t k) {
    const size_t params = round_up(count * sizeof(float), kAlignment);
    const size_t quantized = count * round_up(k, kAlignment);
    rows = thread_scratch(quantized + 2 * params + fixed_bytes(k) + run_scratch_bytes(call, count));
    scale = reinterpret_cast<float*>(rows + quantized);
    zero_point = reinterpret_cast<int32_t*>(rows + quantized + params);
    buffer = reinterpret_cast<float*>(rows + quantized + 2 * params);
    rest = rows + quantized + 2 * params + fixed_bytes(k);
  }
};

}  // namespace

QParams choose_qparams(float lo, float hi, bool reduce_range, bool limit_scale) {
  const int32_t qmax = reduce_range ? 127 : 255;
  double min = std::min(lo, 0.0f), max = std::max(hi, 0.0f);
  float scale = static_cast<float>((max - min) / qmax);
  if (scale == 0.0f || !std::isfinite(1.0f / scale)) scale = 0.1f;
  if (limit_scale && scale < kSmallestScale) {
    if (min == 0.0) {
      max = double{kSmallestScale} * qmax;
    } else if (max == 0.0) {
      min = -double{kSmallestScale} * qmax;
    } else {
      const double amplifier = double{kSmallestScale} / scale;
      min *= amplifier;
      max *= amplifier;
    }
    scale = kSmallestScale;
  }
  const double from_min = -min / scale, from_max = qmax - max / scale;
  const double error_of_min = std::abs(min / scale), error_of_max = qmax + std::abs(max / scale);
  const double best = error_of_min < error_of_max ? from_min : from_max;
  const double nearest = std::nearbyint(std::clamp(best, 0.0, static_cast<double>(qmax)));
  return {scale, static_cast<int32_t>(nearest)};
}

void dynamic_linear(const QuantizedWeight& weight, const FloatView& x, const DynamicSpec& spec,
                    void* out, ptrdiff_t out_stride) {
  const int32_t k = weight.shape().k;
  if (x.columns != k) {
    throw std::invalid_argument("input: expected " + std::to_string(k) + " features, got " +
                                std::to_string(x.columns));
  }
  // Scale 1 and zero point 0: both come row by row.
  const OutKind kind = spec.float32_out ? OutKind::kF32 : out_kind(x.type);
  const OutputSpec output{kind, {}, spec.relu, {}, spec.gelu};
  const GemmCall call = prepare_call(weight, false, QParams{}, output, x.rows, out, out_stride);
  if (x.rows == 0) return;
  const ElementwiseFns& fns = call.set->elementwise;
  RowQuantizer shared{};
  if (spec.per_tensor) shared = row_quantizer(tensor_range(x, fns), spec);
  const GemmPlan plan = plan_gemm(call, x.rows, TaskScratch::row_bytes(k));
  const ptrdiff_t origin = 0, pitch = round_up(k, kAlignment);
  // Tasks that share rows but not panels quantize the rows again, each for itself: that costs as
  // much as a handful of columns, and a task takes hundreds.
  parallel_for(plan.tasks(), plan.cost, [&](int64_t task) {
    const int64_t first = plan.first_row(task);
    const int32_t rows = plan.row_count(task);
    const TaskScratch scratch(call, rows, k);
    for (int32_t r = 0; r < rows; ++r) {
      const float* row = float_row(x, first + r, scratch.buffer, fns);
      RowQuantizer q = shared;
      if (!spec.per_tensor) {
        FloatRange range{};
        fns.range(row, k, &range);
        q = row_quantizer(range, spec);
      }
      fns.quantize[0](row, k, q.inverse, q.zero_point, 0, q.hi, scratch.rows + r * pitch);
      scratch.scale[r] = q.scale;
      scratch.zero_point[r] = q.zero_point;
    }
    const RowRun run{scratch.rows, pitch, &origin, 1, k, rows, first};
    const RowParams params{scratch.scale, scratch.zero_point};
    const KernelScope scope(*call.set);
    run_rows(call, plan.panel_range(task), &run, 1, &params, scratch.rest);
  });
}

}  // namespace octavo
