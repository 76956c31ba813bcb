// Recurrent cells and layers against the reference, to the bit: cells between guard pages and with
// extreme values, layers of all kinds, packed, reversed and projected.
#include "ops/recurrent.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "abi/cell.h"
#include "guard_buffer.h"
#include "layer_case.h"

namespace octavo::testing {
namespace {

constexpr CellKind kKinds[] = {CellKind::kLstm, CellKind::kGru, CellKind::kRnnTanh,
                               CellKind::kRnnRelu};
constexpr int kGates[] = {4, 3, 1, 1};

// Which floats differ; all NaNs are alike.
std::string float_difference(const float* got, const float* expected, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    if (float_bits(got[i]) != float_bits(expected[i])) {
      return "element " + std::to_string(i) + ": got " + std::to_string(got[i]) + ", expected " +
             std::to_string(expected[i]);
    }
  }
  return "";
}

float hard_gate(Random& random) {
  static const float kInf = std::numeric_limits<float>::infinity();
  static const std::vector<float> kSpecial = {
      0.0f,    -0.0f, kInf,   -kInf, std::nanf(""), -std::nanf(""), 3.4e38f, -3.4e38f, 1e-45f,
      -1e-38f, 87.0f, -87.0f, 43.5f, -43.5f,        9.02f,          -9.02f,  4.51f,    1e-20f};
  if (random.chance(3)) return random.pick(kSpecial);
  return random.real(-1.0f, 1.0f) * std::exp2(static_cast<float>(random.integer(-24, 8)));
}

struct CellCase final : CaseDescriber {
  CellKind kind{};
  int32_t size = 0;
  Side side = Side::kEnd;
  std::string describe() const override {
    return "cell " + std::to_string(static_cast<int>(kind)) + " size=" + std::to_string(size) +
           (side == Side::kEnd ? " guard=end" : " guard=begin");
  }
};

class CellTest : public IsaTest {};

TEST_P(CellTest, EqualsReferenceWithinItsMemory) {
  GuardBuffer input(1 << 15), hidden(1 << 15), c(1 << 13), h(1 << 13);
  Random random(21);
  std::vector<int32_t> sizes(100);
  std::iota(sizes.begin(), sizes.end(), 1);
  sizes.insert(sizes.end(), {127, 128, 129, 500, 1000});
  CellCase at;
  for (const CellKind kind : kKinds) {
    at.kind = kind;
    const int gates = kGates[static_cast<int>(at.kind)];
    for (const int32_t size : sizes) {
      at.size = size;
      for (const Side side : {Side::kEnd, Side::kBegin}) {
        at.side = side;
        CellArgs args{};
        float* x = input.place_array<float>(gates * at.size, at.side);
        float* y = hidden.place_array<float>(gates * at.size, at.side);
        for (int32_t i = 0; i < gates * at.size; ++i) x[i] = hard_gate(random);
        for (int32_t i = 0; i < gates * at.size; ++i) y[i] = hard_gate(random);
        args = {x, y, c.place_array<float>(at.size, at.side),
                h.place_array<float>(at.size, at.side), at.size};
        for (int32_t i = 0; i < at.size; ++i) args.c[i] = hard_gate(random);
        for (int32_t i = 0; i < at.size; ++i) args.h[i] = hard_gate(random);
        std::vector<float> want_c(args.c, args.c + at.size), want_h(args.h, args.h + at.size);
        {
          const RunningCase running(&at);
          set().elementwise.cell[static_cast<int>(at.kind)](&args);
        }
        ref::cell_kernel(at.kind, {x, y, want_c.data(), want_h.data(), at.size});
        ASSERT_EQ(float_difference(args.h, want_h.data(), at.size), "") << at.describe() << " h";
        ASSERT_EQ(float_difference(args.c, want_c.data(), at.size), "") << at.describe() << " c";
        ASSERT_TRUE(c.margin_intact() && h.margin_intact()) << at.describe();
      }
    }
  }
}

// Through an RNN's cell, whose h is tanh of its input, and a GRU's, whose h is the sigmoid of z
// where the old h is 1 and n is 0.
TEST_P(CellTest, EverySixteenThousandthFloatGivesTheNormativeBits) {
  constexpr int32_t kSize = 4096;
  std::vector<float> x(3 * kSize), zeros(3 * kSize), h(kSize);
  for (uint64_t first = 0; first < 0x100000000u; first += uint64_t{kSize} * 0x4001) {
    for (int32_t i = 0; i < kSize; ++i) {
      x[kSize + i] = bits_float(static_cast<uint32_t>(first + uint64_t(i) * 0x4001));
    }
    h.assign(kSize, 0.0f);
    const CellArgs tanh{x.data() + kSize, zeros.data(), nullptr, h.data(), kSize};
    set().elementwise.cell[static_cast<int>(CellKind::kRnnTanh)](&tanh);
    for (int32_t i = 0; i < kSize; ++i) {
      const float want = cell_tanh(x[kSize + i]);
      ASSERT_EQ(float_difference(&h[i], &want, 1), "") << "tanh " << x[kSize + i];
    }
    h.assign(kSize, 1.0f);
    const CellArgs gru{x.data(), zeros.data(), nullptr, h.data(), kSize};
    set().elementwise.cell[static_cast<int>(CellKind::kGru)](&gru);
    for (int32_t i = 0; i < kSize; ++i) {
      const float want = cell_sigmoid(x[kSize + i]);
      ASSERT_EQ(float_difference(&h[i], &want, 1), "") << "sigmoid " << x[kSize + i];
    }
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(CellTest);

TEST(CellMathTest, IsCloseToTheDefinition) {
  double before = -1.0;
  for (double v = -95.0; v <= 95.0; v += 1.0 / 2048) {
    const auto x = static_cast<float>(v);
    const double sigmoid = 1.0 / (1.0 + std::exp(-static_cast<double>(x))), tanh = std::tanh(x);
    EXPECT_NEAR(cell_sigmoid(x), sigmoid, 1e-7) << x;
    if (std::abs(x) < 87) {
      EXPECT_NEAR(cell_sigmoid(x), sigmoid, 3e-7 * sigmoid) << x;
    }
    EXPECT_NEAR(cell_tanh(x), tanh, 4e-7 * std::abs(tanh)) << x;
    EXPECT_EQ(cell_tanh(-x), -cell_tanh(x)) << x;
    EXPECT_GE(cell_sigmoid(x), before - 1.2e-7) << x;
    before = cell_sigmoid(x);
  }
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(cell_sigmoid(inf), 1.0f);
  EXPECT_LT(cell_sigmoid(-inf), 2e-38f);
  EXPECT_EQ(cell_sigmoid(0.0f), 0.5f);
  EXPECT_EQ(cell_tanh(inf), 1.0f);
  EXPECT_EQ(cell_tanh(-inf), -1.0f);
  EXPECT_EQ(float_bits(cell_tanh(-0.0f)), 0x80000000u);
  EXPECT_EQ(cell_tanh(1e-30f), 1e-30f);
  EXPECT_TRUE(std::isnan(cell_sigmoid(nan)));
  EXPECT_TRUE(std::isnan(cell_tanh(nan)));
}

// A layer with its input, and both results.
class RecurrentTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }

  struct Shape {
    int64_t steps, batch;
    int32_t inputs, size, outputs;
    bool packed, reverse;
  };

  static LayerCase layer_case(Random& random, int32_t n, int32_t k, bool bias) {
    const auto zeros = random.chance(4) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
    return {random, 1, n, 1, k, zeros, bias, 0.02f};
  }

  void check(Random& random, CellKind kind, const Shape& s, const DynamicSpec& spec) {
    const int gates = kGates[static_cast<int>(kind)];
    const bool bias = random.chance(2), projects = s.outputs != s.size;
    const LayerCase ih = layer_case(random, gates * s.size, s.inputs, bias);
    const LayerCase hh = layer_case(random, gates * s.size, s.outputs, bias);
    const LayerCase hr = layer_case(random, s.outputs, s.size, false);
    const QuantizedWeight wi(ih.weights.data(), {1, ih.n, 1, ih.k}, ih.params, false);
    const QuantizedWeight wh(hh.weights.data(), {1, hh.n, 1, hh.k}, hh.params, false);
    const QuantizedWeight wr(hr.weights.data(), {1, hr.n, 1, hr.k}, hr.params, false);
    std::vector<int64_t> sizes(s.steps, s.batch);
    for (int64_t t = 1; s.packed && t < s.steps; ++t)
      sizes[t] = random.integer(1, static_cast<int32_t>(sizes[t - 1]));
    const int64_t rows = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    std::vector<float> x(rows * s.inputs), h(s.batch * s.outputs), c(s.batch * s.size);
    for (float& v : x) v = random.real(-1.0f, 1.0f);
    for (float& v : h) v = random.real(-1.0f, 1.0f);
    for (float& v : c) v = random.real(-2.0f, 2.0f);
    if (random.chance(3)) x[random.integer(0, static_cast<int32_t>(x.size()) - 1)] = std::nanf("");
    const int64_t pitch = s.outputs + 3;
    std::vector<float> out(rows * pitch, 7.0f), want(rows * s.outputs), want_h = h, want_c = c;
    const ref::Layer project = hr.reference();
    ref::recurrent({kind, ih.reference(), hh.reference(), projects ? &project : nullptr, s.reverse},
                   x.data(), sizes, {0, spec.per_tensor, spec.reduce_range}, want_h.data(),
                   want_c.data(), want.data());
    recurrent({kind, &wi, &wh, projects ? &wr : nullptr},
              {x.data(), FloatType::kF32, rows, s.inputs, s.inputs},
              {s.steps, s.batch, s.packed ? sizes.data() : nullptr}, spec, s.reverse,
              {h.data(), c.data()}, out.data(), pitch);
    const std::string where = "kind " + std::to_string(static_cast<int>(kind)) + " steps " +
                              std::to_string(s.steps) + " batch " + std::to_string(s.batch) +
                              (s.packed ? " packed" : "") + (s.reverse ? " reverse" : "");
    for (int64_t r = 0; r < rows; ++r) {
      ASSERT_EQ(float_difference(&out[r * pitch], &want[r * s.outputs], s.outputs), "")
          << where << " row " << r;
      for (int64_t i = s.outputs; i < pitch; ++i)
        ASSERT_EQ(out[r * pitch + i], 7.0f) << where << " wrote between rows";
    }
    ASSERT_EQ(float_difference(h.data(), want_h.data(), h.size()), "") << where << " h";
    ASSERT_EQ(float_difference(c.data(), want_c.data(), c.size()), "") << where << " c";
  }
};

TEST_P(RecurrentTest, EqualsReference) {
  Random random(22);
  for (int round = 0; round < (emulated() ? 8 : 120); ++round) {
    const CellKind kind = kKinds[round % 4];
    const int32_t size = random.integer(1, 40);
    const bool projects = kind == CellKind::kLstm && size > 1 && random.chance(2);
    const Shape shape{random.integer(1, 9),
                      random.integer(1, 6),
                      random.integer(1, 50),
                      size,
                      projects ? random.integer(1, size - 1) : size,
                      random.chance(2),
                      random.chance(2)};
    check(random, kind, shape, {random.chance(3), random.chance(3)});
    if (HasFatalFailure()) return;
  }
}

// More gates than are computed at once, and batches whose gates do not fit the scratch.
TEST_P(RecurrentTest, EqualsReferenceAcrossBlocks) {
  Random random(23);
  for (const Shape& shape :
       {Shape{150, 3, 8, 200, 200, false, false}, Shape{150, 3, 8, 200, 200, true, true},
        Shape{3, 700, 5, 150, 20, false, true}}) {
    check(random, CellKind::kLstm, shape, {});
    if (HasFatalFailure()) return;
    check(random, CellKind::kLstm, shape, {true, true});
    if (HasFatalFailure()) return;
  }
}

TEST_P(RecurrentTest, RefusesWhatDoesNotFitTogether) {
  Random random(24);
  const LayerCase ih = layer_case(random, 8, 3, true), hh = layer_case(random, 8, 2, true);
  const QuantizedWeight wi(ih.weights.data(), {1, 8, 1, 3}, ih.params, false);
  const QuantizedWeight wh(hh.weights.data(), {1, 8, 1, 2}, hh.params, false);
  std::vector<float> x(30), h(20), c(20), out(40);
  const auto run = [&](const RecurrentLayer& layer, int64_t rows, const Sequences& sequences) {
    recurrent(layer, {x.data(), FloatType::kF32, rows, 3, 3}, sequences, {}, false,
              {h.data(), c.data()}, out.data(), 2);
  };
  const RecurrentLayer layer{CellKind::kLstm, &wi, &wh};
  run(layer, 6, {3, 2});
  run(layer, 0, {3, 0});
  EXPECT_THROW(run(layer, 5, {3, 2}), std::invalid_argument);
  EXPECT_THROW(run({CellKind::kGru, &wi, &wh}, 6, {3, 2}), std::invalid_argument);
  EXPECT_THROW(run({CellKind::kLstm, &wi, &wi}, 6, {3, 2}), std::invalid_argument);
  EXPECT_THROW(run({CellKind::kLstm, &wi, &wh, &wi}, 6, {3, 2}), std::invalid_argument);
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{2, 3, 1}, {3, 2, 1}, {2, 0, 0}, {2, 2, -1}}) {
    const int64_t rows = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    EXPECT_THROW(run(layer, rows, {3, 2, sizes.data()}), std::invalid_argument);
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(RecurrentTest);

}  // namespace
}  // namespace octavo::testing
