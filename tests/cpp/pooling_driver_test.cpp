// Pooling against the reference.
#include <stdexcept>

#include "ops/pooling.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

ImageView dense_view(const ref::Image& x) {
  ImageView view{};
  view.data = x.bytes.data;
  view.batch = x.batch;
  view.size = x.size;
  view.channels = x.channels;
  view.stride[2] = x.channels;
  view.stride[1] = view.stride[2] * x.size[2];
  view.stride[0] = view.stride[1] * x.size[1];
  view.batch_stride = view.stride[0] * x.size[0];
  view.is_signed = x.bytes.is_signed;
  return view;
}

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
PoolGeometry random_geometry(Random& random, bool dilated) {
  PoolGeometry g;
  g.ceil_mode = random.chance(2);
  for (int d = 1; d < 3; ++d) {
    g.kernel[d] = random.integer(1, 4);
    g.stride[d] = random.integer(1, 4);
    g.padding[d] = random.integer(0, g.kernel[d] / 2);
    g.dilation[d] = dilated ? random.integer(1, 2) : 1;
  }
  return g;
}

class PoolingDriverTest : public IsaTest {
 protected:
  // Calls body(image, geometry) on random images; sizes the output and checks that both sides agree
  // on it.
  template <typename Body>
  void for_random(uint64_t seed, bool dilated, Body body) {
    Random random(seed);
    for (int round = 0; round < 200; ++round) {
      const bool is_signed = random.chance(2);
      const std::array<int64_t, 3> size = {1, random.integer(1, 12), random.integer(1, 12)};
      const int64_t batch = random.chance(20) ? 0 : random.integer(1, 2);
      const int32_t channels = random.pick(std::vector<int32_t>{1, 3, 16, 17, 64, 70});
      std::vector<uint8_t> data(batch * size[1] * size[2] * channels);
      random.fill(data.data(), data.size());
      const ref::Image image{{data.data(), is_signed}, batch, size, channels};
      const PoolGeometry g = random_geometry(random, dilated);
      const ref::Pool pool = reference_pool(g);
      int64_t pixels = batch;
      for (int d = 0; d < 3; ++d) {
        ASSERT_EQ(g.output_size(d, size[d]), pool.output_size(d, size[d]))
            << "input " << size[d] << " kernel " << g.kernel[d] << " stride " << g.stride[d]
            << " padding " << g.padding[d] << " dilation " << g.dilation[d] << " ceil_mode "
            << g.ceil_mode;
        pixels *= pool.output_size(d, size[d]);
      }
      std::vector<uint8_t> got(pixels * channels), expected(pixels * channels);
      body(random, image, g, pool, got.data(), expected.data());
      ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
          << "round " << round << " size " << size[1] << "x" << size[2] << " channels " << channels
          << " kernel " << g.kernel[1] << "x" << g.kernel[2];
    }
  }
};

TEST_P(PoolingDriverTest, MaxPool) {
  for_random(1, true,
             [](Random&, const ref::Image& x, const PoolGeometry& g, const ref::Pool& pool,
                uint8_t* got, uint8_t* expected) {
               max_pool(dense_view(x), g, got);
               ref::max_pool(x, pool, expected);
             });
}

TEST_P(PoolingDriverTest, AveragePool) {
  for_random(2, false,
             [](Random& random, const ref::Image& x, const PoolGeometry& g, ref::Pool pool,
                uint8_t* got, uint8_t* expected) {
               AveragePoolOptions options;
               options.count_include_pad = random.chance(2);
               options.divisor_override = random.chance(4) ? random.integer(1, 9) : 0;
               pool.count_include_pad = options.count_include_pad;
               pool.divisor_override = options.divisor_override;
               const int32_t zero = random.byte() - (x.bytes.is_signed ? 128 : 0);
               avg_pool(dense_view(x), zero, g, options, got);
               ref::avg_pool(x, zero, pool, expected);
             });
}

TEST_P(PoolingDriverTest, AdaptiveAveragePool) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const bool is_signed = random.chance(2);
    const std::array<int64_t, 3> size = {1, random.integer(1, 12), random.integer(1, 12)};
    const std::array<int64_t, 3> to = {1, random.integer(1, 14), random.integer(1, 5)};
    const int32_t channels = random.integer(1, 70);
    std::vector<uint8_t> data(2 * size[1] * size[2] * channels);
    random.fill(data.data(), data.size());
    const ref::Image image{{data.data(), is_signed}, 2, size, channels};
    const int32_t zero = random.byte() - (is_signed ? 128 : 0);
    std::vector<uint8_t> got(2 * to[1] * to[2] * channels), expected(got.size());
    adaptive_avg_pool(dense_view(image), zero, to, got.data());
    ref::adaptive_avg_pool(image, zero, to, expected.data());
    ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "") << "round " << round;
  }
}

TEST_P(PoolingDriverTest, RefusesWindowsTooLargeToSumExactly) {
  const std::vector<uint8_t> x(64);
  std::vector<uint8_t> out(64);
  const ref::Image image{{x.data(), false}, 1, {1, 1, 1}, 1};
  PoolGeometry g;
  g.kernel = {1, 1 << 13, 1 << 13};
  g.padding = {0, 1 << 12, 1 << 12};
  EXPECT_THROW(avg_pool(dense_view(image), 0, g, {}, out.data()), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(PoolingDriverTest);

}  // namespace
}  // namespace octavo::testing
