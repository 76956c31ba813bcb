// linear_function() against the reference: linear() in float32, the function, one rounding.
#include "ops/linear_function.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "abi/cell.h"
#include "layer_case.h"

namespace octavo::testing {
namespace {

struct Shape {
  int64_t m;
  int32_t n, k;
};

class LinearFunctionTest : public IsaTest {
 protected:
  void check(Random& random, const Shape& s, bool is_signed, bool out_signed, const char* kernel) {
    const ForcedKernel forced(kernel);
    const auto zeros = random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
    const QuantizedBytes x(random, s.m * s.k, is_signed);
    const LayerCase layer(random, 1, s.n, 1, s.k, zeros, random.chance(2), x.qparams.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, s.n, 1, s.k}, layer.params, false);
    std::vector<float> floats(s.m * s.n);
    ref::Output real{OutKind::kF32, {}};
    ref::linear(layer.reference(), x.reference(), s.m, x.affine(), real, {}, floats.data());
    const float slope = random.real(-1.0f, 1.0f);
    const int64_t pitch = s.n + random.integer(0, 3);
    for (const FloatFunction function : {FloatFunction::kLeakyRelu, FloatFunction::kTanh}) {
      const bool tanh = function == FloatFunction::kTanh;
      const QParams output{tanh ? 1.0f / 128 : layer.output_scale(random, x.qparams.scale),
                           out_signed ? -5 : 130};
      const int32_t lo = out_signed ? -128 : 0;
      std::vector<uint8_t> out(s.m * pitch, 0xEE), expected = out;
      for (int64_t r = 0; r < s.m; ++r) {
        for (int64_t c = 0; c < s.n; ++c) {
          const float y = floats[r * s.n + c];
          const float f = tanh ? cell_tanh(y) : y > 0.0f ? y : y * slope;
          const int32_t q = ref::quantize(f, {output.scale, output.zero_point}, lo, lo + 255);
          ref::store_byte(expected.data(), r * pitch + c, out_signed, q);
        }
      }
      linear_function(weight, {x.data.data(), s.m, s.k, s.k, is_signed}, x.qparams, function, slope,
                      output, out_signed, out.data(), pitch);
      ASSERT_EQ(out, expected) << (kernel ? kernel : "chosen kernel") << " m=" << s.m
                               << " n=" << s.n << " k=" << s.k << " tanh=" << tanh;
    }
  }
};

TEST_P(LinearFunctionTest, EqualsReference) {
  Random random(1);
  const std::vector<int64_t> rows = {0, 1, 2, 7, 16, 33, 100};
  const std::vector<int32_t> columns = {1, 2, 15, 17, 64, 65, 129, 200};
  const std::vector<int32_t> depths = {1, 3, 4, 31, 64, 100, 257};
  for (const char* kernel : kernel_choices(set())) {
    for (int round = 0; round < (emulated() ? 4 : 12); ++round) {
      check(random, {random.pick(rows), random.pick(columns), random.pick(depths)},
            random.chance(2), random.chance(2), kernel);
      if (HasFatalFailure()) return;
    }
  }
}

// More columns than a pass takes, more rows than a task takes.
TEST_P(LinearFunctionTest, EqualsReferenceAcrossBlocks) {
  Random random(2);
  for (const Shape shape : {Shape{3, 3000, 20}, Shape{emulated() ? 40 : 700, 40, 40}}) {
    check(random, shape, true, false, nullptr);
    check(random, shape, false, true, nullptr);
    if (HasFatalFailure()) return;
  }
}

TEST_P(LinearFunctionTest, RefusesWhatHasNoResult) {
  Random random(3);
  const LayerCase layer(random, 1, 4, 1, 6, LayerCase::Zeros::kNone, true, 1.0f);
  const QuantizedWeight weight(layer.weights.data(), {1, 4, 1, 6}, layer.params, false);
  const QuantizedBytes x(random, 6, false);
  uint8_t out[4];
  const auto run = [&](int64_t columns, float slope, QParams output) {
    linear_function(weight, {x.data.data(), 1, columns, 6, false}, x.qparams,
                    FloatFunction::kLeakyRelu, slope, output, false, out, 4);
  };
  EXPECT_NO_THROW(run(6, 0.1f, {0.5f, 0}));
  EXPECT_THROW(run(5, 0.1f, {0.5f, 0}), std::invalid_argument);
  EXPECT_THROW(run(6, 0.1f, {0.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run(6, 0.1f, {1e-45f, 0}), std::invalid_argument);
  EXPECT_THROW(run(6, 0.1f, {0.5f, 256}), std::invalid_argument);
  EXPECT_THROW(run(6, std::numeric_limits<float>::infinity(), {0.5f, 0}), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(LinearFunctionTest);

}  // namespace
}  // namespace octavo::testing
