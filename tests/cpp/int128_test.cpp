#include "util/int128.h"

#include <gtest/gtest.h>

#include <random>

namespace octavo::testing {
namespace {

TEST(Int128Test, ToDoubleRoundsAsTheCompilersConversionDoes) {
  std::mt19937_64 random(1);
  for (int bits = 1; bits <= 127; ++bits) {
    const UInt128 top = UInt128{1} << (bits - 1);
    for (int i = 0; i < 200; ++i) {
      const UInt128 noise = (UInt128{random()} << 64 | random()) & (top - 1);
      // Any bits; few leading bits, so that ties are frequent; those and one more at the end.
      const UInt128 few = noise >> (bits > 55 ? bits - 55 : 0) << (bits > 55 ? bits - 55 : 0);
      for (const UInt128 value : {top | noise, top | few, top | few | 1, top, top - 1}) {
        const auto exact = static_cast<Int128>(value);
        EXPECT_EQ(to_double(exact), static_cast<double>(exact)) << bits << " bits, case " << i;
      }
    }
  }
  EXPECT_EQ(to_double(0), 0.0);
}

}  // namespace
}  // namespace octavo::testing
