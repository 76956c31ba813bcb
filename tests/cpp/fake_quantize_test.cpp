// Fake quantization against the reference: kernels between guard pages, and the driver.
#include "ops/fake_quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "guard_buffer.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Ties, values far outside, and what is no number.
float hard_value(Random& random, float scale) {
  static const std::vector<float> kSpecial = {0.0f,
                                              -0.0f,
                                              kInfinity,
                                              -kInfinity,
                                              std::nanf(""),
                                              std::numeric_limits<float>::max(),
                                              std::numeric_limits<float>::lowest(),
                                              std::numeric_limits<float>::denorm_min(),
                                              8388607.5f,
                                              -8388608.0f,
                                              16777216.0f,
                                              -4194303.5f};
  if (random.chance(8)) return random.pick(kSpecial);
  if (random.chance(2)) return (static_cast<float>(random.integer(-300, 300)) + 0.5f) * scale;
  return random.real(-300.0f, 300.0f) * scale;
}

// Equal to the bit; NaN of any kind is NaN.
std::string float_difference(const float* got, const float* expected, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const bool same =
        std::isnan(expected[i])
            ? std::isnan(got[i])
            : got[i] == expected[i] && std::signbit(got[i]) == std::signbit(expected[i]);
    if (!same) {
      return "element " + std::to_string(i) + ": " + std::to_string(got[i]) + ", expected " +
             std::to_string(expected[i]);
    }
  }
  return "";
}

struct StepCase final : CaseDescriber {
  int64_t size = 0;
  Side side = Side::kEnd;
  bool keep = false;
  std::string describe() const override {
    return "fake_quantize size=" + std::to_string(size) + (keep ? " with mask" : "") +
           (side == Side::kEnd ? " guard=end" : " guard=begin");
  }
};

class FakeQuantizeTest : public IsaTest {
 protected:
  static constexpr size_t kCapacity = size_t{1} << 16;
  GuardBuffer x_{kCapacity}, out_{kCapacity}, inside_{kCapacity};
};

std::vector<int64_t> sizes() {
  std::vector<int64_t> all;
  for (int64_t i = 0; i <= 140; ++i) all.push_back(i);
  all.insert(all.end(), {191, 192, 193, 255, 256, 257, 1000, 4099});
  return all;
}

TEST_P(FakeQuantizeTest, Kernel) {
  Random random(1);
  StepCase c;
  for (const int64_t size : sizes()) {
    for (const Side side : {Side::kEnd, Side::kBegin}) {
      for (const bool keep : {false, true}) {
        c.size = size;
        c.side = side;
        c.keep = keep;
        const float scale = random.chance(2) ? 0.25f : random.real(1e-3f, 2.0f);
        const int32_t zero = random.integer(0, 255);
        float* x = x_.place_array<float>(size, side);
        for (int64_t i = 0; i < size; ++i) x[i] = hard_value(random, scale);
        FakeQuantizeArgs args{x,
                              size,
                              1.0f / scale,
                              scale,
                              static_cast<float>(-zero),
                              static_cast<float>(255 - zero),
                              out_.place_array<float>(size, side),
                              keep ? inside_.place(size, side) : nullptr};
        {
          const RunningCase running(&c);
          set().elementwise.fake_quantize(&args);
        }
        std::vector<float> out(size + 1);
        std::vector<uint8_t> inside(size + 1);
        FakeQuantizeArgs expected = args;
        expected.out = out.data();
        expected.inside = inside.data();
        ref::fake_quantize_kernel(expected);
        ASSERT_EQ(float_difference(args.out, out.data(), size), "") << c.describe();
        ASSERT_TRUE(out_.margin_intact()) << c.describe();
        if (keep) {
          ASSERT_EQ(first_difference(args.inside, inside.data(), size), "") << c.describe();
          ASSERT_TRUE(inside_.margin_intact()) << c.describe();
        }
      }
    }
  }
}

TEST_P(FakeQuantizeTest, GradientKernel) {
  Random random(2);
  StepCase c;
  for (const int64_t size : sizes()) {
    for (const Side side : {Side::kEnd, Side::kBegin}) {
      c.size = size;
      c.side = side;
      float* gradient = x_.place_array<float>(size, side);
      uint8_t* inside = inside_.place(size, side);
      std::vector<float> expected(size);
      for (int64_t i = 0; i < size; ++i) {
        gradient[i] = hard_value(random, 0.1f);
        inside[i] = random.chance(2);
        expected[i] = gradient[i] * (inside[i] ? 1.0f : 0.0f);
      }
      float* out = out_.place_array<float>(size, side);
      {
        const RunningCase running(&c);
        set().elementwise.masked_gradient(gradient, inside, size, out);
      }
      ASSERT_EQ(float_difference(out, expected.data(), size), "") << c.describe();
      ASSERT_TRUE(out_.margin_intact()) << c.describe();
    }
  }
}

// State and data of some steps, and what the reference makes of them.
struct Model {
  explicit Model(ChannelGrid grid)
      : grid(grid),
        min(grid.channels, kInfinity),
        max(grid.channels, -kInfinity),
        scale(grid.channels, 1.0f),
        zero(grid.channels),
        x(grid.elements()),
        out(grid.elements()),
        inside(grid.elements()) {}

  std::vector<float> channel(int64_t c) const {
    std::vector<float> values;
    for (int64_t o = 0; o < grid.outer; ++o) {
      const auto run = x.begin() + (o * grid.channels + c) * grid.inner;
      values.insert(values.end(), run, run + grid.inner);
    }
    return values;
  }

  ChannelGrid grid;
  std::vector<float> min, max, scale;
  std::vector<int32_t> zero;
  std::vector<float> x, out;
  std::vector<uint8_t> inside;
};

ref::FakeQuantizeRule random_rule(Random& random) {
  ref::FakeQuantizeRule rule;
  rule.averages = random.chance(2);
  rule.constant = random.chance(2) ? 1.0f : 0.01f;
  rule.eps = random.chance(2) ? 1.1920929e-07f : 1e-2f;
  rule.lo = random.chance(2) ? -128 : 0;
  rule.hi = rule.lo + (random.chance(2) ? 255 : 127);
  rule.symmetric = random.chance(2);
  rule.zero_point = rule.lo == 0 ? (rule.hi + 1) / 2 : 0;
  return rule;
}

void fill(Random& random, std::vector<float>& x, int round) {
  const float size = round == 2 ? 3e38f : random.real(0.01f, 10.0f);
  const float offset = random.real(-2.0f, 2.0f) * (round == 2 ? 0.0f : size);
  for (float& v : x) v = random.real(-1.0f, 1.0f) * size + offset;
  if (round != 3) return;
  for (float& v : x) {
    if (random.chance(3))
      v = random.chance(2) ? std::nanf("") : random.chance(2) ? kInfinity : -kInfinity;
  }
}

void run_steps(Random& random, ChannelGrid grid) {
  const ref::FakeQuantizeRule r = random_rule(random);
  Model got(grid), expected(grid);
  for (int round = 0; round < 5; ++round) {
    fill(random, got.x, round);
    if (round == 3 && grid.channels > 2) {  // a channel without anything finite
      for (int64_t o = 0; o < grid.outer; ++o) {
        std::fill_n(got.x.begin() + (o * grid.channels + 1) * grid.inner, grid.inner, -kInfinity);
      }
    }
    expected.x = got.x;
    const FakeQuantizeStep step{
        got.x.data(),
        grid,
        true,
        {r.averages, r.constant, r.eps, {r.lo, r.hi}, r.symmetric, r.zero_point},
        got.min.data(),
        got.max.data(),
        got.scale.data(),
        got.zero.data(),
        {r.lo, r.hi},
        got.out.data(),
        got.inside.data()};
    const int64_t others = fake_quantize_step(step);
    int64_t expected_others = 0;
    for (int64_t c = 0; c < grid.channels; ++c) {
      ref::Affine q;
      expected_others += ref::observe(expected.channel(c), r, expected.min[c], expected.max[c], q);
      ASSERT_EQ(got.min[c], expected.min[c]) << "channel " << c;
      ASSERT_EQ(got.max[c], expected.max[c]) << "channel " << c;
      ASSERT_EQ(got.scale[c], q.scale) << "channel " << c;
      ASSERT_EQ(got.zero[c], q.zero_point) << "channel " << c;
      for (int64_t o = 0; o < grid.outer; ++o) {
        const int64_t at = (o * grid.channels + c) * grid.inner;
        ref::fake_quantize_kernel({expected.x.data() + at, grid.inner, 1.0f / q.scale, q.scale,
                                   static_cast<float>(r.lo - q.zero_point),
                                   static_cast<float>(r.hi - q.zero_point),
                                   expected.out.data() + at, expected.inside.data() + at});
      }
    }
    ASSERT_EQ(others, expected_others);
    ASSERT_EQ(float_difference(got.out.data(), expected.out.data(), grid.elements()), "");
    ASSERT_EQ(first_difference(got.inside.data(), expected.inside.data(), grid.elements()), "");
  }
}

TEST_P(FakeQuantizeTest, Steps) {
  Random random(3);
  const ChannelGrid grids[] = {{1, 1, 1},    {1, 1, 1000}, {1, 1, 70001}, {1, 5, 9},
                               {1, 600, 33}, {3, 1, 20},   {4, 3, 50},    {40, 17, 8},
                               {2, 300, 11}, {2, 3, 40000}};
  for (const ChannelGrid& grid : grids) {
    for (int round = 0; round < 6; ++round) {
      run_steps(random, grid);
      ASSERT_FALSE(HasFatalFailure())
          << "outer " << grid.outer << " channels " << grid.channels << " inner " << grid.inner;
    }
  }
}

// Rounding by given scales, observing without rounding, and the gradient over several tasks.
TEST_P(FakeQuantizeTest, Halves) {
  Random random(4);
  Model m({1, 2, 40000});
  for (float& v : m.x) v = random.real(-3.0f, 3.0f);
  FakeQuantizeStep step{};
  step.x = m.x.data();
  step.grid = m.grid;
  step.scale = m.scale.data();
  step.zero_point = m.zero.data();
  step.range = {0, 3};
  step.out = m.out.data();
  m.zero = {1, 2};
  EXPECT_EQ(fake_quantize_step(step), 0);
  for (int64_t i = 0; i < m.grid.elements(); ++i) {
    const float zero = i < m.grid.inner ? 1.0f : 2.0f;
    ASSERT_EQ(m.out[i], std::clamp(std::nearbyint(m.x[i]), -zero, 3.0f - zero)) << i;
  }
  step.observe = true;
  step.rule = {true, 1.0f, 1e-6f, {0, 3}, false, 0};
  step.min = m.min.data();
  step.max = m.max.data();
  step.out = nullptr;
  EXPECT_EQ(fake_quantize_step(step), 0);
  EXPECT_EQ(m.min[1], *std::min_element(m.x.begin() + m.grid.inner, m.x.end()));
  const std::vector<float> scale = m.scale;
  step.scale = nullptr;  // observing alone
  step.zero_point = nullptr;
  step.rule = {true, 0.5f, 0.0f, {}, false, 0};
  const float before = m.max[1];
  m.x.back() = 11.0f;
  EXPECT_EQ(fake_quantize_step(step), 0);
  EXPECT_EQ(m.max[1], before + 0.5f * (11.0f - before));
  EXPECT_EQ(m.scale, scale);
  for (uint8_t& b : m.inside) b = random.chance(2);
  masked_gradient(m.x.data(), m.inside.data(), m.grid.elements(), m.out.data());
  for (int64_t i = 0; i < m.grid.elements(); ++i) {
    ASSERT_EQ(m.out[i], m.inside[i] ? m.x[i] : 0.0f) << i;
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(FakeQuantizeTest);

}  // namespace
}  // namespace octavo::testing
