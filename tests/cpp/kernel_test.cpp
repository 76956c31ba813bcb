// Every GEMM kernel of every ISA against the reference, to the bit, between guard pages.
#include <algorithm>
#include <cmath>
#include <set>

#include "abi/out_kind.h"
#include "gemm_case.h"
#include "pack/packed_weight.h"

namespace octavo::testing {
namespace {

struct TileCase final : CaseDescriber {
  const GemmKernel* kernel;
  const GemmProblem* problem;
  const EpilogueChoice* epilogue;
  OutKind kind;
  int32_t m, n, column;

  std::string describe() const override {
    return std::string(kernel->name) + (problem->a_signed ? " s8" : " u8") + "->" +
           kind_name(kind) + " m=" + std::to_string(m) + " n=" + std::to_string(n) +
           " k=" + std::to_string(problem->k) + " taps=" + std::to_string(problem->taps) +
           " column=" + std::to_string(column) + (problem->isolated ? " isolated rows " : " ") +
           epilogue->describe();
  }
};

GuardBuffer& out_memory() {
  static GuardBuffer once(size_t{1} << 18);
  return once;
}
GuardBuffer& scratch_memory() {
  static GuardBuffer once(size_t{1} << 20);
  return once;
}

// Prepares A where the kernel wants that, in guarded memory of its own, and runs the kernel.
void run_kernel(const GemmKernel& kernel, bool a_signed, GemmArgs args) {
  static GuardBuffer memory(size_t{1} << 23);
  if (kernel.prepare[a_signed]) {
    args.prepared_stride =
        prepared_row_bytes(kernel, ptrdiff_t{args.taps} * ceil_div(args.k, kernel.format.kr));
    args.prepared = memory.place(args.m * args.prepared_stride, Side::kEnd, kAlignment);
    kernel.prepare[a_signed](&args);
    ASSERT_TRUE(memory.margin_intact()) << kernel.name << ": prepare() wrote beside its rows";
    args.a = nullptr;  // all of A is in the prepared rows
  }
  kernel.fn[a_signed](&args);
}

// Row counts that together meet every way in which a kernel splits its rows.
std::vector<int32_t> row_counts(const GemmKernel& kernel, int32_t rows) {
  std::set<int32_t> m = {rows - 1, rows};
  for (int32_t i = 1; i <= std::max<int32_t>(2 * kernel.m_step + 1, 32); ++i) m.insert(i);
  std::erase_if(m, [rows](int32_t i) { return i < 1 || i > rows; });
  return {m.begin(), m.end()};
}

// Kernels of many rows rarely get all of them: past a few steps the rest are more of the same.
int32_t problem_rows(Random& random, const GemmKernel& kernel) {
  const int32_t few = std::min<int32_t>(kernel.mr, std::max<int32_t>(2 * kernel.m_step + 1, 12));
  return kernel.mr <= 32 || random.chance(40) ? kernel.mr : few;
}

// Runs the kernel on the first (guard before) or last (guard behind) m rows of the problem and
// checks what it wrote against `expected`, [problem.rows][n] dense, and that it wrote nothing else.
::testing::AssertionResult run_tile(Random& random, const TileCase& c, const PanelCase& panel,
                                    const EpilogueCase& epilogue,
                                    const std::vector<uint8_t>& expected) {
  const GemmProblem& p = *c.problem;
  const Side side = c.epilogue->side;
  const int32_t r0 = side == Side::kEnd ? p.rows - c.m : 0;
  const size_t element = kind_size(c.kind), width = c.n * element;
  const size_t stride = width + random.integer(0, 5) * element;
  const size_t out_bytes = (c.m - 1) * stride + width;
  uint8_t* out = out_memory().place(out_bytes, side, element);

  GemmArgs args{};
  args.a = p.row(r0);
  args.a_stride = p.a_stride();
  args.tap = p.tap();
  args.taps = p.taps;
  args.k = p.k;
  args.b = panel.b;
  args.b_stride = panel.b_stride;
  args.m = c.m;
  args.n = c.n;
  args.out = out;
  args.out_stride = static_cast<ptrdiff_t>(stride);
  args.kind = c.kind;
  args.epilogue = &epilogue.kernel();
  args.m0 = c.epilogue->m0 + r0;
  args.n0 = c.epilogue->n0;
  args.scratch =
      scratch_memory().place(round_up(c.kernel->scratch_bytes, kAlignment), Side::kEnd, kAlignment);
  const RunningCase running(&c);
  run_kernel(*c.kernel, p.a_signed, args);

  for (int32_t r = 0; r < c.m; ++r) {
    const uint8_t* want = expected.data() + (r0 + r) * width;
    if (!same_values(c.kind, out + r * stride, want, c.n)) {
      return ::testing::AssertionFailure() << c.describe() << " row " << r << ": "
                                           << first_difference(out + r * stride, want, width);
    }
    for (size_t i = width; r + 1 < c.m && i < stride; ++i) {
      if (out[r * stride + i] != GuardBuffer::kFill) {
        return ::testing::AssertionFailure()
               << c.describe() << ": wrote between rows " << r << " and " << r + 1;
      }
    }
  }
  if (!out_memory().margin_intact())
    return ::testing::AssertionFailure() << c.describe() << ": wrote beside the tile";
  return ::testing::AssertionSuccess();
}

std::vector<uint8_t> reference_tile(const GemmProblem& p, const EpilogueCase& epilogue,
                                    const EpilogueChoice& choice, OutKind kind, int32_t n) {
  const size_t width = n * kind_size(kind);
  std::vector<uint8_t> out(p.rows * width);
  for (int32_t r = 0; r < p.rows; ++r) {
    ref::store_tile(kind, p.raw.data() + size_t(r) * p.columns, 1, n, epilogue.reference(),
                    choice.m0 + r, choice.n0, out.data() + r * width,
                    static_cast<ptrdiff_t>(width));
  }
  return out;
}

// The hooks around every task that runs GEMM kernels.
class Task {
 public:
  explicit Task(const KernelSet& set) : set_(set) {
    if (set_.task_begin) set_.task_begin();
  }
  ~Task() {
    if (set_.task_end) set_.task_end();
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

 private:
  const KernelSet& set_;
};

std::vector<int32_t> depths(int32_t kr) {
  std::set<int32_t> k = {11, 13, 17,  19,  23,  29,  31,  37,  61,  63,  64,  65,
                         67, 97, 127, 128, 129, 131, 191, 255, 509, 513, 1024};
  for (int32_t i = 1; i <= 2 * kr + 1; ++i) k.insert(i);
  return {k.begin(), k.end()};
}

std::vector<int32_t> widths(int32_t nr) {
  std::set<int32_t> n = {1, 2, 3, nr - 1, nr};
  for (int32_t vector : {4, 8, 16, 32, 48, 64}) n.insert({vector - 1, vector, vector + 1});
  std::erase_if(n, [nr](int32_t i) { return i < 1 || i > nr; });
  return {n.begin(), n.end()};
}

class GemmKernelTest : public IsaTest {
 protected:
  // Emulated kernels are sampled: a tile costs them as much as a thousand native ones.
  bool skip(Random& random, int32_t taps, int32_t k, bool full_tile) const {
    if (!emulated()) return false;
    const int32_t steps = taps * ((k + 63) / 64);
    const int32_t one_in = steps > 40 ? 60 : steps > 8 ? 16 : 4;
    return !random.chance(full_tile ? one_in / 4 : one_in);
  }

  void sweep_columns(Random& random, const GemmKernel& kernel, GemmProblem& problem, int32_t n,
                     uint32_t index, EpilogueCase::Hits* hits) {
    const EpilogueChoice choice = choose_epilogue(random, index, problem.a_signed);
    problem.place(choice.side);
    const int32_t tiles = kernel.format.nr / kernel.nr;
    const int32_t column = random.integer(0, tiles - 1) * kernel.nr;
    const PanelCase panel(random, problem, kernel.format, column, n, choice.side);
    EpilogueCase epilogue(random, problem, n, kernel.a_offset, choice);
    const Task task(set());
    for (OutKind kind : kAllKinds) {
      epilogue.set_kind(random, kind);
      epilogue.count_hits(problem, hits[static_cast<int>(kind)]);
      const std::vector<uint8_t> expected = reference_tile(problem, epilogue, choice, kind, n);
      TileCase c;
      c.kernel = &kernel;
      c.problem = &problem;
      c.epilogue = &choice;
      c.kind = kind;
      c.n = n;
      c.column = column;
      for (const int32_t m : row_counts(kernel, problem.rows)) {
        if (skip(random, problem.taps, problem.k, m == kernel.mr && n == kernel.nr)) continue;
        c.m = m;
        ASSERT_TRUE(run_tile(random, c, panel, epilogue, expected));
      }
    }
  }
};

// All m, n around vector widths, k around kr and the odd sizes, one tap and nine, all output kinds,
// with the epilogue's forms and zero points taken in turn.
TEST_P(GemmKernelTest, EqualsReferenceAtAllSizes) {
  for (int32_t i = 0; i < set().gemm_count; ++i) {
    const GemmKernel& kernel = set().gemm[i];
    EpilogueCase::Hits hits[kOutKinds];
    uint32_t index = 0;
    Random random(i);
    for (int a_signed = 0; a_signed < 2; ++a_signed) {
      for (int32_t k : depths(kernel.format.kr)) {
        for (int32_t taps : {1, 9}) {
          for (const Values values : {Values::kRandom, Values::kCorners}) {
            GemmProblem problem(random, problem_rows(random, kernel), kernel.nr, taps, k, a_signed,
                                values);
            for (int32_t n : widths(kernel.nr)) {
              sweep_columns(random, kernel, problem, n, index++, hits);
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
    for (OutKind kind : {OutKind::kU8, OutKind::kS8}) {
      const EpilogueCase::Hits& h = hits[static_cast<int>(kind)];
      EXPECT_GT(h.low, 100) << kernel.name << " " << kind_name(kind)
                            << ": too few cases at the lower clamp";
      EXPECT_GT(h.high, 100) << kernel.name << " " << kind_name(kind)
                             << ": too few cases at the upper clamp";
      EXPECT_GT(h.tie, 100) << kernel.name << " " << kind_name(kind) << ": too few exact ties";
    }
  }
}

// A tile of one value of A times one value of W, at the ends of both types, where an instruction
// that saturates shows.
struct Corner {
  int32_t a, w, a_zero;
};

::testing::AssertionResult check_corner(const KernelSet& set, const GemmKernel& kernel,
                                        bool a_signed, int32_t k, int32_t taps, Corner corner) {
  const int32_t mr = std::min<int32_t>(kernel.mr, std::max<int32_t>(kernel.m_step + 1, 32));
  const int32_t nr = kernel.nr, depth = taps * k;
  const std::vector<uint8_t> a(size_t(mr) * depth, static_cast<uint8_t>(corner.a));
  const std::vector<int8_t> w(size_t(nr) * depth, static_cast<int8_t>(corner.w));
  const auto packed = PackedWeight::pack(w.data(), {1, nr, taps, k}, kernel.format);
  std::vector<ptrdiff_t> tap(taps);
  for (int32_t t = 0; t < taps; ++t) tap[t] = ptrdiff_t{t} * k;
  const int32_t offset = kernel.a_offset[a_signed];
  std::vector<int32_t> acc_init(round_up(nr, kChannelPad));
  const uint32_t sum = static_cast<uint32_t>(corner.w * depth);
  for (int32_t c = 0; c < nr; ++c)
    acc_init[c] = static_cast<int32_t>(0u - uint32_t(corner.a_zero + offset) * sum);
  const std::vector<float> zeros(acc_init.size());
  Epilogue epilogue{};
  epilogue.acc_init = acc_init.data();
  epilogue.mult = epilogue.bias = zeros.data();
  AlignedBuffer scratch(kernel.scratch_bytes + kAlignment);
  std::vector<int32_t> out(size_t(mr) * nr);
  GemmArgs args{};
  args.a = a.data();
  args.a_stride = depth;
  args.tap = tap.data();
  args.taps = taps;
  args.k = k;
  args.b = packed->panel(0, 0);
  args.b_stride = packed->panel_stride(0);
  args.m = mr;
  args.n = nr;
  args.out = out.data();
  args.out_stride = nr * static_cast<ptrdiff_t>(sizeof(int32_t));
  args.kind = OutKind::kI32;
  args.epilogue = &epilogue;
  args.scratch = scratch.data();
  {
    const Task task(set);
    run_kernel(kernel, a_signed, args);
  }
  const int64_t expected = int64_t{depth} * (corner.a - corner.a_zero) * corner.w;
  for (int32_t value : out) {
    if (value != expected) {
      return ::testing::AssertionFailure()
             << kernel.name << (a_signed ? " s8" : " u8") << " k=" << k << " taps=" << taps
             << " a=" << corner.a << " w=" << corner.w << " zero=" << corner.a_zero << ": got "
             << value << ", expected " << expected;
    }
  }
  return ::testing::AssertionSuccess();
}

TEST_P(GemmKernelTest, AccumulatesCornersExactly) {
  for (int32_t i = 0; i < set().gemm_count; ++i) {
    const GemmKernel& kernel = set().gemm[i];
    const int32_t max_depth = static_cast<int32_t>(kMaxDepth);
    for (int a_signed = 0; a_signed < 2; ++a_signed) {
      const int32_t amin = a_signed ? -128 : 0;
      for (int32_t a : {amin, amin + 255}) {
        for (int32_t w : {-128, 127}) {
          for (int32_t zero : {0, 1, 127, 128, 255}) {
            for (int32_t k : {1, 2, 3, 4, 7, 64, 65, 255}) {
              ASSERT_TRUE(check_corner(set(), kernel, a_signed, k, 1, {a, w, zero + amin}));
            }
          }
          ASSERT_TRUE(check_corner(set(), kernel, a_signed, 64, 9, {a, w, amin}));
          if (emulated() && i > 0) continue;
          // The deepest sum that packing accepts.
          ASSERT_TRUE(check_corner(set(), kernel, a_signed, max_depth, 1, {a, w, amin}));
          ASSERT_TRUE(check_corner(set(), kernel, a_signed, max_depth, 1, {a, w, amin + 255}));
          ASSERT_TRUE(check_corner(set(), kernel, a_signed, max_depth / 9, 9, {a, w, amin + 255}));
        }
      }
    }
  }
}

// Rows that all lie at one place, as broadcasting gives them.
TEST_P(GemmKernelTest, AcceptsRowStrideOfZero) {
  for (int32_t i = 0; i < set().gemm_count; ++i) {
    const GemmKernel& kernel = set().gemm[i];
    Random random(i);
    GemmProblem one_row(random, 1, kernel.nr, 1, 67, false, Values::kRandom);
    const EpilogueChoice choice = choose_epilogue(random, 0, false);
    one_row.place(Side::kEnd);
    const PanelCase panel(random, one_row, kernel.format, 0, kernel.nr, Side::kEnd);
    EpilogueCase epilogue(random, one_row, kernel.nr, kernel.a_offset, choice);
    epilogue.set_kind(random, OutKind::kU8);
    const std::vector<uint8_t> expected =
        reference_tile(one_row, epilogue, choice, OutKind::kU8, kernel.nr);
    std::vector<uint8_t> out(size_t(kernel.mr) * kernel.nr);
    AlignedBuffer scratch(kernel.scratch_bytes + kAlignment);
    GemmArgs args{};
    args.a = one_row.row(0);
    args.a_stride = 0;
    args.tap = one_row.tap();
    args.taps = 1;
    args.k = one_row.k;
    args.b = panel.b;
    args.b_stride = panel.b_stride;
    args.m = kernel.mr;
    args.n = kernel.nr;
    args.out = out.data();
    args.out_stride = kernel.nr;
    args.kind = OutKind::kU8;
    args.epilogue = &epilogue.kernel();
    args.m0 = choice.m0;
    args.n0 = choice.n0;
    args.scratch = scratch.data();
    {
      const Task task(set());
      run_kernel(kernel, false, args);
    }
    for (int32_t r = 0; r < kernel.mr; ++r) {
      EXPECT_EQ(first_difference(out.data() + size_t(r) * kernel.nr, expected.data(), kernel.nr),
                "")
          << kernel.name << " row " << r;
    }
  }
}

TEST_P(GemmKernelTest, PeakCountsItsWork) {
  const Task task(set());
  const int64_t few = set().peak(10), many = set().peak(20);
  EXPECT_GT(few, 0);
  EXPECT_EQ(many, 2 * few);
}

OCTAVO_INSTANTIATE_ISA_TESTS(GemmKernelTest);

}  // namespace
}  // namespace octavo::testing
