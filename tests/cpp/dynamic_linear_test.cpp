// dynamic_linear() against the reference: all float types, per row and per tensor, odd sizes, rows
// that are not finite, inside wider matrices between guard pages.
#include "ops/dynamic_linear.h"

#include <cmath>
#include <limits>

#include "abi/gelu.h"
#include "abi/half.h"
#include "guard_buffer.h"
#include "layer_case.h"

namespace octavo::testing {
namespace {

struct Shape {
  int64_t m;
  int32_t n, k;
};

constexpr int64_t kBytes[] = {4, 2, 2};

float load_float(const void* data, int64_t i, int type) {
  if (type == 0) return static_cast<const float*>(data)[i];
  const uint16_t half = static_cast<const uint16_t*>(data)[i];
  return type == 1 ? bf16_to_float(half) : f16_to_float(half);
}

void store_float(float v, int64_t i, int type, void* data) {
  if (type == 0) static_cast<float*>(data)[i] = v;
  if (type == 1) static_cast<uint16_t*>(data)[i] = float_to_bf16(v);
  if (type == 2) static_cast<uint16_t*>(data)[i] = float_to_f16(v);
}

class DynamicLinearTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }

  // Rows of different sizes of values; now and then one of zeros, of one sign, or not finite.
  std::vector<uint8_t> inputs(Random& random, const Shape& s, int type, bool finite) {
    std::vector<uint8_t> x(s.m * s.k * kBytes[type]);
    for (int64_t r = 0; r < s.m; ++r) {
      const float size = std::exp2(static_cast<float>(random.integer(-20, 12)));
      const float lo = random.chance(4) ? 0.0f : -size, hi = random.chance(4) ? 0.0f : size;
      for (int32_t i = 0; i < s.k; ++i) store_float(random.real(lo, hi), r * s.k + i, type, &x[0]);
      if (!finite && random.chance(3)) {
        const float bad = random.pick(std::vector<float>{std::numeric_limits<float>::infinity(),
                                                         -std::numeric_limits<float>::infinity(),
                                                         std::numeric_limits<float>::quiet_NaN()});
        store_float(bad, r * s.k + random.integer(0, s.k - 1), type, &x[0]);
      }
    }
    return x;
  }

  void check(Random& random, const Shape& s, int type, bool finite, const char* kernel) {
    const ForcedKernel forced(kernel);
    const LayerCase::Zeros zeros =
        random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
    const LayerCase layer(random, 1, s.n, 1, s.k, zeros, random.chance(2), 0.02f);
    const QuantizedWeight weight(layer.weights.data(), {1, s.n, 1, s.k}, layer.params, false);
    const std::vector<uint8_t> x = inputs(random, s, type, finite);
    const DynamicSpec spec{random.chance(2), random.chance(2), random.chance(2), random.chance(2)};
    std::vector<uint8_t> expected(s.m * s.n * kBytes[type]), out(expected.size(), 0xEE);
    ref::dynamic_linear(layer.reference(), x.data(), s.m,
                        {type, spec.per_tensor, spec.reduce_range, spec.relu, spec.gelu},
                        expected.data());
    dynamic_linear(weight, {x.data(), static_cast<FloatType>(type), s.m, s.k, s.k}, spec,
                   out.data(), s.n * kBytes[type]);
    for (int64_t i = 0; i < s.m * s.n; ++i) {
      const float got = load_float(out.data(), i, type);
      const float want = load_float(expected.data(), i, type);
      ASSERT_TRUE((std::isnan(got) && std::isnan(want)) || got == want)
          << "type " << type << " m=" << s.m << " n=" << s.n << " k=" << s.k << " element " << i
          << ": got " << got << ", expected " << want << (spec.per_tensor ? " per tensor" : "")
          << (spec.reduce_range ? " reduced" : "") << (spec.relu ? " relu" : "")
          << (spec.gelu ? " gelu" : "");
    }
  }
};

TEST_P(DynamicLinearTest, EqualsReference) {
  const std::vector<int64_t> rows = {1, 2, 3, 4, 7, 8, 16, 25, 33, 48, 65};
  const std::vector<int32_t> columns = {1, 7, 8, 16, 17, 31, 33, 64, 65, 100};
  const std::vector<int32_t> depths = {1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 64, 67, 100, 257};
  for (const char* kernel : kernel_choices(set())) {
    Random random(11);
    for (int round = 0; round < (emulated() ? 9 : 60); ++round) {
      const Shape shape{random.pick(rows), random.pick(columns), random.pick(depths)};
      check(random, shape, round % 3, random.chance(2), kernel);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DynamicLinearTest, EqualsReferenceAcrossBlocks) {
  Random random(12);
  for (const Shape shape : {Shape{300, 70, 1500}, Shape{2, 1030, 300}, Shape{3, 3, 30000}}) {
    if (emulated() && shape.m == 300) continue;
    for (int type = 0; type < 3; ++type) {
      check(random, shape, type, true, nullptr);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DynamicLinearTest, ReadsAndWritesOnlyItsViews) {
  GuardBuffer in(1 << 17), to(1 << 17);
  Random random(13);
  const Shape s{9, 19, 35};
  const LayerCase layer(random, 1, s.n, 1, s.k, LayerCase::Zeros::kNone, true, 0.02f);
  const QuantizedWeight weight(layer.weights.data(), {1, s.n, 1, s.k}, layer.params, false);
  for (const Side side : {Side::kEnd, Side::kBegin}) {
    for (int type = 0; type < 3; ++type) {
      const int64_t stride = s.k + 5, out_stride = (s.n + 3) * kBytes[type];
      uint8_t* x = in.place(((s.m - 1) * stride + s.k) * kBytes[type], side, kBytes[type]);
      std::vector<uint8_t> dense(s.m * s.k * kBytes[type]);
      for (int64_t r = 0; r < s.m; ++r) {
        for (int32_t i = 0; i < s.k; ++i) {
          const float v = random.real(-3.0f, 5.0f);
          store_float(v, r * stride + i, type, x);
          store_float(v, r * s.k + i, type, dense.data());
        }
      }
      const size_t width = s.n * kBytes[type];
      uint8_t* out = to.place((s.m - 1) * out_stride + width, side, kBytes[type]);
      std::vector<uint8_t> expected(s.m * width);
      ref::dynamic_linear(layer.reference(), dense.data(), s.m, {type, false, false, false},
                          expected.data());
      dynamic_linear(weight, {x, static_cast<FloatType>(type), s.m, s.k, stride}, {}, out,
                     out_stride);
      for (int64_t r = 0; r < s.m; ++r) {
        EXPECT_EQ(first_difference(out + r * out_stride, &expected[r * width], width), "");
        for (int64_t i = width; r + 1 < s.m && i < out_stride; ++i)
          ASSERT_EQ(out[r * out_stride + i], GuardBuffer::kFill) << "wrote between rows";
      }
      EXPECT_TRUE(in.margin_intact() && to.margin_intact());
    }
  }
}

TEST_P(DynamicLinearTest, RefusesOtherWidthsAndAcceptsNoRows) {
  Random random(14);
  const LayerCase layer(random, 1, 4, 1, 8, LayerCase::Zeros::kNone, true, 0.02f);
  const QuantizedWeight weight(layer.weights.data(), {1, 4, 1, 8}, layer.params, false);
  const std::vector<float> x(64);
  std::vector<float> out(64, -1.0f);
  EXPECT_THROW(dynamic_linear(weight, {x.data(), FloatType::kF32, 2, 7, 7}, {}, out.data(), 16),
               std::invalid_argument);
  dynamic_linear(weight, {x.data(), FloatType::kF32, 0, 8, 8}, {}, out.data(), 16);
  dynamic_linear(weight, {x.data(), FloatType::kF32, 0, 8, 8}, {true}, out.data(), 16);
  EXPECT_EQ(out[0], -1.0f);
}

OCTAVO_INSTANTIATE_ISA_TESTS(DynamicLinearTest);

TEST(GeluTest, IsCloseToTheDefinition) {
  for (double x = -12.0; x <= 12.0; x += 1.0 / 4096) {
    const auto f = static_cast<float>(x);
    const double exact = 0.5 * f * std::erfc(-static_cast<double>(f) / std::sqrt(2.0));
    EXPECT_NEAR(gelu(f), exact, f > 0 ? 3e-7 * exact : 1e-6) << f;
    EXPECT_LE(gelu(-std::abs(f)), 0.0f) << f;
  }
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(gelu(inf), inf);
  EXPECT_EQ(gelu(-inf), 0.0f);
  EXPECT_EQ(gelu(0.0f), 0.0f);
  EXPECT_EQ(gelu(1e30f), 1e30f);
  EXPECT_TRUE(std::isnan(gelu(std::numeric_limits<float>::quiet_NaN())));
}

// Every fp16 value there and back; roundings at ties, the ends of the range and below it.
TEST(HalfTest, ConvertsAsIeeeDoes) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float f16 = f16_to_float(half), bf16 = bf16_to_float(half);
    if (!std::isnan(f16)) {
      EXPECT_EQ(float_to_f16(f16), half);
    }
    if (!std::isnan(bf16)) {
      EXPECT_EQ(float_to_bf16(bf16), half);
    }
    EXPECT_EQ(std::isnan(f16), (bits & 0x7fff) > 0x7c00);
    EXPECT_EQ(std::isnan(f16_to_float(float_to_f16(f16))), std::isnan(f16));
  }
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {  // half-way to the next goes to the even one
    const double low = f16_to_float(static_cast<uint16_t>(bits));
    const double high = f16_to_float(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    EXPECT_EQ(float_to_f16(middle), bits + (bits & 1));
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(float_to_f16(std::nextafter(-middle, -1e9f)), 0x8000 + bits + 1);
  }
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3f80);  // a tie
  EXPECT_EQ(float_to_bf16(3.4e38f), 0x7f80);
}

}  // namespace
}  // namespace octavo::testing
