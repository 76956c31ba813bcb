#include "ops/linear.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Rows of A that a task keeps in the L2 cache while the panels pass by.
constexpr int64_t kBlockBytes = 256 * 1024;
// Kernels that prepare A widen each panel once for a block of rows, which is worth more than what
// larger blocks cost in the cache: 128 rows of 3072 bytes in one block run 1.1x as fast as in four.
// However deep the layer, no task takes more.
constexpr int64_t kPreparedBytes = 900 * 1024;

int64_t rows_per_block(const GemmCall& call, int64_t rows, int64_t k) {
  const int64_t prepared = prepared_bytes(call, 1), step = call.kernel->m_step;
  const int64_t fitting = prepared ? kPreparedBytes / prepared : kBlockBytes / k;
  const int64_t whole_steps = std::max(fitting / step * step, std::min(fitting, step));
  // Equal blocks, so that the last one is not a sliver.
  const int64_t blocks = ceil_div(rows, std::max<int64_t>(1, whole_steps));
  return round_up(ceil_div(rows, blocks), std::min(step, std::max<int64_t>(1, whole_steps)));
}

}  // namespace

void gemm(const QuantizedWeight& weight, const MatrixView& x, QParams input,
          const OutputSpec& output, const Residual& residual, void* out, ptrdiff_t out_stride) {
  GemmCall call = prepare_call(weight, x.is_signed, input, output, x.rows, out, out_stride);
  add_residual(call.epilogue, residual, output);
  if (x.rows == 0) return;
  if (x.rows > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("input: " + std::to_string(x.rows) +
                                " rows are more than one call takes (2^31 - 1)");
  }
  const int32_t groups = weight.shape().groups;
  const int32_t k = weight.shape().k;
  const int64_t block = rows_per_block(call, x.rows, k);
  const int64_t row_blocks = ceil_div(x.rows, block);
  const int32_t panels = call.packed->panels();
  const int64_t cost = x.rows * k * int64_t{groups} * weight.shape().n;
  const int32_t panel_block = panels_per_task(panels, row_blocks * groups, cost);
  const int64_t panel_blocks = ceil_div(panels, panel_block);
  const ptrdiff_t origin = 0;
  parallel_for(groups * row_blocks * panel_blocks, cost, [&](int64_t task) {
    const int32_t p0 = static_cast<int32_t>(task % panel_blocks) * panel_block;
    const int64_t row0 = task / panel_blocks % row_blocks * block;
    const int32_t group = static_cast<int32_t>(task / panel_blocks / row_blocks);
    RowRun run{};
    run.rows = static_cast<int32_t>(std::min(block, x.rows - row0));
    run.a = static_cast<const uint8_t*>(x.data) + row0 * x.stride + int64_t{group} * k;
    run.a_stride = x.stride;
    run.tap = &origin;
    run.taps = 1;
    run.k = k;
    run.first = row0;
    const KernelScope scope(*call.set);
    run_rows(call, {group, p0, std::min(p0 + panel_block, panels)}, &run, 1,
             thread_scratch(run_scratch_bytes(call, run.rows)));
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
