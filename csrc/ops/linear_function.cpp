#include "ops/linear_function.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>

#include "ops/gemm_plan.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Floats that are computed and rounded together, so that they stay in the L1 cache in between.
constexpr int64_t kRun = 1024;
constexpr std::array<float, kRun> kZeros{};
// A task's floats stay in its scratch; they are of at most so many columns at a time.
constexpr int32_t kPassColumns = 1024;

struct Conversion {
  const KernelSet* set;
  FloatFunction function;
  float slope, inverse_scale;
  int32_t zero_point;
  bool is_signed;

  // q = quantize(f(x)); x is overwritten.
  void operator()(float* x, int64_t size, uint8_t* q) const {
    const int32_t lo = is_signed ? -128 : 0;
    for (int64_t begin = 0; begin < size; begin += kRun) {
      const int64_t count = std::min(kRun, size - begin);
      apply(x + begin, count);
      set->elementwise.quantize[is_signed](x + begin, count, inverse_scale, zero_point, lo,
                                           lo + 255, q + begin);
    }
  }

 private:
  void apply(float* x, int64_t count) const {
    if (function == FloatFunction::kTanh) {  // the cell h = tanh(input + hidden)
      const CellArgs args{x, kZeros.data(), nullptr, x, static_cast<int32_t>(count)};
      set->elementwise.cell[static_cast<int>(CellKind::kRnnTanh)](&args);
      return;
    }
    const float factor = slope;
    for (int64_t i = 0; i < count; ++i) {
      // A sum of which one term is 0: no choice that gcc makes a branch of.
      const float above = x[i] > 0.0f ? x[i] : 0.0f, below = x[i] < 0.0f ? x[i] : 0.0f;
      const float scaled = below * factor;
      x[i] = above + scaled;
    }
  }
};

// The same call with another place for its output. The channel parameters stay `call`'s.
GemmCall writing_to(const GemmCall& call, float* out, ptrdiff_t out_stride) {
  GemmCall other{};
  other.set = call.set;
  other.weight = call.weight;
  other.packed = call.packed;
  other.kernel = call.kernel;
  other.epilogue = call.epilogue;
  other.kind = call.kind;
  other.a_signed = call.a_signed;
  other.input_zero = call.input_zero;
  other.out = out;
  other.out_stride = out_stride;
  return other;
}

Conversion conversion(FloatFunction function, float slope, QParams output, bool is_signed) {
  check_qparams("output", output, is_signed);
  const float inverse = 1.0f / output.scale;
  if (!std::isfinite(inverse)) {
    throw std::invalid_argument("output scale is " + std::to_string(output.scale) +
                                "; its reciprocal must be finite in float32");
  }
  if (!std::isfinite(slope)) {
    throw std::invalid_argument("negative_slope is " + std::to_string(slope) +
                                "; it must be finite in float32");
  }
  return {&cpu::kernels(), function, slope, inverse, output.zero_point, is_signed};
}

}  // namespace

void linear_function(const QuantizedWeight& weight, const MatrixView& x, QParams input,
                     FloatFunction function, float slope, QParams output, bool out_signed,
                     void* out, ptrdiff_t out_stride) {
  const int32_t n = weight.shape().n, k = weight.shape().k;
  if (x.columns != k) {
    throw std::invalid_argument("input: expected " + std::to_string(k) + " features, got " +
                                std::to_string(x.columns));
  }
  const Conversion convert = conversion(function, slope, output, out_signed);
  const GemmCall call =
      prepare_call(weight, x.is_signed, input, OutputSpec{OutKind::kF32, {}}, x.rows, nullptr, 0);
  if (x.rows == 0) return;
  const int32_t nr = call.packed->format().nr, pass_panels = std::max(1, kPassColumns / nr);
  const int64_t pass_columns = std::min<int64_t>(n, int64_t{pass_panels} * nr);
  const ptrdiff_t pitch = pass_columns * ptrdiff_t{sizeof(float)}, origin = 0;
  const GemmPlan plan = plan_gemm(call, x.rows, pitch);
  parallel_for(plan.tasks(), plan.cost, [&](int64_t task) {
    const PanelRange panels = plan.panel_range(task);
    const int64_t first = plan.first_row(task);
    const int32_t rows = plan.row_count(task);
    const size_t float_bytes = round_up(rows * pitch, kAlignment);
    uint8_t* scratch = thread_scratch(float_bytes + run_scratch_bytes(call, rows));
    float* floats = reinterpret_cast<float*>(scratch);
    const uint8_t* a = static_cast<const uint8_t*>(x.data) + first * x.stride;
    const RowRun run{a, x.stride, &origin, 1, k, rows, 0};
    for (int32_t p = panels.begin; p < panels.end; p += pass_panels) {
      const PanelRange pass{panels.group, p, std::min(p + pass_panels, panels.end)};
      const int64_t column = int64_t{p} * nr;
      const int64_t count = std::min<int64_t>(int64_t{pass.end} * nr, n) - column;
      {
        const KernelScope scope(*call.set);
        run_rows(writing_to(call, floats - column, pitch), pass, &run, 1, nullptr,
                 scratch + float_bytes);
      }
      uint8_t* to = static_cast<uint8_t*>(out) + first * out_stride + column;
      for (int32_t r = 0; r < rows; ++r)
        convert(floats + r * pass_columns, count, to + r * out_stride);
    }
  });
}

}  // namespace octavo
