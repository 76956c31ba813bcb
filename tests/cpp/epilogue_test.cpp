// abi/requantize.h, which every other test takes as given, against an independent statement of the
// same arithmetic.
#include <cfenv>
#include <cmath>
#include <limits>

#include "abi/requantize.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(EpilogueTest, RoundsHalfToEven) {
  ASSERT_EQ(std::fegetround(), FE_TONEAREST);
  for (int32_t quarter = -4200; quarter <= 4200; ++quarter) {
    const float x = static_cast<float>(quarter) * 0.25f;
    EXPECT_EQ(round_half_even(x), std::nearbyint(x)) << x;
    for (const float toward : {-kInf, kInf}) {
      const float y = std::nextafter(x, toward);
      EXPECT_EQ(round_half_even(y), std::nearbyint(y)) << y;
    }
  }
  EXPECT_EQ(round_half_even(0.5f), 0.0f);
  EXPECT_EQ(round_half_even(1.5f), 2.0f);
  EXPECT_EQ(round_half_even(2.5f), 2.0f);
  EXPECT_EQ(round_half_even(-0.5f), 0.0f);
  EXPECT_EQ(round_half_even(-2.5f), -2.0f);
  EXPECT_EQ(round_half_even(4194303.5f), 4194304.0f);
}

TEST(EpilogueTest, ClampTakesNanToTheLowerBound) {
  EXPECT_EQ(clamp_float(std::nanf(""), -3.0f, 7.0f), -3.0f);
  EXPECT_EQ(clamp_float(kInf, -3.0f, 7.0f), 7.0f);
  EXPECT_EQ(clamp_float(-kInf, -3.0f, 7.0f), -3.0f);
  EXPECT_EQ(clamp_float(1e38f, -3.0f, 7.0f), 7.0f);
  EXPECT_EQ(clamp_float(0.25f, -3.0f, 7.0f), 0.25f);
}

// The same steps in double, rounded to float after each one.
double as_float(double x) { return static_cast<double>(static_cast<float>(x)); }

int32_t requantized(int64_t acc, double row_scale, double bias, double mult, double residual,
                    int32_t lo, int32_t hi) {
  double x = as_float(static_cast<double>(acc));
  x = as_float(x * row_scale);
  x = as_float(x + bias);
  x = as_float(x * mult);
  x = as_float(x + residual);
  return ref::round_and_clamp(static_cast<float>(x), lo, hi);
}

TEST(EpilogueTest, RequantizesStepByStep) {
  Random random(1);
  for (int round = 0; round < 20000; ++round) {
    const int32_t acc = random.integer(-(1 << 30), 1 << 30) >> random.integer(0, 28);
    const float mult = std::ldexp(random.real(1.0f, 2.0f), -random.integer(0, 30));
    const float bias = random.chance(2) ? 0.0f : random.real(-1e6f, 1e6f),
                row_scale = random.real(0.1f, 2.0f);
    const uint8_t added = random.byte();
    const int32_t row_zero = random.integer(0, 255), col_sum = random.integer(-30000, 30000);
    const int32_t w_zero = random.integer(-128, 127), row_sum = random.integer(-30000, 30000);
    Epilogue e{};
    e.mult = &mult;
    e.bias = &bias;
    const bool dynamic = random.chance(2), affine = random.chance(2), residual = random.chance(2);
    int64_t corrected = acc;
    if (dynamic) {
      e.row_scale = &row_scale;
      e.row_zero = &row_zero;
      e.col_sum = &col_sum;
      corrected -= int64_t{row_zero} * col_sum;
    }
    if (affine) {
      e.w_zero = &w_zero;
      e.row_sum = &row_sum;
      corrected -= int64_t{w_zero} * row_sum;
    }
    double residual_steps = 0.0;
    if (residual) {
      e.add = &added;
      e.add_zero = 100;
      e.add_scale = 0.37f;
      e.add_signed = random.chance(2);
      const int32_t q = e.add_signed ? static_cast<int8_t>(added) : added;
      residual_steps = as_float(static_cast<double>(q - 100) * static_cast<double>(0.37f));
    }
    const bool is_signed = random.chance(2);
    const int32_t qmin = is_signed ? -128 : 0;
    e.out_zero = qmin + random.integer(0, 255);
    e.lo = static_cast<float>(qmin - e.out_zero);
    e.hi = static_cast<float>(qmin + 255 - e.out_zero);
    uint8_t out = 0;
    store_output(is_signed ? OutKind::kS8 : OutKind::kU8, static_cast<uint32_t>(acc), e, 0, 0, &out,
                 0);
    const int32_t expected =
        e.out_zero + requantized(corrected, dynamic ? row_scale : 1.0, bias, mult, residual_steps,
                                 qmin - e.out_zero, qmin + 255 - e.out_zero);
    const int32_t got = is_signed ? static_cast<int8_t>(out) : out;
    ASSERT_EQ(got, expected) << "acc=" << corrected << " mult=" << mult << " bias=" << bias;

    int32_t raw = 0;
    store_output(OutKind::kI32, static_cast<uint32_t>(acc), e, 0, 0, &raw, 0);
    ASSERT_EQ(raw, corrected);

    e.lo = random.chance(2) ? 0.0f : -kInf;
    e.hi = kInf;
    float real = 0.0f;
    store_output(OutKind::kF32, static_cast<uint32_t>(acc), e, 0, 0, &real, 0);
    double x = as_float(static_cast<double>(corrected));
    if (dynamic) x = as_float(x * row_scale);
    x = as_float(as_float(x * mult) + bias);
    ASSERT_EQ(real, static_cast<float>(std::max(x, static_cast<double>(e.lo))));
  }
}

TEST(EpilogueTest, FloatOutputsLetNanThrough) {
  const float mult = 1.0f, bias = 0.0f, row_scale = std::nanf("");
  Epilogue e{};
  e.mult = &mult;
  e.bias = &bias;
  e.row_scale = &row_scale;
  e.lo = 0.0f;
  e.hi = 6.0f;
  float out = 0.0f;
  store_output(OutKind::kF32, 3, e, 0, 0, &out, 0);
  EXPECT_TRUE(std::isnan(out));
}

TEST(ReferenceTest, QuantizesSpecialValues) {
  const ref::Affine q{0.5f, 3};
  EXPECT_EQ(ref::quantize(std::nanf(""), q, 0, 255), 3);
  EXPECT_EQ(ref::quantize(kInf, q, 0, 255), 255);
  EXPECT_EQ(ref::quantize(-kInf, q, 0, 255), 0);
  EXPECT_EQ(ref::quantize(3e38f, q, 0, 255), 255);
  EXPECT_EQ(ref::quantize(0.25f, q, 0, 255), 3);  // a tie: rounds to 0, then the zero point
  EXPECT_EQ(ref::quantize(0.75f, q, 0, 255), 5);  // a tie: rounds to 2
  EXPECT_EQ(ref::quantize(-0.25f, q, 0, 255), 3);
  EXPECT_EQ(ref::quantize(1e-40f, q, 0, 255), 3);
  EXPECT_EQ(ref::quantize(3e38f, {1.0f, 5}, std::numeric_limits<int32_t>::min(),
                          std::numeric_limits<int32_t>::max()),
            std::numeric_limits<int32_t>::max());
}

}  // namespace
}  // namespace octavo::testing
