#include "ops/gemm_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "parallel/parallel.h"

namespace octavo {
namespace {

// Rows of A that a task keeps in the L2 cache while the panels pass by.
constexpr int64_t kBlockBytes = 256 * 1024;
// Kernels that prepare A widen each panel once for a block of rows, which is worth more than what
// larger blocks cost in the cache: 128 rows of 3072 bytes in one block run 1.1x as fast as in four.
// However deep the layer, no task takes more.
constexpr int64_t kScratchBytes = 900 * 1024;

int64_t rows_per_block(const GemmCall& call, int64_t rows, int64_t row_bytes) {
  const int64_t prepared = prepared_bytes(call, 1), step = call.kernel->m_step;
  const int64_t fitting = prepared ? kScratchBytes / (prepared + row_bytes)
                                   : std::min(kBlockBytes / call.weight->shape().k,
                                              kScratchBytes / std::max<int64_t>(row_bytes, 1));
  const int64_t most = std::max<int64_t>(1, std::max(fitting / step * step, fitting % step));
  // Equal blocks, so that the last one is not a sliver, and as many for each thread.
  int64_t blocks = ceil_div(rows, most);
  const int64_t for_threads = round_up(blocks, max_threads());
  if (blocks > 1 && rows >= 2 * step * for_threads) blocks = for_threads;
  const int64_t equal = ceil_div(rows, blocks);
  return std::min(most, round_up(equal, step));
}

}  // namespace

int32_t GemmPlan::row_count(int64_t task) const {
  return static_cast<int32_t>(std::min(block_rows, rows - first_row(task)));
}

PanelRange GemmPlan::panel_range(int64_t task) const {
  const int32_t begin = static_cast<int32_t>(task % panel_blocks) * panel_block;
  const int32_t group = static_cast<int32_t>(task / panel_blocks / row_blocks);
  return {group, begin, std::min(begin + panel_block, panels)};
}

GemmPlan plan_gemm(const GemmCall& call, int64_t rows, int64_t row_bytes) {
  if (rows > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("input: " + std::to_string(rows) +
                                " rows are more than one call takes (2^31 - 1)");
  }
  const WeightShape& shape = call.weight->shape();
  GemmPlan plan{};
  plan.rows = rows;
  plan.groups = shape.groups;
  plan.panels = call.packed->panels();
  plan.cost = rows * shape.elements();
  plan.block_rows = rows_per_block(call, rows, row_bytes);
  plan.row_blocks = ceil_div(rows, plan.block_rows);
  plan.panel_block = panels_per_task(*call.packed, plan.row_blocks * plan.groups, plan.cost);
  plan.panel_blocks = ceil_div(plan.panels, plan.panel_block);
  return plan;
}

}  // namespace octavo
