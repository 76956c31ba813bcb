// Pooling against the reference.
#include <stdexcept>

#include "image_case.h"
#include "ops/pooling.h"

namespace octavo::testing {
namespace {

ref::Pool reference_pool(const PoolGeometry& g) {
  ref::Pool pool;
  pool.kernel = g.kernel;
  pool.stride = g.stride;
  pool.padding = g.padding;
  pool.dilation = g.dilation;
  pool.ceil_mode = g.ceil_mode;
  return pool;
}

// Padding is at most half the kernel, as torch demands.
PoolGeometry random_geometry(Random& random, int dims, bool dilated) {
  PoolGeometry g;
  g.ceil_mode = random.chance(2);
  for (int d = 3 - dims; d < 3; ++d) {
    g.kernel[d] = random.chance(8) ? random.integer(5, 13) : random.integer(1, 4);
    g.stride[d] = random.integer(1, 4);
    g.padding[d] = random.integer(0, g.kernel[d] / 2);
    g.dilation[d] = dilated ? random.integer(1, 2) : 1;
  }
  return g;
}

std::array<int64_t, 3> random_size(Random& random, int dims) {
  std::array<int64_t, 3> size{1, 1, 1};
  for (int d = 3 - dims; d < 3; ++d) size[d] = random.integer(1, dims == 3 ? 7 : 16);
  return size;
}

std::string geometry_text(const PoolGeometry& g) {
  std::string text;
  for (int d = 0; d < 3; ++d) {
    text += " kernel " + std::to_string(g.kernel[d]) + " stride " + std::to_string(g.stride[d]) +
            " padding " + std::to_string(g.padding[d]) + " dilation " +
            std::to_string(g.dilation[d]) + ",";
  }
  return text + (g.ceil_mode ? " ceil" : " floor");
}

const std::vector<int32_t> kChannels = {1, 3, 8, 16, 17, 31, 32, 33, 63, 64, 65, 70, 127, 130, 257};

class PoolingDriverTest : public IsaTest {
 protected:
  // Calls body(image, geometry) on random images; sizes the output and checks that both sides agree
  // on it.
  template <typename Body>
  void for_random(uint64_t seed, bool dilated, Body body) {
    Random random(seed);
    for (int round = 0; round < 400; ++round) {
      const int dims = random.integer(1, 3);
      const std::array<int64_t, 3> size = random_size(random, dims);
      const int64_t batch = random.chance(20) ? 0 : random.integer(1, 2);
      const ImageCase image(random, batch, size, random.pick(kChannels), random.chance(2));
      const PoolGeometry g = random_geometry(random, dims, dilated);
      const ref::Pool pool = reference_pool(g);
      int64_t pixels = batch;
      for (int d = 0; d < 3; ++d) {
        ASSERT_EQ(g.output_size(d, size[d]), pool.output_size(d, size[d]))
            << "dim " << d << " input " << size[d] << geometry_text(g);
        pixels *= pool.output_size(d, size[d]);
      }
      const int32_t channels = image.view.channels;
      std::vector<uint8_t> got(pixels * channels), expected(pixels * channels);
      body(random, image, g, pool, got.data(), expected.data());
      ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
          << "round " << round << " size " << size_text(size) << " channels " << channels
          << geometry_text(g);
    }
  }
};

TEST_P(PoolingDriverTest, MaxPool) {
  for_random(1, true,
             [](Random&, const ImageCase& x, const PoolGeometry& g, const ref::Pool& pool,
                uint8_t* got, uint8_t* expected) {
               max_pool(x.view, g, got);
               ref::max_pool(x.reference, pool, expected);
             });
}

TEST_P(PoolingDriverTest, AveragePool) {
  for_random(2, false,
             [](Random& random, const ImageCase& x, const PoolGeometry& g, ref::Pool pool,
                uint8_t* got, uint8_t* expected) {
               AveragePoolOptions options;
               options.count_include_pad = random.chance(2);
               options.divisor_override = random.chance(4) ? random.integer(1, 9) : 0;
               pool.count_include_pad = options.count_include_pad;
               pool.divisor_override = options.divisor_override;
               const int32_t zero = random_zero_point(random, x.is_signed());
               avg_pool(x.view, zero, g, options, got);
               ref::avg_pool(x.reference, zero, pool, expected);
             });
}

TEST_P(PoolingDriverTest, AdaptivePool) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const int dims = random.integer(1, 3);
    const std::array<int64_t, 3> size = random_size(random, dims);
    std::array<int64_t, 3> to{1, 1, 1};
    // Output sizes that divide the input take another path than others.
    for (int d = 3 - dims; d < 3; ++d) to[d] = random.chance(3) ? size[d] : random.integer(1, 9);
    const ImageCase image(random, 2, size, random.pick(kChannels), random.chance(2));
    const int32_t zero = random_zero_point(random, image.is_signed());
    std::vector<uint8_t> got(2 * to[0] * to[1] * to[2] * image.view.channels), expected(got.size());
    adaptive_avg_pool(image.view, zero, to, got.data());
    ref::adaptive_avg_pool(image.reference, zero, to, expected.data());
    ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
        << "average, round " << round << " size " << size_text(size) << " to " << size_text(to);
    adaptive_max_pool(image.view, to, got.data());
    ref::adaptive_max_pool(image.reference, to, expected.data());
    ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
        << "maximum, round " << round << " size " << size_text(size) << " to " << size_text(to);
  }
}

TEST_P(PoolingDriverTest, GlobalAverageOfManyPixels) {
  Random random(4);
  for (const int64_t side : {7, 16, 17, 40}) {
    for (const int32_t channels : {64, 100, 2048}) {
      const ImageCase image(random, 1, {1, side, side}, channels, random.chance(2));
      const int32_t zero = random_zero_point(random, image.is_signed());
      std::vector<uint8_t> got(channels), expected(channels);
      adaptive_avg_pool(image.view, zero, {1, 1, 1}, got.data());
      ref::adaptive_avg_pool(image.reference, zero, {1, 1, 1}, expected.data());
      ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
          << "side " << side << " channels " << channels;
    }
  }
}

// More columns than scratch holds at once: the row is computed in parts.
TEST_P(PoolingDriverTest, WideImages) {
  Random random(5);
  PoolGeometry g;
  g.kernel = {1, 5, 5};
  g.padding = {0, 2, 2};
  const ImageCase image(random, 1, {1, 5, 400}, 1100, false);
  std::vector<uint8_t> got(5 * 400 * 1100), expected(got.size());
  max_pool(image.view, g, got.data());
  ref::max_pool(image.reference, reference_pool(g), expected.data());
  EXPECT_EQ(first_difference(got.data(), expected.data(), got.size()), "");
}

TEST_P(PoolingDriverTest, RefusesWindowsTooLargeToSumExactly) {
  Random random(6);
  std::vector<uint8_t> out(64);
  const ImageCase image(random, 1, {1, 1, 1}, 1, false);
  PoolGeometry g;
  g.kernel = {1, 1 << 13, 1 << 13};
  g.padding = {0, 1 << 12, 1 << 12};
  EXPECT_THROW(avg_pool(image.view, 0, g, {}, out.data()), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(PoolingDriverTest);

}  // namespace
}  // namespace octavo::testing
