// The line kernels of every ISA that has one against the reference, to the bit, between guard
// pages.
#include <algorithm>

#include "gemm_case.h"
#include "pack/packed_weight.h"

namespace octavo::testing {
namespace {

GuardBuffer& line_memory() {
  static GuardBuffer once(size_t{1} << 20);
  return once;
}
GuardBuffer& out_memory() {
  static GuardBuffer once(size_t{1} << 18);
  return once;
}

// The problem's rows as LineKernel::fn reads them: taps side by side, each padded to an even number
// of elements by one that must not count.
struct WideRows {
  WideRows(const LineKernel& kernel, const GemmProblem& p, Side side)
      : tap_bytes(round_up(p.k, 2) * 2), stride(p.taps * tap_bytes) {
    std::vector<uint16_t> rows(size_t(p.rows) * stride / 2, uint16_t{0xffff});
    for (int32_t t = 0; t < p.taps; ++t) tap.push_back(t * tap_bytes);
    for (int32_t r = 0; r < p.rows; ++r) {
      for (int32_t t = 0; t < p.taps; ++t)
        kernel.widen[p.a_signed](p.row(r) + p.tap()[t], p.k, &rows[(r * stride + tap[t]) / 2]);
    }
    data = line_memory().place(rows.size() * 2, side, 2);
    std::memcpy(data, rows.data(), rows.size() * 2);
  }

  ptrdiff_t tap_bytes, stride;
  std::vector<ptrdiff_t> tap;
  uint8_t* data;
};

class LineKernelTest : public IsaTest {
 protected:
  const LineKernel* kernel() const { return set().lines; }

  void check(Random& random, GemmProblem& problem, int32_t n, uint32_t index) {
    EpilogueChoice choice = choose_epilogue(random, index, problem.a_signed);
    problem.place(choice.side);
    const int32_t tiles = kernel()->format.nr / kernel()->nr;
    const int32_t column = random.integer(0, tiles - 1) * kernel()->nr;
    const PanelCase panel(random, problem, kernel()->format, column, n, choice.side);
    EpilogueCase epilogue(random, problem, n, kernel()->a_offset, choice);
    const WideRows rows(*kernel(), problem, choice.side);
    for (OutKind kind : kAllKinds) {
      epilogue.set_kind(random, kind);
      const size_t width = n * kind_size(kind),
                   stride = width + random.integer(0, 5) * kind_size(kind);
      std::vector<uint8_t> expected(problem.rows * width);
      for (int32_t r = 0; r < problem.rows; ++r) {
        ref::store_tile(kind, problem.raw.data() + size_t(r) * problem.columns, 1, n,
                        epilogue.reference(), choice.m0 + r, choice.n0, &expected[r * width],
                        static_cast<ptrdiff_t>(width));
      }
      const size_t out_bytes = (problem.rows - 1) * stride + width;
      uint8_t* out = out_memory().place(out_bytes, choice.side, kind_size(kind));
      AlignedBuffer scratch(kernel()->scratch_bytes + kAlignment);
      GemmArgs args{};
      args.a = rows.data;
      args.a_stride = rows.stride;
      args.tap = rows.tap.data();
      args.taps = problem.taps;
      args.k = problem.k;
      args.b = panel.b;
      args.b_stride = panel.b_stride;
      args.m = problem.rows;
      args.n = n;
      args.m0 = choice.m0;
      args.n0 = choice.n0;
      args.out = out;
      args.out_stride = static_cast<ptrdiff_t>(stride);
      args.kind = kind;
      args.epilogue = &epilogue.kernel();
      args.scratch = scratch.data();
      kernel()->fn(&args);
      ASSERT_TRUE(out_memory().margin_intact()) << "wrote beside the tile";
      for (int32_t r = 0; r < problem.rows; ++r) {
        const uint8_t* want = expected.data() + r * width;
        ASSERT_TRUE(same_values(kind, out + r * stride, want, n))
            << first_difference(out + r * stride, want, width) << " " << kernel()->name
            << (problem.a_signed ? " s8->" : " u8->") << kind_name(kind) << " m=" << problem.rows
            << " n=" << n << " k=" << problem.k << " taps=" << problem.taps << " row " << r << " "
            << choice.describe();
      }
    }
  }
};

// Row counts around the tiles of both widths, k around pairs and k groups, up to as many pairs as
// the contract allows; ends of both types, where an instruction that saturates shows.
TEST_P(LineKernelTest, EqualsReferenceAtAllSizes) {
  Random random(1);
  uint32_t index = 0;
  struct Depth {
    int32_t taps, k;
  };
  const Depth depths[] = {{1, 1},         {1, 2},  {1, 3},  {1, 4},  {3, 5},
                          {3, 9},         {7, 21}, {2, 31}, {3, 96}, {1, 2 * kLinePairs},
                          {kLinePairs, 1}};
  for (const int a_signed : {0, 1}) {
    for (const Depth& depth : depths) {
      for (const Values values : {Values::kRandom, Values::kCorners}) {
        for (const int32_t m : {1, 2, 3, 5, 6, 7, 11, 12, 13, 23, 24, 25, 53}) {
          const int32_t nr = kernel()->nr;
          GemmProblem problem(random, m, nr, depth.taps, depth.k, a_signed, values);
          for (const int32_t n : {1, nr / 2 - 1, nr / 2, nr / 2 + 1, nr}) {
            check(random, problem, n, index++);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

// All activations and all weights at one end, as deep as it goes: the sums themselves.
TEST_P(LineKernelTest, AccumulatesCornersExactly) {
  const int32_t n = kernel()->nr, m = 25, k = 2 * kLinePairs;
  const std::vector<float> zeros(round_up(n, kChannelPad));
  for (const int a_signed : {0, 1}) {
    for (const int32_t a : {0, 255}) {
      for (const int32_t w : {-128, 127}) {
        const std::vector<uint8_t> bytes(size_t(m) * k, static_cast<uint8_t>(a - a_signed * 128));
        std::vector<uint16_t> rows(bytes.size());
        kernel()->widen[a_signed](bytes.data(), bytes.size(), rows.data());
        const std::vector<int8_t> weights(size_t(n) * k, static_cast<int8_t>(w));
        const auto packed = PackedWeight::pack(weights.data(), {1, n, 1, k}, kernel()->format);
        const std::vector<int32_t> init(round_up(n, kChannelPad), -a_signed * 128 * w * k);
        Epilogue epilogue{};
        epilogue.acc_init = init.data();
        epilogue.mult = epilogue.bias = zeros.data();
        AlignedBuffer scratch(kernel()->scratch_bytes + kAlignment);
        std::vector<int32_t> out(size_t(m) * n);
        const ptrdiff_t tap = 0;
        GemmArgs args{};
        args.a = reinterpret_cast<const uint8_t*>(rows.data());
        args.a_stride = k * 2;
        args.tap = &tap;
        args.taps = 1;
        args.k = k;
        args.b = packed->panel(0, 0);
        args.b_stride = packed->panel_stride(0);
        args.m = m;
        args.n = n;
        args.out = out.data();
        args.out_stride = n * static_cast<ptrdiff_t>(sizeof(int32_t));
        args.kind = OutKind::kI32;
        args.epilogue = &epilogue;
        args.scratch = scratch.data();
        kernel()->fn(&args);
        const int32_t expected = k * (a - a_signed * 128) * w;
        EXPECT_EQ(std::count(out.begin(), out.end(), expected), m * n)
            << kernel()->name << " a=" << a << " w=" << w << " signed=" << a_signed << ": got "
            << out[0] << ", expected " << expected;
      }
    }
  }
}

TEST_P(LineKernelTest, WidensWhatItIsGivenAndNoMore) {
  Random random(2);
  for (const int is_signed : {0, 1}) {
    for (int64_t count = 0; count <= 70; ++count) {
      for (const Side side : {Side::kBegin, Side::kEnd}) {
        uint8_t* from = line_memory().place(count, side);
        random.fill(from, count);
        auto* to = reinterpret_cast<uint16_t*>(out_memory().place(2 * count, side, 2));
        kernel()->widen[is_signed](from, count, to);
        ASSERT_TRUE(out_memory().margin_intact()) << count;
        for (int64_t i = 0; i < count; ++i)
          ASSERT_EQ(to[i], is_signed ? static_cast<int8_t>(from[i]) + 128 : from[i]) << count;
      }
    }
  }
}

OCTAVO_INSTANTIATE_LINE_TESTS(LineKernelTest);

}  // namespace
}  // namespace octavo::testing
