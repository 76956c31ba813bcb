// Upsampling against the reference.
#include "ops/upsample.h"

#include <cmath>

#include "image_case.h"

namespace octavo::testing {
namespace {

const std::vector<int32_t> kChannels = {1, 3, 8, 16, 17, 31, 32, 33, 64, 65, 100, 130};

class UpsampleTest : public IsaTest {
 protected:
  // Calls body(image, geometry) on random images and sizes, and compares what both wrote.
  template <typename Body>
  void for_random(uint64_t seed, int rounds, Body body) {
    Random random(seed);
    for (int round = 0; round < rounds; ++round) {
      const int dims = random.integer(1, 3);
      std::array<int64_t, 3> size{1, 1, 1};
      ResizeGeometry g;
      for (int d = 3 - dims; d < 3; ++d) {
        size[d] = random.integer(1, 9);
        if (random.chance(2)) {
          g.size[d] = random.integer(1, dims == 3 ? 12 : 30);
        } else {
          g.scale[d] = random.pick(std::vector<double>{2.0, 3.0, 0.5, 1.37, 2.5});
          g.size[d] = std::max<int64_t>(1, static_cast<int64_t>(size[d] * g.scale[d]));
        }
      }
      const int64_t batch = random.chance(20) ? 0 : random.integer(1, 2);
      const ImageCase image(random, batch, size, random.pick(kChannels), random.chance(2));
      std::vector<uint8_t> got(batch * g.size[0] * g.size[1] * g.size[2] * image.view.channels),
          expected(got.size());
      body(random, image, g, ref::Resize{g.size, g.scale}, got.data(), expected.data());
      ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
          << "round " << round << " size " << size_text(size) << " to " << size_text(g.size)
          << " channels " << image.view.channels;
    }
  }
};

TEST_P(UpsampleTest, Nearest) {
  for_random(1, 300,
             [](Random& random, const ImageCase& x, const ResizeGeometry& g, const ref::Resize& to,
                uint8_t* got, uint8_t* expected) {
               const bool exact = random.chance(2);
               upsample_nearest(x.view, g, exact, got);
               ref::upsample_nearest(x.reference, to, exact, expected);
             });
}

TEST_P(UpsampleTest, Linear) {
  for_random(2, 300,
             [](Random& random, const ImageCase& x, const ResizeGeometry& g, const ref::Resize& to,
                uint8_t* got, uint8_t* expected) {
               const bool align = random.chance(2);
               const int32_t zero = random_zero_point(random, x.is_signed());
               upsample_linear(x.view, zero, g, align, got);
               ref::upsample_linear(x.reference, zero, to, align, expected);
             });
}

// Rows longer than a block of the driver.
TEST_P(UpsampleTest, WideImages) {
  Random random(3);
  const ImageCase image(random, 1, {1, 3, 700}, 5, true);
  ResizeGeometry g;
  g.size = {1, 5, 1500};
  const ref::Resize to{g.size, g.scale};
  std::vector<uint8_t> got(5 * 1500 * 5), expected(got.size());
  upsample_linear(image.view, 3, g, false, got.data());
  ref::upsample_linear(image.reference, 3, to, false, expected.data());
  ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "");
  upsample_nearest(image.view, g, false, got.data());
  ref::upsample_nearest(image.reference, to, false, expected.data());
  ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "");
}

// Along one dimension, with doubles: the weights' 14 bits cost at most 255 / 2^15 of a step.
TEST_P(UpsampleTest, IsTheNearestStep) {
  Random random(4);
  for (int round = 0; round < 40; ++round) {
    const int64_t in = random.integer(2, 20), out = random.integer(2, 50);
    const ImageCase image(random, 1, {1, 1, in}, 40, false);
    ResizeGeometry g;
    g.size = {1, 1, out};
    std::vector<uint8_t> got(out * 40);
    upsample_linear(image.view, 0, g, true, got.data());
    for (int64_t i = 0; i < out; ++i) {
      const double p = static_cast<double>(i) * static_cast<double>(in - 1) / (out - 1);
      const int64_t first = std::min(static_cast<int64_t>(p), in - 2);
      for (int32_t c = 0; c < 40; ++c) {
        const ref::Bytes& q = image.reference.bytes;
        const double a = q.at(first * 40 + c), b = q.at((first + 1) * 40 + c);
        const double value = a + (b - a) * (p - static_cast<double>(first));
        ASSERT_LE(std::abs(got[i * 40 + c] - value), 0.51) << in << " to " << out << " at " << i;
      }
    }
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(UpsampleTest);

}  // namespace
}  // namespace octavo::testing
