// Data for one GEMM tile in guarded memory, with the reference's answer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "guard_buffer.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {

enum class Values {
  kRandom,   // all bytes, ends more often
  kCorners,  // each element one of the two ends of its type
};

// A [rows][taps][k] and W [columns][taps][k] with their exact sums.
class GemmProblem {
 public:
  GemmProblem(Random& random, int32_t rows, int32_t columns, int32_t taps, int32_t k, bool a_signed,
              Values values);

  int32_t rows, columns, taps, k;
  bool a_signed;
  bool isolated;  // a guard page between any two rows of A
  std::vector<int8_t> w;
  std::vector<int64_t> raw;      // [rows][columns] sum a * w
  std::vector<int64_t> row_sum;  // [rows] sum a
  std::vector<int64_t> col_sum;  // [columns] sum w

  // Lays A out against guard pages. Row r starts at row(r); tap offsets are tap().
  void place(Side side);
  const uint8_t* row(int32_t r) const { return a_ + r * a_stride_; }
  ptrdiff_t a_stride() const { return a_stride_; }
  const ptrdiff_t* tap() const { return tap_; }

 private:
  void lay_out(Random& random);
  void fill(Random& random, Values values);

  std::vector<uint8_t> memory_;  // dense A as the taps see it, when not isolated: overlapping rows
  std::vector<ptrdiff_t> tap_offsets_;
  ptrdiff_t a_stride_ = 0, origin_ = 0;
  const uint8_t* a_ = nullptr;
  const ptrdiff_t* tap_ = nullptr;
};

// The epilogue of a tile: arrays in guarded memory for the kernel, plain ones for the reference.
struct EpilogueChoice {
  bool row_scale, row_zero, w_zero;
  int32_t residual;   // 0: none, 1: uint8, 2: int8
  bool extreme_rows;  // row scales of NaN, infinity and zero among the others
  int32_t n0, m0;     // where the tile sits
  int32_t a_zero;
  Side side;
  std::string describe() const;
};

// Cycles through all combinations as `index` counts up.
EpilogueChoice choose_epilogue(Random& random, uint32_t index, bool a_signed);

class EpilogueCase {
 public:
  // For the first n columns of the problem. Row r of the problem is row choice.m0 + r of the
  // arrays.
  // a_offset: GemmKernel::a_offset.
  EpilogueCase(Random& random, const GemmProblem& problem, int32_t n, const int32_t (&a_offset)[2],
               const EpilogueChoice& choice);

  // Clamp and zero point for an output kind; may be called again for the next one.
  void set_kind(Random& random, OutKind kind);

  const Epilogue& kernel() const { return kernel_; }
  const Epilogue& reference() const { return reference_; }

  // How many outputs of the first `rows` rows hit the lower clamp, the upper clamp and an exact
  // tie.
  struct Hits {
    int64_t low = 0, high = 0, tie = 0;
  };
  void count_hits(const GemmProblem& problem, Hits& hits) const;

 private:
  int32_t accumulator(const GemmProblem& problem, int32_t r, int32_t c) const;
  void choose_scales(Random& random, const GemmProblem& problem);

  int32_t n_;
  EpilogueChoice choice_;
  Epilogue kernel_{}, reference_{};
  std::vector<int32_t> reference_acc_init_;
  const void* residual_ = nullptr;
};

// A kernel's packed panel, the tile's first column at `column` of the panel, in guarded memory with
// the bytes behind it that PackedWeight promises.
struct PanelCase {
  PanelCase(Random& random, const GemmProblem& problem, PackFormat format, int32_t column,
            int32_t n, Side side);
  const int8_t* b;
  ptrdiff_t b_stride;
};

// Whether n outputs are equal to the bit; any NaN equals any other.
bool same_values(OutKind kind, const void* got, const void* expected, int32_t n);

}  // namespace octavo::testing
