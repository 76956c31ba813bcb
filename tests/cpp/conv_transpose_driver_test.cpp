// conv_transpose() against the reference, which scatters every input pixel: strides, paddings,
// dilation, groups and views, through every kernel of the ISA and on several threads.
#include <cstdio>
#include <stdexcept>
#include <thread>

#include "guard_buffer.h"
#include "layer_case.h"
#include "ops/conv_transpose.h"

namespace octavo::testing {
namespace {

struct Shape {
  const char* what;
  int64_t batch;
  std::array<int64_t, 3> size;
  int32_t groups, n, k;  // n and k per group
  ConvTransposeGeometry g;
  Spatial output_padding{0, 0, 0};

  int64_t output_size(int d) const {
    return std::max<int64_t>(0, g.output_size(d, size[d]) + output_padding[d]);
  }
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {"2x2/2", 2, {1, 5, 7}, 1, 33, 20, {{1, 2, 2}, {1, 2, 2}}},
      {"2x2/2 of whole panels", 1, {1, 16, 16}, 1, 64, 64, {{1, 2, 2}, {1, 2, 2}}},
      {"2x2/2 long lines", 1, {1, 2, 150}, 1, 32, 64, {{1, 2, 2}, {1, 2, 2}}},
      {"2x2/2 odd channels", 2, {1, 6, 9}, 1, 17, 7, {{1, 2, 2}, {1, 2, 2}}},
      {"2x2/2 wide", 1, {1, 3, 8}, 1, 200, 68, {{1, 2, 2}, {1, 2, 2}}},
      {"2x2/2 cropped", 1, {1, 5, 6}, 1, 9, 64, {{1, 2, 2}, {1, 2, 2}, {0, 1, 1}}},
      {"2x2/2 output padding", 2, {1, 4, 5}, 1, 18, 16, {{1, 2, 2}, {1, 2, 2}}, {0, 1, 1}},
      {"4x4/2 padded", 2, {1, 6, 7}, 1, 20, 64, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"3x3/2", 1, {1, 8, 9}, 1, 35, 12, {{1, 3, 3}, {1, 2, 2}, {0, 1, 1}}, {0, 1, 1}},
      {"3x3/1", 1, {1, 7, 6}, 1, 16, 64, {{1, 3, 3}, {1, 1, 1}, {0, 1, 1}}},
      {"5x5/3", 1, {1, 6, 5}, 1, 10, 6, {{1, 5, 5}, {1, 3, 3}, {0, 2, 1}}, {0, 0, 2}},
      {"1x1/1", 2, {1, 5, 6}, 1, 24, 32, {{1, 1, 1}}},
      {"1x1/2: phases without taps", 2, {1, 4, 5}, 1, 12, 8, {{1, 1, 1}, {1, 2, 2}}},
      {"stride over kernel", 1, {1, 3, 4}, 1, 7, 5, {{1, 2, 3}, {1, 5, 4}, {0, 1, 0}}, {0, 3, 2}},
      {"stride in one direction", 1, {1, 5, 8}, 1, 9, 16, {{1, 3, 4}, {1, 1, 3}, {0, 1, 0}}},
      {"dilation 2, stride 2",
       1,
       {1, 5, 6},
       1,
       8,
       16,
       {{1, 3, 3}, {1, 2, 2}, {0, 2, 1}, {1, 2, 2}},
       {0, 1, 0}},
      {"dilation 3, stride 2",
       1,
       {1, 5, 6},
       1,
       8,
       16,
       {{1, 3, 3}, {1, 2, 2}, {0, 2, 1}, {1, 3, 3}},
       {0, 1, 2}},
      {"dilation 4, stride 6",
       2,
       {1, 4, 3},
       1,
       6,
       9,
       {{1, 4, 5}, {1, 6, 6}, {0, 5, 0}, {1, 4, 4}},
       {0, 2, 1}},
      {"padding beyond the kernel", 1, {1, 9, 9}, 1, 5, 8, {{1, 2, 2}, {1, 2, 2}, {0, 3, 4}}},
      {"padding cuts all off", 1, {1, 2, 2}, 1, 5, 8, {{1, 2, 2}, {1, 1, 1}, {0, 3, 3}}},
      {"one pixel", 1, {1, 1, 1}, 1, 64, 64, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"one row", 3, {1, 1, 9}, 1, 30, 24, {{1, 2, 2}, {1, 2, 2}}},
      {"one channel", 2, {1, 5, 4}, 1, 1, 1, {{1, 3, 3}, {1, 2, 2}, {0, 1, 1}}},
      {"kernel over image", 1, {1, 2, 3}, 1, 6, 8, {{1, 7, 7}, {1, 2, 2}, {0, 3, 3}}},
      {"many phases", 1, {1, 3, 2}, 1, 5, 12, {{1, 16, 16}, {1, 8, 8}, {0, 4, 4}}},
      {"groups", 2, {1, 5, 6}, 3, 5, 7, {{1, 3, 3}, {1, 2, 2}, {0, 1, 1}}},
      {"groups of whole vectors", 1, {1, 4, 6}, 4, 16, 16, {{1, 2, 2}, {1, 2, 2}}},
      {"groups 2x2/2", 2, {1, 4, 6}, 3, 70, 12, {{1, 2, 2}, {1, 2, 2}}},
      {"many small groups", 1, {1, 5, 6}, 18, 3, 5, {{1, 3, 3}, {1, 2, 2}, {0, 1, 1}}},
      {"depthwise, whole vectors", 2, {1, 6, 7}, 64, 1, 1, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"depthwise, twice the channels", 1, {1, 5, 5}, 12, 2, 1, {{1, 3, 3}, {1, 2, 2}}},
      {"depthwise", 1, {1, 6, 6}, 37, 1, 1, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"depthwise, long lines", 1, {1, 3, 80}, 70, 1, 1, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"depthwise, 3x3 phases", 2, {1, 6, 9}, 66, 1, 1, {{1, 6, 6}, {1, 2, 2}, {0, 2, 2}}},
      {"depthwise, 5x5 phases", 1, {1, 7, 40}, 35, 1, 1, {{1, 10, 10}, {1, 2, 2}, {0, 4, 4}}},
      {"depthwise, many phases", 1, {1, 4, 3}, 21, 1, 1, {{1, 16, 16}, {1, 8, 8}, {0, 4, 4}}},
      {"depthwise, phases without taps", 1, {1, 4, 5}, 20, 1, 1, {{1, 1, 2}, {1, 3, 3}}, {0, 1, 0}},
      {"depthwise, cropped", 2, {1, 6, 6}, 48, 1, 1, {{1, 4, 4}, {1, 2, 2}, {0, 4, 5}}},
      {"depthwise, dilated",
       1,
       {1, 6, 7},
       33,
       1,
       1,
       {{1, 3, 3}, {1, 2, 2}, {0, 2, 1}, {1, 3, 2}},
       {0, 1, 1}},
      {"depthwise, three dimensions", 1, {3, 4, 5}, 40, 1, 1, {{3, 4, 4}, {2, 2, 2}, {1, 1, 1}}},
      {"groups of 8", 2, {1, 5, 36}, 8, 8, 8, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"groups of 8, 3x3 phases", 1, {1, 5, 34}, 4, 8, 8, {{1, 6, 6}, {1, 2, 2}, {0, 2, 2}}},
      {"groups of 16", 1, {1, 4, 5}, 3, 16, 16, {{1, 3, 3}, {1, 2, 2}, {0, 1, 1}}, {0, 1, 1}},
      {"uneven groups", 1, {1, 5, 6}, 7, 5, 3, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
      {"one dimension", 2, {1, 1, 33}, 1, 12, 10, {{1, 1, 16}, {1, 1, 8}, {0, 0, 4}}},
      {"three dimensions", 1, {3, 4, 5}, 1, 9, 8, {{2, 2, 2}, {2, 2, 2}}},
      {"three dimensions, uneven",
       2,
       {3, 4, 5},
       2,
       3,
       4,
       {{3, 2, 1}, {2, 1, 3}, {1, 0, 0}, {1, 2, 1}},
       {1, 0, 2}},
      {"empty batch", 0, {1, 6, 6}, 1, 9, 8, {{1, 2, 2}, {1, 2, 2}}},
      {"empty batch, phases without taps", 0, {1, 6, 6}, 1, 9, 8, {{1, 1, 1}, {1, 2, 2}}},
  };
  return all;
}

struct Options {
  bool is_signed, padded_view;
  LayerCase::Zeros zeros;
  OutKind kind;
};

// One layer and its input, the input in memory whose end faults: rows of pixels are `slack` pixels
// further apart than dense ones.
class Case : public CaseDescriber {
 public:
  Case(Random& random, const Shape& shape, const Options& options)
      : shape_(shape),
        options_(options),
        x_(random, shape.batch * pixels(shape) * channels(), options.is_signed),
        layer_(random, shape.groups, shape.n, shape.g.taps(), shape.k, options.zeros,
               random.chance(2), x_.qparams.scale),
        output_(
            random_output(random, options.kind, layer_.output_scale(random, x_.qparams.scale))) {
    const ref::Image image{x_.reference(), shape.batch, shape.size, channels()};
    const ref::TransposedWindow window{shape.g.kernel, shape.g.stride, shape.g.padding,
                                       shape.output_padding, shape.g.dilation};
    int64_t outputs = shape.batch * shape.groups * shape.n;
    for (int d = 0; d < 3; ++d) outputs *= shape.output_size(d);
    expected_.resize(outputs * kind_size(options.kind));
    ref::conv_transpose(layer_.reference(), image, window, x_.affine(), reference_output(output_),
                        expected_.data());
    place_input(random, image);
  }

  std::string describe() const override {
    const ConvTransposeGeometry& g = shape_.g;
    char text[400];
    std::snprintf(text, sizeof text,
                  "%s: %s%s%s, size %ldx%ldx%ld, groups %d n %d k %d, kernel %d,%d,%d stride "
                  "%d,%d,%d padding %d,%d,%d+%d,%d,%d dilation %d,%d,%d",
                  shape_.what, options_.is_signed ? "s8" : "u8",
                  options_.padded_view ? " cropped" : "",
                  options_.zeros == LayerCase::Zeros::kSome ? " weight zero points" : "",
                  long(shape_.size[0]), long(shape_.size[1]), long(shape_.size[2]), shape_.groups,
                  shape_.n, shape_.k, g.kernel[0], g.kernel[1], g.kernel[2], g.stride[0],
                  g.stride[1], g.stride[2], g.padding[0], g.padding[1], g.padding[2],
                  shape_.output_padding[0], shape_.output_padding[1], shape_.output_padding[2],
                  g.dilation[0], g.dilation[1], g.dilation[2]);
    return text;
  }

  ConvTransposeWeight pack() const {
    return {layer_.weights.data(), shape_.groups, shape_.n, shape_.k, shape_.g, layer_.params};
  }

  // What is wrong with an output that was filled with 0xEE before, or "".
  std::string run(const ConvTransposeWeight& weight) const {
    const RunningCase running(this);
    GuardBuffer out(expected_.size() + GuardBuffer::kMargin);
    out.place(expected_.size(), Side::kEnd, 1, 0xEE);
    conv_transpose(weight, view_, shape_.output_padding, x_.qparams, output_, out.data());
    if (!out.margin_intact()) return describe() + ": wrote before the output";
    const std::string difference = first_difference(out.data(), expected_.data(), expected_.size());
    return difference.empty() ? ""
                              : describe() + ", " + kind_name(options_.kind) + ": " + difference;
  }

  const LayerCase& layer() const { return layer_; }

 private:
  int32_t channels() const { return shape_.groups * shape_.k; }
  static int64_t pixels(const Shape& s) { return s.size[0] * s.size[1] * s.size[2]; }

  void place_input(Random& random, const ref::Image& image) {
    const int64_t slack = options_.padded_view ? 3 : 0;
    const int64_t pixel = channels() + (options_.padded_view ? 5 : 0);
    view_ = {nullptr, image.batch, image.size, channels(), 0, {0, 0, pixel}, options_.is_signed};
    view_.stride[1] = view_.stride[2] * (image.size[2] + slack);
    view_.stride[0] = view_.stride[1] * (image.size[1] + slack);
    view_.batch_stride = view_.stride[0] * (image.size[0] + slack);
    // Nothing behind the last pixel's channels belongs to the image.
    int64_t size = channels();
    for (int d = 0; d < 3; ++d) size += (image.size[d] - 1) * view_.stride[d];
    size = image.batch == 0 ? 0 : size + (image.batch - 1) * view_.batch_stride;
    memory_ = std::make_unique<GuardBuffer>(size + GuardBuffer::kMargin);
    uint8_t* data = memory_->place(size, Side::kEnd);
    random.fill(data, size);
    for (int64_t b = 0; b < image.batch; ++b) {
      for (int64_t d = 0; d < image.size[0]; ++d) {
        for (int64_t h = 0; h < image.size[1]; ++h) {
          for (int64_t w = 0; w < image.size[2]; ++w) {
            const auto* from = x_.data.data() + image.index(b, d, h, w);
            std::copy_n(from, channels(),
                        data + b * view_.batch_stride + d * view_.stride[0] + h * view_.stride[1] +
                            w * view_.stride[2]);
          }
        }
      }
    }
    view_.data = data;
  }

  Shape shape_;
  Options options_;
  QuantizedBytes x_;
  LayerCase layer_;
  OutputSpec output_;
  std::vector<uint8_t> expected_;
  std::unique_ptr<GuardBuffer> memory_;
  ImageView view_;
};

Options random_options(Random& random, bool is_signed) {
  Options options{};
  options.is_signed = is_signed;
  options.padded_view = random.chance(2);
  options.zeros = random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
  options.kind =
      random.pick(std::vector<OutKind>{OutKind::kU8, OutKind::kU8, OutKind::kS8, OutKind::kF32,
                                       OutKind::kI32, OutKind::kBF16, OutKind::kF16});
  return options;
}

Shape random_shape(Random& random) {
  Shape s{};
  s.what = "random geometry";
  s.batch = random.integer(1, 2);
  s.size = {random.chance(6) ? 2 : 1, random.integer(1, 7), random.integer(1, 14)};
  s.groups = random.chance(3) ? random.integer(2, 12) : 1;
  s.n = random.chance(5) ? random.integer(60, 140) : random.integer(1, 20);
  s.k = random.chance(4) ? 64 : random.integer(1, 13);
  for (int d = 0; d < 3; ++d) {
    const bool flat = d == 0 && s.size[0] == 1;
    s.g.kernel[d] = flat ? 1 : random.integer(1, 5);
    s.g.stride[d] = flat ? 1 : random.integer(1, 4);
    s.g.dilation[d] = random.integer(1, 4);
    s.g.padding[d] = flat ? 0 : random.integer(0, 4);
    s.output_padding[d] = flat ? 0 : random.integer(0, std::max(s.g.stride[d], s.g.dilation[d]));
  }
  return s;
}

class ConvTransposeDriverTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }
};

TEST_P(ConvTransposeDriverTest, EqualsReference) {
  for (const char* kernel : kernel_choices(set())) {
    Random random(1);
    for (const Shape& shape : shapes()) {
      for (int form = 0; form < (emulated() ? 2 : 4); ++form) {
        const Case test(random, shape, random_options(random, form % 2));
        const ForcedKernel forced(kernel);
        ASSERT_EQ(test.run(test.pack()), "") << (kernel ? kernel : "chosen kernel");
      }
    }
  }
}

TEST_P(ConvTransposeDriverTest, EqualsReferenceOnRandomGeometry) {
  Random random(2);
  for (int round = 0; round < (emulated() ? 20 : 300); ++round) {
    const Case test(random, random_shape(random), random_options(random, random.chance(2)));
    const char* kernel = random.pick(kernel_choices(set()));
    const ForcedKernel forced(kernel);
    ASSERT_EQ(test.run(test.pack()), "")
        << "round " << round << ", " << (kernel ? kernel : "chosen kernel");
  }
}

// Blocks of rows end in the middle of the image's lines.
TEST_P(ConvTransposeDriverTest, EqualsReferenceOnManyBlocks) {
  Random random(3);
  const Shape shapes[] = {
      {"many rows", 1, {1, 90, 67}, 1, 12, 32, {{1, 2, 2}, {1, 2, 2}}},
      {"deep", 2, {1, 9, 9}, 1, 36, 1200, {{1, 2, 2}, {1, 2, 2}}},
      {"deep and gathered", 1, {1, 13, 11}, 1, 20, 801, {{1, 4, 4}, {1, 2, 2}, {0, 1, 1}}},
  };
  for (const Shape& shape : shapes) {
    for (const bool is_signed : {false, true}) {
      const Case test(random, shape, random_options(random, is_signed));
      ASSERT_EQ(test.run(test.pack()), "");
    }
  }
}

TEST_P(ConvTransposeDriverTest, SharesWeightsBetweenThreads) {
  Random random(4);
  const Case test(random, shapes()[0], random_options(random, false));
  const ConvTransposeWeight weight = test.pack();
  for (int count = 1; count <= 4; ++count) {
    std::vector<std::string> found(count);
    std::vector<std::thread> threads;
    for (std::string& text : found)
      threads.emplace_back([&weight, &test, &text] { text = test.run(weight); });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : found) EXPECT_EQ(text, "") << count << " threads";
  }
}

TEST_P(ConvTransposeDriverTest, UnpacksWhatWasPacked) {
  Random random(5);
  for (int round = 0; round < 40; ++round) {
    const Case test(random, random_shape(random), random_options(random, false));
    std::vector<int8_t> plain(test.layer().weights.size(), 77);
    test.pack().unpack(plain.data());
    ASSERT_EQ(plain, test.layer().weights) << test.describe();
  }
}

TEST_P(ConvTransposeDriverTest, RefusesBadArguments) {
  const std::vector<int8_t> w(36, 1);
  const WeightParams params{{1.0f}, {0}, {}};
  const auto make = [&](const ConvTransposeGeometry& g) {
    return ConvTransposeWeight(w.data(), 1, 1, 4, g, params);
  };
  EXPECT_THROW(make({{1, 3, 0}}), std::invalid_argument);
  EXPECT_THROW(make({{1, 3, 3}, {1, 0, 1}}), std::invalid_argument);
  EXPECT_THROW(make({{1, 3, 3}, {1, 1, 1}, {0, -1, 0}}), std::invalid_argument);
  EXPECT_THROW(make({{1, 3, 3}, {1, 1, 1}, {0, 0, 0}, {1, 1, 0}}), std::invalid_argument);
  EXPECT_THROW(make({{1, 3, 3}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1 << 30}}), std::invalid_argument);
  EXPECT_THROW(ConvTransposeWeight(w.data(), 1, 1, 4, {{1, 3, 3}}, {{0.0f}, {0}, {}}),
               std::invalid_argument);
  EXPECT_THROW(ConvTransposeWeight(w.data(), 1, 1, 4, {{1, 3, 3}}, {{1.0f, 1.0f}, {0}, {}}),
               std::invalid_argument);

  const ConvTransposeWeight weight = make({{1, 3, 3}});
  const std::vector<uint8_t> x(5 * 5 * 5);
  std::vector<uint8_t> out(7 * 7);
  ImageView view{x.data(), 1, {1, 5, 5}, 5, 125, {125, 25, 5}, false};
  const OutputSpec output{OutKind::kU8, {1.0f, 0}, false};
  EXPECT_THROW(conv_transpose(weight, view, {0, 0, 0}, {1.0f, 0}, output, out.data()),
               std::invalid_argument);  // 5 channels, not 4
  view.channels = 4;
  EXPECT_THROW(conv_transpose(weight, view, {0, 0, 0}, {0.0f, 0}, output, out.data()),
               std::invalid_argument);
  EXPECT_THROW(conv_transpose(weight, view, {0, 0, 0}, {1.0f, 999}, output, out.data()),
               std::invalid_argument);
  EXPECT_THROW(conv_transpose(weight, view, {0, 0, 0}, {1.0f, 0}, {OutKind::kU8, {-1.0f, 0}, false},
                              out.data()),
               std::invalid_argument);
  EXPECT_THROW(conv_transpose(weight, view, {0, 0, -1}, {1.0f, 0}, output, out.data()),
               std::invalid_argument);
  EXPECT_NO_THROW(conv_transpose(weight, view, {0, 0, 0}, {1.0f, 0}, output, out.data()));
}

OCTAVO_INSTANTIATE_ISA_TESTS(ConvTransposeDriverTest);

}  // namespace
}  // namespace octavo::testing
