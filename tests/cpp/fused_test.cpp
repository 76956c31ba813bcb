// abi/fused.h, which CPUs without FMA compute with, against std::fma.
#include "abi/fused.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "support.h"

namespace octavo::testing {
namespace {

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Any float: zeros, subnormal ones, infinities and NaN among them.
float any_float(Random& random) {
  return from_bits(static_cast<uint32_t>(random.integer(INT32_MIN, INT32_MAX)));
}

void expect_fused(float a, float b, float c) {
  const float wanted = std::fma(a, b, c), got = fused_multiply_add(a, b, c);
  if (std::isnan(wanted)) {
    ASSERT_TRUE(std::isnan(got)) << a << " * " << b << " + " << c << ": " << got;
  } else {
    ASSERT_EQ(std::memcmp(&got, &wanted, sizeof got), 0)
        << std::hexfloat << a << " * " << b << " + " << c << ": " << got << " for " << wanted;
  }
}

TEST(FusedTest, AnyFloats) {
  Random random(1);
  for (int i = 0; i < 300000; ++i) {
    expect_fused(any_float(random), any_float(random), any_float(random));
  }
}

TEST(FusedTest, InfinitiesAndNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float values[] = {0.0f,  -0.0f,  1.0f,      -2.5f,      1e-45f,
                          3e38f, -3e38f, kInfinity, -kInfinity, std::nanf("")};
  for (const float a : values) {
    for (const float b : values) {
      for (const float c : values) expect_fused(a, b, c);
    }
  }
}

// Sums of nearly the same size as the product, where most of its digits cancel; and sums so much
// larger that the product only decides a tie.
TEST(FusedTest, CancellationAndTies) {
  Random random(2);
  for (int i = 0; i < 300000; ++i) {
    const float a = static_cast<float>(random.integer(-255, 255));
    const float b =
        std::ldexp(static_cast<float>(random.integer(1, 1 << 24)), random.integer(-60, 0));
    float c = -(a * b);
    for (int step = random.integer(-2, 2); step != 0; step -= step > 0 ? 1 : -1) {
      c = std::nextafter(c, step > 0 ? 1e38f : -1e38f);
    }
    expect_fused(a, b, c);
    const float tie = std::ldexp(static_cast<float>(random.integer(1 << 23, 1 << 24)), 1);
    expect_fused(1.0f, 1.0f, tie);
    expect_fused(a, std::ldexp(1.0f, random.integer(-9, -6)), tie);
    expect_fused(from_bits(random.chance(2) ? 0x3f800001 : 0x3f7fffff),
                 random.chance(2) ? 1.0f : -1.0f, tie);
  }
}

}  // namespace
}  // namespace octavo::testing
