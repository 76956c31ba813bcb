// How a matrix product is cut into tasks: blocks of rows times blocks of panels.
#pragma once

#include "ops/row_runs.h"

namespace octavo {

struct GemmPlan {
  int64_t rows, block_rows, row_blocks, panel_blocks;
  int32_t groups, panels, panel_block;
  int64_t cost;  // multiply-accumulates, as parallel_for() wants it

  int64_t tasks() const { return groups * row_blocks * panel_blocks; }

  int64_t first_row(int64_t task) const { return task / panel_blocks % row_blocks * block_rows; }
  int32_t row_count(int64_t task) const;
  PanelRange panel_range(int64_t task) const;
};

// `row_bytes` is what a task keeps in scratch for each row beside what kernels prepare. Throws
// std::invalid_argument for more rows than int32 counts.
GemmPlan plan_gemm(const GemmCall& call, int64_t rows, int64_t row_bytes);

}  // namespace octavo
