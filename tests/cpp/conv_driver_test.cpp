// conv() against the reference: strides, padding, dilation, groups, depthwise, residuals and views,
// through every kernel of the ISA; images and outputs between guard pages.
#include <cstring>
#include <stdexcept>

#include "guard_buffer.h"
#include "layer_case.h"
#include "ops/conv.h"

namespace octavo::testing {
namespace {

struct Shape {
  const char* what;
  int64_t batch;
  std::array<int64_t, 3> size;
  int32_t groups, n, k;  // n and k per group
  ConvGeometry g;
};

ConvGeometry geometry(Spatial kernel, Spatial stride = {1, 1, 1}, Spatial padding = {0, 0, 0},
                      Spatial dilation = {1, 1, 1}) {
  return {kernel, stride, padding, padding, dilation};
}

ConvGeometry asymmetric(Spatial kernel, Spatial padding, Spatial padding_end) {
  return {kernel, {1, 1, 1}, padding, padding_end, {1, 1, 1}};
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {"1x1", 2, {1, 5, 7}, 1, 33, 19, geometry({1, 1, 1})},
      {"1x1 stride 2", 2, {1, 6, 7}, 1, 17, 32, geometry({1, 1, 1}, {1, 2, 2})},
      {"1x1 padded", 1, {1, 4, 4}, 1, 9, 16, geometry({1, 1, 1}, {1, 1, 1}, {0, 1, 2})},
      {"3x3 same", 2, {1, 9, 11}, 1, 20, 8, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"3x3 valid", 1, {1, 8, 40}, 1, 65, 64, geometry({1, 3, 3})},
      {"3x3 wide same", 1, {1, 5, 70}, 1, 16, 68, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"3x3 stride 2", 3, {1, 9, 9}, 1, 24, 12, geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"3x3 stride 2 long rows",
       1,
       {1, 5, 131},
       1,
       24,
       64,
       geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"3x3 dilated",
       1,
       {1, 13, 12},
       1,
       7,
       64,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2})},
      {"3x3 dilated unevenly",
       1,
       {1, 14, 11},
       1,
       7,
       5,
       geometry({1, 3, 3}, {1, 1, 2}, {0, 3, 1}, {1, 3, 2})},
      {"three channels 7x7 stride 2",
       1,
       {1, 19, 21},
       1,
       16,
       3,
       geometry({1, 7, 7}, {1, 2, 2}, {0, 3, 3})},
      {"one channel 3x3", 2, {1, 8, 8}, 1, 8, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"one channel to one", 2, {1, 8, 9}, 1, 1, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"kernel 1x5", 1, {1, 4, 20}, 1, 10, 6, geometry({1, 1, 5}, {1, 1, 1}, {0, 0, 2})},
      {"kernel 5x1", 1, {1, 20, 4}, 1, 10, 6, geometry({1, 5, 1}, {1, 1, 1}, {0, 2, 0})},
      {"stride over kernel", 1, {1, 11, 13}, 1, 5, 8, geometry({1, 2, 2}, {1, 4, 5})},
      {"kernel over image", 2, {1, 3, 2}, 1, 6, 8, geometry({1, 5, 5}, {1, 1, 1}, {0, 2, 2})},
      {"dilated kernel over image",
       1,
       {1, 3, 3},
       1,
       6,
       4,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 4, 4}, {1, 4, 4})},
      {"windows wholly in padding",
       1,
       {1, 2, 2},
       1,
       5,
       4,
       geometry({1, 2, 2}, {1, 1, 1}, {0, 3, 3})},
      {"asymmetric padding", 1, {1, 6, 7}, 1, 9, 8, asymmetric({1, 2, 4}, {0, 0, 1}, {0, 1, 2})},
      {"one pixel", 1, {1, 1, 1}, 1, 64, 64, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"groups", 2, {1, 6, 6}, 3, 5, 7, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"groups of whole vectors",
       1,
       {1, 6, 6},
       4,
       16,
       16,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"many small groups", 1, {1, 5, 5}, 9, 7, 4, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"groups 1x1", 2, {1, 5, 5}, 5, 3, 6, geometry({1, 1, 1})},
      {"groups of one input channel",
       1,
       {1, 6, 6},
       6,
       2,
       1,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"groups of one output channel",
       1,
       {1, 6, 6},
       6,
       1,
       4,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"depthwise 3x3", 2, {1, 7, 9}, 37, 1, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"depthwise 5x5 stride 2",
       1,
       {1, 11, 9},
       64,
       1,
       1,
       geometry({1, 5, 5}, {1, 2, 2}, {0, 2, 2})},
      {"depthwise dilated",
       1,
       {1, 9, 9},
       17,
       1,
       1,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2})},
      {"depthwise 1x1", 1, {1, 4, 5}, 16, 1, 1, geometry({1, 1, 1})},
      {"depthwise over image", 1, {1, 2, 3}, 5, 1, 1, geometry({1, 7, 7}, {1, 1, 1}, {0, 3, 3})},
      {"depthwise one row", 2, {1, 1, 40}, 80, 1, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"depthwise stride 2 one column",
       1,
       {1, 9, 1},
       33,
       1,
       1,
       geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"depthwise over several tasks",
       2,
       {1, 37, 19},
       144,
       1,
       1,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"depthwise 5x5", 1, {1, 6, 21}, 130, 1, 1, geometry({1, 5, 5}, {1, 1, 1}, {0, 2, 2})},
      {"depthwise 5x5 asymmetric",
       1,
       {1, 7, 8},
       40,
       1,
       1,
       asymmetric({1, 5, 5}, {0, 1, 3}, {0, 3, 0})},
      {"depthwise 3x3 of strides 2 and 1",
       1,
       {1, 9, 9},
       20,
       1,
       1,
       geometry({1, 3, 3}, {1, 2, 1}, {0, 1, 1})},
      {"depthwise 9x9", 1, {1, 12, 20}, 70, 1, 1, geometry({1, 9, 9}, {1, 1, 1}, {0, 4, 4})},
      {"depthwise conv1d", 2, {1, 1, 50}, 48, 1, 1, geometry({1, 1, 5}, {1, 1, 1}, {0, 0, 2})},
      {"depthwise conv3d", 2, {4, 5, 6}, 24, 1, 1, geometry({3, 3, 3}, {1, 1, 1}, {1, 1, 1})},
      {"depthwise planes of a volume",
       1,
       {3, 6, 7},
       40,
       1,
       1,
       geometry({1, 3, 3}, {2, 1, 1}, {1, 1, 1})},
      {"multiplier 2", 1, {1, 7, 9}, 40, 2, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"multiplier 7", 1, {1, 7, 9}, 17, 7, 1, geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"multiplier 20", 1, {1, 6, 6}, 9, 20, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"32 groups of 4", 2, {1, 9, 11}, 32, 4, 4, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"8 groups of 8, stride 2",
       1,
       {1, 9, 11},
       8,
       8,
       8,
       geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"5 groups of 16", 1, {1, 9, 11}, 5, 16, 16, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"small groups dilated",
       1,
       {1, 9, 11},
       6,
       5,
       3,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2})},
      {"small groups 3d", 1, {4, 5, 6}, 6, 3, 9, geometry({2, 3, 2}, {1, 2, 1}, {1, 1, 0})},
      {"groups too large for windows",
       1,
       {1, 6, 6},
       3,
       20,
       12,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"conv1d", 2, {1, 1, 33}, 1, 12, 10, geometry({1, 1, 3}, {1, 1, 1}, {0, 0, 1})},
      {"conv3d", 1, {4, 5, 6}, 1, 9, 8, geometry({3, 3, 3}, {1, 1, 1}, {1, 1, 1})},
      {"conv3d strided", 1, {5, 6, 7}, 2, 3, 4, geometry({2, 3, 1}, {2, 1, 3}, {0, 1, 0})},
      {"lines 3x3", 2, {1, 13, 45}, 1, 40, 3, geometry({1, 3, 3}, {1, 2, 2}, {0, 1, 1})},
      {"lines 7x7", 1, {1, 23, 51}, 1, 33, 3, geometry({1, 7, 7}, {1, 2, 2}, {0, 3, 3})},
      {"lines dilated",
       1,
       {1, 9, 37},
       1,
       17,
       4,
       geometry({1, 3, 3}, {1, 1, 1}, {0, 2, 1}, {1, 2, 1})},
      {"lines over image", 1, {1, 3, 20}, 1, 9, 5, geometry({1, 3, 3}, {1, 1, 1}, {0, 4, 5})},
      {"lines wholly in padding", 1, {1, 2, 2}, 1, 9, 3, geometry({1, 2, 2}, {1, 1, 1}, {0, 3, 9})},
      {"lines asymmetric", 1, {1, 6, 27}, 1, 9, 8, asymmetric({1, 2, 4}, {0, 0, 1}, {0, 1, 2})},
      {"lines, stride over kernel", 1, {1, 11, 70}, 1, 5, 7, geometry({1, 2, 2}, {1, 4, 3})},
      {"lines of planes", 2, {3, 6, 20}, 1, 8, 3, geometry({1, 3, 3}, {2, 1, 1}, {0, 1, 1})},
      {"lines as deep as they go", 1, {1, 5, 18}, 1, 70, 106, geometry({1, 3, 1})},
      {"lines deeper than that", 1, {1, 5, 18}, 1, 70, 108, geometry({1, 3, 1})},
      {"empty batch", 0, {1, 6, 6}, 1, 9, 8, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"empty batch depthwise", 0, {1, 6, 6}, 9, 1, 1, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1})},
      {"no output fits", 1, {1, 2, 2}, 1, 9, 8, geometry({1, 3, 3})},
  };
  return all;
}

// An image inside a larger one: rows, planes and batches further apart than dense ones, as a crop
// has them.
struct Crop {
  Crop(Random& random, const ref::Image& image, bool padded) {
    const int64_t slack = padded ? 3 : 0, pixel = image.channels + (padded ? 5 : 0);
    view.size = image.size;
    view.batch = image.batch;
    view.channels = image.channels;
    view.is_signed = image.bytes.is_signed;
    view.stride[2] = pixel;
    view.stride[1] = view.stride[2] * (image.size[2] + slack);
    view.stride[0] = view.stride[1] * (image.size[1] + slack);
    view.batch_stride = view.stride[0] * (image.size[0] + slack);
    memory.resize(view.batch_stride * image.batch);
    random.fill(memory.data(), memory.size());
    for_each_pixel(image, [&](int64_t b, int64_t d, int64_t h, int64_t w) {
      const auto* from = static_cast<const uint8_t*>(image.bytes.data) + image.index(b, d, h, w);
      std::copy_n(from, image.channels,
                  memory.data() + b * view.batch_stride + d * view.stride[0] + h * view.stride[1] +
                      w * view.stride[2]);
    });
    view.data = memory.data();
  }

  template <typename Visit>
  static void for_each_pixel(const ref::Image& image, Visit visit) {
    for (int64_t b = 0; b < image.batch; ++b) {
      for (int64_t d = 0; d < image.size[0]; ++d) {
        for (int64_t h = 0; h < image.size[1]; ++h) {
          for (int64_t w = 0; w < image.size[2]; ++w) visit(b, d, h, w);
        }
      }
    }
  }

  std::vector<uint8_t> memory;
  ImageView view;
};

constexpr size_t kGuardedBytes = 16 << 20;

GuardBuffer& guarded_output() {
  static GuardBuffer buffer(kGuardedBytes);
  return buffer;
}

// The image, from its first byte to its last and nothing beside them.
const uint8_t* guarded_image(const ImageView& view, Side side) {
  static GuardBuffer buffer(kGuardedBytes);
  if (view.batch == 0) return buffer.place(0, side);
  ptrdiff_t last = (view.batch - 1) * view.batch_stride;
  for (int d = 0; d < 3; ++d) last += (view.size[d] - 1) * view.stride[d];
  uint8_t* data = buffer.place(last + view.channels, side);
  std::memcpy(data, view.data, last + view.channels);
  return data;
}

class ConvDriverTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }

  struct Options {
    bool is_signed, padded_view, residual;
    LayerCase::Zeros zeros;
    OutKind kind;
    bool least_zero = false;  // the zero point is the type's least value, as behind a ReLU
  };

  void check(Random& random, const Shape& s, const Options& options, const char* kernel) {
    const int32_t channels = s.groups * s.k, outputs = s.groups * s.n;
    QuantizedBytes x(random, s.batch * s.size[0] * s.size[1] * s.size[2] * channels,
                     options.is_signed);
    if (options.least_zero) x.qparams.zero_point = options.is_signed ? -128 : 0;
    const ref::Image image{x.reference(), s.batch, s.size, channels};
    const Crop crop(random, image, options.padded_view);
    const LayerCase layer(random, s.groups, s.n, s.g.taps(), s.k, options.zeros, random.chance(2),
                          x.qparams.scale);
    const OutputSpec output =
        random_output(random, options.kind, layer.output_scale(random, x.qparams.scale));

    const ref::Window window{s.g.kernel, s.g.stride, s.g.padding, s.g.padding_end, s.g.dilation};
    int64_t pixels = s.batch;
    for (int d = 0; d < 3; ++d) {
      ASSERT_EQ(s.g.output_size(d, s.size[d]), window.output_size(d, s.size[d])) << s.what;
      pixels *= window.output_size(d, s.size[d]);
    }
    const QuantizedBytes added(random, pixels * outputs, random.chance(2));
    Residual residual;
    ref::Residual expected_residual;
    if (options.residual && kind_size(options.kind) == 1) {
      residual.data = added.data.data();
      residual.stride = outputs;
      residual.qparams = {output.out.scale * (random.chance(2) ? 0.5f : 0.83f),
                          added.qparams.zero_point};
      residual.is_signed = added.is_signed;
      expected_residual = {added.reference(),
                           {residual.qparams.scale, residual.qparams.zero_point}};
    }

    std::vector<uint8_t> expected(pixels * outputs * kind_size(options.kind));
    ref::conv(layer.reference(), image, window, x.affine(), reference_output(output),
              expected_residual, expected.data());
    // First layers read on behind their windows, but never behind the image.
    const Side side = random.chance(2) ? Side::kEnd : Side::kBegin;
    ImageView view = crop.view;
    view.data = guarded_image(view, side);
    uint8_t* to = guarded_output().place(expected.size(), side, kind_size(options.kind));
    const ForcedKernel forced(kernel);
    const ConvWeight weight(layer.weights.data(), s.groups, s.n, s.k, s.g, layer.params);
    conv(weight, view, x.qparams, output, residual, to);
    EXPECT_TRUE(guarded_output().margin_intact());
    const std::vector<uint8_t> out(to, to + expected.size());
    ASSERT_EQ(output_difference(options.kind, out, expected), "")
        << s.what << (options.is_signed ? " s8" : " u8") << (options.padded_view ? " cropped" : "")
        << (options.residual ? " residual" : "")
        << (options.zeros == LayerCase::Zeros::kSome ? " weight zero points" : "") << " "
        << (kernel ? kernel : "chosen kernel");
  }
};

TEST_P(ConvDriverTest, EqualsReference) {
  for (const char* kernel : kernel_choices(set())) {
    Random random(1);
    for (const Shape& shape : shapes()) {
      for (int form = 0; form < (emulated() ? 2 : 4); ++form) {
        Options options{};
        options.is_signed = form % 2;
        options.padded_view = random.chance(2);
        options.residual = random.chance(2);
        options.zeros = random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
        options.kind = random.pick(std::vector<OutKind>{OutKind::kU8, OutKind::kU8, OutKind::kS8,
                                                        OutKind::kF32, OutKind::kI32,
                                                        OutKind::kBF16, OutKind::kF16});
        check(random, shape, options, kernel);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Padding of zeros need not be multiplied.
TEST_P(ConvDriverTest, LeavesOutPaddingOfZeros) {
  for (const char* kernel : kernel_choices(set())) {
    Random random(3);
    for (const Shape& shape : shapes()) {
      if (shape.g.padding[1] == 0 && shape.g.padding_end[1] == 0) continue;
      for (const bool is_signed : {false, true}) {
        Options options{};
        options.is_signed = is_signed;
        options.padded_view = random.chance(2);
        options.residual = random.chance(2);
        options.zeros = random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
        options.kind = is_signed ? OutKind::kI32 : OutKind::kU8;
        options.least_zero = true;
        check(random, shape, options, kernel);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Random geometry finds the combinations that nobody listed.
TEST_P(ConvDriverTest, EqualsReferenceOnRandomGeometry) {
  Random random(2);
  for (int round = 0; round < (emulated() ? 20 : 400); ++round) {
    Shape s{};
    s.what = "random geometry";
    s.batch = random.integer(1, 2);
    s.size = {random.chance(6) ? 3 : 1, random.integer(1, 10),
              random.integer(1, random.chance(4) ? 80 : 24)};
    s.groups = random.chance(3) ? random.integer(2, 5) : 1;
    s.n = random.integer(1, 20);
    s.k = random.chance(4) ? 64 : random.integer(1, 13);
    if (random.chance(4)) {
      s.groups = random.integer(2, 150);
      s.n = s.k = 1;
    } else if (random.chance(4)) {
      s.groups = random.integer(2, 20);
      s.n = random.integer(1, 18);
      s.k = random.integer(1, 18);
    }
    for (int d = 0; d < 3; ++d) {
      s.g.kernel[d] = d == 0 && s.size[0] == 1 ? 1 : random.integer(1, 5);
      s.g.stride[d] = random.integer(1, 3);
      s.g.dilation[d] = random.integer(1, 2);
      s.g.padding[d] = d == 0 ? 0 : random.integer(0, 3);
      s.g.padding_end[d] = d == 0 ? 0 : random.integer(0, 3);
    }
    if (random.chance(3)) {  // square windows have kernels of their own
      s.g.kernel[2] = s.g.kernel[1] = random.pick(std::vector<int32_t>{3, 3, 5});
      s.g.stride[2] = s.g.stride[1] = random.integer(1, 2);
      s.g.dilation = {1, 1, 1};
    }
    Options options{};
    options.is_signed = random.chance(2);
    options.padded_view = random.chance(2);
    options.residual = random.chance(2);
    options.zeros = random.chance(4) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
    options.kind = random.pick(std::vector<OutKind>{OutKind::kU8, OutKind::kS8, OutKind::kF32});
    options.least_zero = random.chance(2);
    check(random, s, options, random.pick(kernel_choices(set())));
    if (HasFatalFailure()) {
      std::printf("round %d: size %ldx%ldx%ld groups %d n %d k %d kernel %d,%d,%d\n", round,
                  long(s.size[0]), long(s.size[1]), long(s.size[2]), s.groups, s.n, s.k,
                  s.g.kernel[0], s.g.kernel[1], s.g.kernel[2]);
      return;
    }
  }
}

class LineConvDriverTest : public ConvDriverTest {};

// What the line kernel is for goes to it, and nothing that it cannot do.
TEST_P(LineConvDriverTest, FewChannelsGoToTheLineKernel) {
  const auto kernel_for = [&](int32_t k, const ConvGeometry& g, int32_t zero, int64_t width) {
    const std::vector<uint8_t> x(9 * width * k);
    const std::vector<int8_t> w(size_t(8) * g.taps() * k, 1);
    const ConvWeight weight(w.data(), 1, 8, k, g,
                            {std::vector<float>(8, 1.0f), std::vector<int32_t>(8, zero), {}});
    const ptrdiff_t line = width * k;
    const ImageView view{x.data(), 1, {1, 9, width}, k, 9 * line, {9 * line, line, k}, false};
    std::vector<uint8_t> out(9 * (width + 2) * 8);
    conv(weight, view, {1.0f, 0}, {OutKind::kU8, {1.0f, 0}, false}, {}, out.data());
    return std::string(cpu::last_kernel());
  };
  const ConvGeometry same = geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1});
  EXPECT_EQ(kernel_for(3, same, 0, 40), set().lines->name);
  EXPECT_EQ(kernel_for(3, geometry({1, 3, 3}, {1, 2, 2}), 0, 40), set().lines->name);
  EXPECT_NE(kernel_for(3, same, 1, 40), set().lines->name) << "weight zero points";
  EXPECT_NE(kernel_for(3, same, 0, 7), set().lines->name) << "a narrow image";
  EXPECT_NE(kernel_for(64, same, 0, 40), set().lines->name) << "many channels";
  EXPECT_NE(kernel_for(3, geometry({1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 2}), 0, 40),
            set().lines->name)
      << "dilation along the line";
}

TEST_P(ConvDriverTest, RefusesBadArguments) {
  const std::vector<int8_t> w(36, 1);
  const WeightParams params{{1.0f}, {0}, {}};
  const auto make = [&](const ConvGeometry& g) { return ConvWeight(w.data(), 1, 1, 4, g, params); };
  EXPECT_THROW(make(geometry({1, 3, 0})), std::invalid_argument);
  EXPECT_THROW(make(geometry({1, 3, 3}, {1, 0, 1})), std::invalid_argument);
  EXPECT_THROW(make(geometry({1, 3, 3}, {1, 1, 1}, {0, -1, 0})), std::invalid_argument);
  EXPECT_THROW(make(geometry({1, 3, 3}, {1, 1, 1}, {0, 0, 0}, {1, 1, 0})), std::invalid_argument);

  const ConvWeight weight = make(geometry({1, 3, 3}));
  const std::vector<uint8_t> x(5 * 5 * 5);
  std::vector<uint8_t> out(9 * 4);
  ImageView view{x.data(), 1, {1, 5, 5}, 5, 125, {125, 25, 5}, false};
  const OutputSpec output{OutKind::kU8, {1.0f, 0}, false};
  EXPECT_THROW(conv(weight, view, {1.0f, 0}, output, {}, out.data()),
               std::invalid_argument);  // 5 channels, not 4
  view.channels = 4;
  EXPECT_THROW(conv(weight, view, {0.0f, 0}, output, {}, out.data()), std::invalid_argument);
  EXPECT_THROW(conv(weight, view, {1.0f, 999}, output, {}, out.data()), std::invalid_argument);
  Residual residual;
  residual.data = x.data();
  residual.stride = 1;
  residual.qparams = {1.0f, 0};
  EXPECT_THROW(conv(weight, view, {1.0f, 0}, {OutKind::kF32, {}, false}, residual, out.data()),
               std::invalid_argument);
  residual.qparams = {-1.0f, 0};
  EXPECT_THROW(conv(weight, view, {1.0f, 0}, output, residual, out.data()), std::invalid_argument);
  EXPECT_NO_THROW(conv(weight, view, {1.0f, 0}, output, {}, out.data()));
}

OCTAVO_INSTANTIATE_ISA_TESTS(ConvDriverTest);
OCTAVO_INSTANTIATE_LINE_TESTS(LineConvDriverTest);

}  // namespace
}  // namespace octavo::testing
