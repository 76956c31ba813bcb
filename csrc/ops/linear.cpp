#include "ops/linear.h"

#include <stdexcept>
#include <string>

#include "ops/gemm_plan.h"
#include "parallel/parallel.h"

namespace octavo {
void gemm(const QuantizedWeight& weight, const MatrixView& x, QParams input,
          const OutputSpec& output, const Residual& residual, void* out, ptrdiff_t out_stride) {
  GemmCall call = prepare_call(weight, x.is_signed, input, output, x.rows, out, out_stride);
  add_residual(call.epilogue, residual, output);
  if (x.rows == 0) return;
  const GemmPlan plan = plan_gemm(call, x.rows, 0);
  const int32_t k = weight.shape().k;
  const ptrdiff_t origin = 0;
  parallel_for(plan.tasks(), plan.cost, [&](int64_t task) {
    const PanelRange panels = plan.panel_range(task);
    RowRun run{};
    run.first = plan.first_row(task);
    run.rows = plan.row_count(task);
    run.a = static_cast<const uint8_t*>(x.data) + run.first * x.stride + int64_t{panels.group} * k;
    run.a_stride = x.stride;
    run.tap = &origin;
    run.taps = 1;
    run.k = k;
    const KernelScope scope(*call.set);
    run_rows(call, panels, &run, 1, nullptr, thread_scratch(run_scratch_bytes(call, run.rows)));
  });
}

void linear(const QuantizedWeight& weight, const MatrixView& x, QParams input,
            const OutputSpec& output, void* out, ptrdiff_t out_stride) {
  if (x.columns != weight.shape().k) {
    throw std::invalid_argument("input: expected " + std::to_string(weight.shape().k) +
                                " features, got " + std::to_string(x.columns));
  }
  gemm(weight, x, input, output, Residual{}, out, out_stride);
}

}  // namespace octavo
