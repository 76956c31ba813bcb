// dynamic_conv() against the reference: all float types and both layouts, per image and per tensor,
// images that are not finite, between guard pages.
#include "ops/dynamic_conv.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "abi/half.h"
#include "guard_buffer.h"
#include "layer_case.h"

namespace octavo::testing {
namespace {

struct Shape {
  const char* what;
  int64_t batch;
  std::array<int64_t, 3> size;
  int32_t groups, n, k;  // n and k per group
  ConvGeometry g;

  int32_t channels() const { return groups * k; }
  int64_t elements() const { return size[0] * size[1] * size[2] * channels(); }  // of an image
  int64_t outputs() const {
    int64_t count = groups * n;
    for (int d = 0; d < 3; ++d) count *= g.output_size(d, size[d]);
    return count;
  }
};

ConvGeometry geometry(Spatial kernel, Spatial padding = {0, 0, 0}, Spatial stride = {1, 1, 1}) {
  return {kernel, stride, padding, padding, {1, 1, 1}};
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {"1x1", 3, {1, 5, 7}, 1, 20, 19, geometry({1, 1, 1})},
      {"3x3", 2, {1, 9, 11}, 1, 20, 8, geometry({1, 3, 3}, {0, 1, 1})},
      {"3x3 of 68 channels", 2, {1, 9, 17}, 1, 7, 68, geometry({1, 3, 3}, {0, 1, 1})},
      {"first layer", 2, {1, 19, 21}, 1, 16, 3, geometry({1, 7, 7}, {0, 3, 3}, {1, 2, 2})},
      {"one channel", 2, {1, 8, 8}, 1, 8, 1, geometry({1, 3, 3}, {0, 1, 1})},
      {"depthwise", 2, {1, 7, 9}, 37, 1, 1, geometry({1, 3, 3}, {0, 1, 1})},
      {"groups", 2, {1, 6, 6}, 3, 5, 7, geometry({1, 3, 3}, {0, 1, 1})},
      {"one pixel", 4, {1, 1, 1}, 1, 9, 64, geometry({1, 3, 3}, {0, 1, 1})},
      {"kernel over image", 2, {1, 3, 2}, 1, 6, 8, geometry({1, 5, 5}, {0, 2, 2})},
      {"conv1d", 5, {1, 1, 133}, 1, 12, 10, geometry({1, 1, 3}, {0, 0, 1})},
      {"conv3d", 2, {4, 5, 6}, 1, 9, 8, geometry({3, 3, 3}, {1, 1, 1})},
      {"conv3d strided", 1, {5, 6, 7}, 2, 3, 4, geometry({2, 3, 1}, {0, 1, 0}, {2, 1, 3})},
      {"tiles of pixels", 1, {1, 70, 70}, 1, 3, 2, geometry({1, 1, 1})},
      {"tiles of channels", 2, {1, 12, 13}, 1, 4, 150, geometry({1, 1, 1})},
      {"no images", 0, {1, 5, 5}, 1, 4, 4, geometry({1, 3, 3})},
      {"no output", 2, {1, 2, 2}, 1, 4, 4, geometry({1, 3, 3})},
  };
  return all;
}

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

LayerCase layer_of(Random& random, const Shape& s) {
  const LayerCase::Zeros zeros =
      random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
  return LayerCase(random, s.groups, s.n, s.g.taps(), s.k, zeros, random.chance(2), 0.02f);
}

class DynamicConvTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }

  // Images of different ranges; now and then one of zeros, of one sign, or not finite.
  void fill(Random& random, const Shape& s, int type, bool finite, void* x) {
    for (int64_t b = 0; b < s.batch; ++b) {
      const float size = std::exp2(static_cast<float>(random.integer(-20, 12)));
      const float lo = random.chance(4) ? 0.0f : -size, hi = random.chance(4) ? 0.0f : size;
      const int64_t first = b * s.elements();
      for (int64_t i = 0; i < s.elements(); ++i)
        store_float(random.real(lo, hi), first + i, type, x);
      if (!finite && random.chance(2)) {
        const float bad = random.pick(std::vector<float>{std::numeric_limits<float>::infinity(),
                                                         -std::numeric_limits<float>::infinity(),
                                                         std::numeric_limits<float>::quiet_NaN()});
        const auto last = static_cast<int32_t>(s.elements()) - 1;
        store_float(bad, first + random.integer(0, last), type, x);
      }
    }
  }

  void expect_equal(const Shape& s, const LayerCase& layer, const void* x, int type,
                    bool channels_last, const DynamicSpec& spec, const void* out) {
    std::vector<uint8_t> expected(s.batch * s.outputs() * kBytes[type]);
    const ref::Image image{{}, s.batch, s.size, s.channels()};
    const ref::Window window{s.g.kernel, s.g.stride, s.g.padding, s.g.padding_end, s.g.dilation};
    ref::dynamic_conv(layer.reference(), image, x, channels_last, window,
                      {type, spec.per_tensor, spec.reduce_range, spec.relu, spec.gelu},
                      expected.data());
    for (int64_t i = 0; i < s.batch * s.outputs(); ++i) {
      const float got = load_float(out, i, type), want = load_float(expected.data(), i, type);
      ASSERT_TRUE((std::isnan(got) && std::isnan(want)) || got == want)
          << s.what << " type " << type << (channels_last ? " channels last" : " planes")
          << (spec.per_tensor ? " per tensor" : "") << (spec.reduce_range ? " reduced" : "")
          << (spec.relu ? " relu" : "") << (spec.gelu ? " gelu" : "") << " element " << i
          << ": got " << got << ", expected " << want;
    }
  }
};

TEST_P(DynamicConvTest, EqualsReference) {
  Random random(21);
  for (const Shape& s : shapes()) {
    if (emulated() && s.elements() > 5000) continue;
    for (int round = 0; round < 6; ++round) {
      const int type = round % 3;
      const bool channels_last = round % 2 == 0;
      const LayerCase layer = layer_of(random, s);
      const ConvWeight weight(layer.weights.data(), s.groups, s.n, s.k, s.g, layer.params);
      std::vector<uint8_t> x(s.batch * s.elements() * kBytes[type]);
      fill(random, s, type, random.chance(2), x.data());
      const DynamicSpec spec{random.chance(3), random.chance(2), random.chance(2),
                             random.chance(4)};
      std::vector<uint8_t> out(s.batch * s.outputs() * kBytes[type], 0xEE);
      dynamic_conv(
          weight,
          {x.data(), static_cast<FloatType>(type), s.batch, s.size, s.channels(), channels_last},
          spec, out.data());
      expect_equal(s, layer, x.data(), type, channels_last, spec, out.data());
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DynamicConvTest, ReadsAndWritesOnlyItsViews) {
  GuardBuffer in(1 << 18), to(1 << 18);
  Random random(22);
  for (const Shape& s : shapes()) {
    if (s.batch == 0 || s.outputs() == 0 || s.elements() > 9000) continue;
    for (const Side side : {Side::kEnd, Side::kBegin}) {
      for (int round = 0; round < 6; ++round) {
        const int type = round % 3;
        const LayerCase layer = layer_of(random, s);
        const ConvWeight weight(layer.weights.data(), s.groups, s.n, s.k, s.g, layer.params);
        uint8_t* x = in.place(s.batch * s.elements() * kBytes[type], side, kBytes[type]);
        uint8_t* out = to.place(s.batch * s.outputs() * kBytes[type], side, kBytes[type]);
        fill(random, s, type, true, x);
        const std::vector<uint8_t> before(x, x + s.batch * s.elements() * kBytes[type]);
        dynamic_conv(
            weight,
            {x, static_cast<FloatType>(type), s.batch, s.size, s.channels(), round % 2 == 0}, {},
            out);
        expect_equal(s, layer, x, type, round % 2 == 0, {}, out);
        if (HasFatalFailure()) return;
        EXPECT_TRUE(in.margin_intact() && to.margin_intact()) << s.what;
        EXPECT_EQ(first_difference(x, before.data(), before.size()), "") << s.what;
      }
    }
  }
}

// What conv_transpose() gives for the bytes that the reference quantizes an image to.
TEST_P(DynamicConvTest, TransposedEqualsTheStaticOne) {
  GuardBuffer in(1 << 16), to(1 << 16);
  Random random(25);
  const int32_t groups = 2, n = 5, k = 6, channels = groups * k, outputs = groups * n;
  const std::array<int64_t, 3> size{1, 5, 7};
  const int64_t batch = 3, pixels = size[1] * size[2], elements = pixels * channels;
  const ConvTransposeGeometry g{{1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}};
  const Spatial extra{0, 1, 1};
  const int64_t out_elements =
      (g.output_size(1, size[1]) + 1) * (g.output_size(2, size[2]) + 1) * outputs;
  const LayerCase layer(random, groups, n, 9, k, LayerCase::Zeros::kNone, true, 0.02f);
  const ConvTransposeWeight weight(layer.weights.data(), groups, n, k, g, layer.params);
  const ptrdiff_t row = size[2] * channels, plane = size[1] * row;
  for (const bool channels_last : {false, true}) {
    float* x = in.place_array<float>(batch * elements, Side::kEnd);
    float* out = to.place_array<float>(batch * out_elements, Side::kEnd);
    for (int64_t i = 0; i < batch * elements; ++i) x[i] = random.real(-3.0f, 5.0f);
    dynamic_conv_transpose(weight, {x, FloatType::kF32, batch, size, channels, channels_last},
                           extra, {}, out);
    std::vector<uint8_t> bytes(elements);
    std::vector<float> expected(out_elements);
    for (int64_t b = 0; b < batch; ++b) {
      const float* own = x + b * elements;
      const auto [lo, hi] = std::minmax_element(own, own + elements);
      const ref::Affine q = ref::dynamic_qparams(*lo, *hi, false, false);
      for (int64_t i = 0; i < elements; ++i) {
        const int64_t p = i / channels, c = i % channels;
        bytes[i] =
            static_cast<uint8_t>(ref::quantize(own[channels_last ? i : c * pixels + p], q, 0, 255));
      }
      const ImageView image{bytes.data(), 1, size, channels, plane, {plane, row, channels}, false};
      conv_transpose(weight, image, extra, {q.scale, q.zero_point}, {OutKind::kF32, {}},
                     expected.data());
      EXPECT_EQ(first_difference(out + b * out_elements, expected.data(), out_elements * 4), "");
    }
    EXPECT_TRUE(in.margin_intact() && to.margin_intact());
  }
}

TEST_P(DynamicConvTest, ImageDoesNotDependOnItsNeighbours) {
  Random random(23);
  const Shape s{"3x3", 4, {1, 7, 6}, 1, 11, 5, geometry({1, 3, 3}, {0, 1, 1})};
  const LayerCase layer = layer_of(random, s);
  const ConvWeight weight(layer.weights.data(), s.groups, s.n, s.k, s.g, layer.params);
  std::vector<float> x(s.batch * s.elements()), all(s.batch * s.outputs()), one(s.outputs());
  fill(random, s, 0, true, x.data());
  x[s.elements() + 3] = std::numeric_limits<float>::quiet_NaN();
  dynamic_conv(weight, {x.data(), FloatType::kF32, s.batch, s.size, s.channels(), true}, {},
               all.data());
  for (int64_t b = 0; b < s.batch; ++b) {
    const float* const image = x.data() + b * s.elements();
    dynamic_conv(weight, {image, FloatType::kF32, 1, s.size, s.channels(), true}, {}, one.data());
    for (int64_t i = 0; i < s.outputs(); ++i) {
      const float got = all[b * s.outputs() + i];
      EXPECT_EQ(std::isnan(got), b == 1);
      if (b != 1) {
        ASSERT_EQ(got, one[i]) << "image " << b;
      }
    }
  }
}

TEST_P(DynamicConvTest, RefusesWhatItCannotCompute) {
  Random random(24);
  const Shape s{"3x3", 2, {1, 5, 5}, 1, 4, 6, geometry({1, 3, 3})};
  LayerCase layer(random, 1, s.n, 9, s.k, LayerCase::Zeros::kNone, true, 0.02f);
  std::vector<float> x(s.batch * s.elements(), 3e38f), out(s.batch * s.outputs(), -1.0f);
  const FloatImages images{x.data(), FloatType::kF32, s.batch, s.size, s.channels(), true};
  FloatImages other = images;
  other.channels = 5;
  const ConvWeight weight(layer.weights.data(), 1, s.n, s.k, s.g, layer.params);
  EXPECT_THROW(dynamic_conv(weight, other, {}, out.data()), std::invalid_argument);
  // Input scale times weight scale leaves float32.
  layer.params.scale.assign(s.n, 1e30f);
  const ConvWeight large(layer.weights.data(), 1, s.n, s.k, s.g, layer.params);
  EXPECT_THROW(dynamic_conv(large, images, {}, out.data()), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(DynamicConvTest);

}  // namespace
}  // namespace octavo::testing
