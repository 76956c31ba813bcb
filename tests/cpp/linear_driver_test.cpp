// linear() against the reference on whole problems, through every kernel of the ISA.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "guard_buffer.h"
#include "layer_case.h"
#include "ops/linear.h"
#include "pack/packed_weight.h"

namespace octavo::testing {
namespace {

struct Shape {
  int64_t m;
  int32_t n, k;
};

std::string describe(const Shape& s, OutKind kind, bool is_signed, const char* kernel) {
  return std::string(kernel ? kernel : "chosen kernel") + (is_signed ? " s8" : " u8") + "->" +
         kind_name(kind) + " m=" + std::to_string(s.m) + " n=" + std::to_string(s.n) +
         " k=" + std::to_string(s.k);
}

class LinearDriverTest : public IsaTest {
 protected:
  void SetUp() override {
    IsaTest::SetUp();
    checks_last_kernel_ = true;
  }

  // One layer, all output kinds.
  void check(Random& random, const Shape& s, bool is_signed, LayerCase::Zeros zeros,
             const char* kernel) {
    const ForcedKernel forced(kernel);
    const QuantizedBytes x(random, s.m * s.k, is_signed);
    const LayerCase layer(random, 1, s.n, 1, s.k, zeros, random.chance(2), x.qparams.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, s.n, 1, s.k}, layer.params, false);
    const float out_scale = layer.output_scale(random, x.qparams.scale);
    for (OutKind kind : kAllKinds) {
      const OutputSpec output = random_output(random, kind, out_scale);
      const size_t width = s.n * kind_size(kind);
      std::vector<uint8_t> out(s.m * width, 0xEE), expected(s.m * width);
      ref::linear(layer.reference(), x.reference(), s.m, x.affine(), reference_output(output), {},
                  expected.data());
      linear(weight, {x.data.data(), s.m, s.k, s.k, is_signed}, x.qparams, output, out.data(),
             static_cast<ptrdiff_t>(width));
      ASSERT_EQ(output_difference(kind, out, expected), "") << describe(s, kind, is_signed, kernel);
      if (kernel) {
        ASSERT_STREQ(cpu::last_kernel(), kernel);
      }
    }
  }
};

TEST_P(LinearDriverTest, EqualsReference) {
  const std::vector<int64_t> rows = {1,  2,  3,  5,  6,  7,  12, 13, 16,
                                     23, 24, 25, 32, 33, 49, 64, 65, 100};
  const std::vector<int32_t> columns = {1,  2,  5,  7,  8,  15,  16,  17,  31, 32,
                                        33, 48, 63, 64, 65, 100, 127, 129, 200};
  const std::vector<int32_t> depths = {1, 2, 3, 4, 5, 7, 8, 31, 63, 64, 65, 100, 128, 257, 513};
  for (const char* kernel : kernel_choices(set())) {
    Random random(1);
    for (int round = 0; round < (emulated() ? 12 : 60); ++round) {
      const Shape shape{random.pick(rows), random.pick(columns), random.pick(depths)};
      const auto zeros = random.chance(3) ? LayerCase::Zeros::kSome : LayerCase::Zeros::kNone;
      check(random, shape, random.chance(2), zeros, kernel);
      if (HasFatalFailure()) return;
    }
  }
}

// Deep and wide enough to be cut into blocks of rows and of panels.
TEST_P(LinearDriverTest, EqualsReferenceAcrossBlocks) {
  Random random(2);
  for (const Shape shape :
       {Shape{300, 70, 1500}, Shape{2, 1030, 300}, Shape{3, 3, 30000}, Shape{700, 5, 40}}) {
    if (emulated() && shape.m == 300) continue;
    for (const bool is_signed : {false, true}) {
      check(random, shape, is_signed, LayerCase::Zeros::kNone, nullptr);
      check(random, shape, is_signed, LayerCase::Zeros::kSome, nullptr);
      if (HasFatalFailure()) return;
    }
  }
}

// Steps so small that results leave int32 before the clamp, which kernels are told of.
TEST_P(LinearDriverTest, SaturatesWhateverTheScales) {
  const Shape shape{29, 86, 35};
  Random random(7);
  for (const bool is_signed : {false, true}) {
    const QuantizedBytes x(random, shape.m * shape.k, is_signed);
    const LayerCase layer(random, 1, shape.n, 1, shape.k, LayerCase::Zeros::kNone, true,
                          x.qparams.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, shape.n, 1, shape.k}, layer.params,
                                 false);
    for (const float finer : {1.0f, 1e4f, 1e9f, 1e20f, 1e30f}) {
      for (const OutKind kind : {OutKind::kU8, OutKind::kS8}) {
        const OutputSpec output =
            random_output(random, kind, layer.output_scale(random, x.qparams.scale) / finer);
        const auto params = weight.channel_params(x.qparams, output, 0);
        EXPECT_EQ((*params).stays_int32, finer < 1e9f) << finer;
        std::vector<uint8_t> out(shape.m * shape.n), expected(shape.m * shape.n);
        ref::linear(layer.reference(), x.reference(), shape.m, x.affine(), reference_output(output),
                    {}, expected.data());
        linear(weight, {x.data.data(), shape.m, shape.k, shape.k, is_signed}, x.qparams, output,
               out.data(), shape.n);
        ASSERT_EQ(output_difference(kind, out, expected), "")
            << describe(shape, kind, is_signed, nullptr) << " scale / " << finer;
      }
    }
  }
}

TEST_P(LinearDriverTest, AcceptsNoRows) {
  Random random(3);
  check(random, {0, 17, 33}, false, LayerCase::Zeros::kNone, nullptr);
  check(random, {0, 17, 33}, true, LayerCase::Zeros::kSome, nullptr);
}

// Rows of input and output inside wider matrices, against guard pages; the gaps of the output stay
// as they were.
TEST_P(LinearDriverTest, ReadsAndWritesOnlyItsViews) {
  GuardBuffer in(1 << 16), to(1 << 18);
  Random random(4);
  for (const Side side : {Side::kEnd, Side::kBegin}) {
    for (const Shape shape :
         {Shape{1, 1, 1}, Shape{7, 19, 33}, Shape{33, 65, 64}, Shape{25, 40, 67}}) {
      for (const OutKind kind : kAllKinds) {
        const ptrdiff_t x_stride = shape.k + 13;
        const ptrdiff_t width = shape.n * static_cast<ptrdiff_t>(kind_size(kind)),
                        out_stride = width + 20;
        const size_t x_bytes = (shape.m - 1) * x_stride + shape.k;
        uint8_t* x = in.place(x_bytes, side);
        random.fill(x, x_bytes);
        std::vector<uint8_t> dense(shape.m * shape.k);
        for (int64_t r = 0; r < shape.m; ++r)
          std::memcpy(&dense[r * shape.k], x + r * x_stride, shape.k);
        uint8_t* out = to.place((shape.m - 1) * out_stride + width, side, 4);

        const QParams input{0.03f, 77};
        const LayerCase layer(random, 1, shape.n, 1, shape.k, LayerCase::Zeros::kNone, true,
                              input.scale);
        const QuantizedWeight weight(layer.weights.data(), {1, shape.n, 1, shape.k}, layer.params,
                                     false);
        const OutputSpec output =
            random_output(random, kind, layer.output_scale(random, input.scale));
        linear(weight, {x, shape.m, shape.k, x_stride, false}, input, output, out, out_stride);

        std::vector<uint8_t> expected(shape.m * width);
        ref::linear(layer.reference(), {dense.data(), false}, shape.m,
                    {input.scale, input.zero_point}, reference_output(output), {}, expected.data());
        for (int64_t r = 0; r < shape.m; ++r) {
          ASSERT_EQ(first_difference(out + r * out_stride, expected.data() + r * width, width), "")
              << describe(shape, kind, false, nullptr) << " row " << r;
          for (ptrdiff_t i = width; r + 1 < shape.m && i < out_stride; ++i) {
            ASSERT_EQ(out[r * out_stride + i], GuardBuffer::kFill) << "wrote between rows";
          }
        }
        ASSERT_TRUE(to.margin_intact());
      }
    }
  }
}

// A row given once and read m times, as an expanded tensor has it.
TEST_P(LinearDriverTest, AcceptsRowStrideOfZero) {
  Random random(5);
  const Shape shape{37, 50, 70};
  const QuantizedBytes row(random, shape.k, false);
  std::vector<uint8_t> dense;
  for (int64_t r = 0; r < shape.m; ++r) dense.insert(dense.end(), row.data.begin(), row.data.end());
  const LayerCase layer(random, 1, shape.n, 1, shape.k, LayerCase::Zeros::kNone, true,
                        row.qparams.scale);
  const QuantizedWeight weight(layer.weights.data(), {1, shape.n, 1, shape.k}, layer.params, false);
  const OutputSpec output =
      random_output(random, OutKind::kU8, layer.output_scale(random, row.qparams.scale));
  std::vector<uint8_t> out(shape.m * shape.n), expected(out.size());
  linear(weight, {row.data.data(), shape.m, shape.k, 0, false}, row.qparams, output, out.data(),
         shape.n);
  ref::linear(layer.reference(), {dense.data(), false}, shape.m, row.affine(),
              reference_output(output), {}, expected.data());
  EXPECT_EQ(output_difference(OutKind::kU8, out, expected), "");
}

// Extreme data at the deepest layer that packing accepts: with zero points on the weights too, the
// sum of (a - za) * (w - zw) must still fit int32, or the layer must have been refused.
TEST_P(LinearDriverTest, IsExactOrRefusesAtTheGreatestDepth) {
  for (const int32_t zero : {0, 127}) {
    for (const int32_t k : {static_cast<int32_t>(kMaxDepth), static_cast<int32_t>(kMaxDepth / 2)}) {
      std::vector<int8_t> w(k, -128);
      std::unique_ptr<QuantizedWeight> weight;
      try {
        weight = std::make_unique<QuantizedWeight>(w.data(), WeightShape{1, 1, 1, k},
                                                   WeightParams{{1.0f}, {zero}, {}}, false);
      } catch (const std::invalid_argument&) {
        EXPECT_NE(zero, 0);
        continue;
      }
      const std::vector<uint8_t> x(k, 255);
      int32_t out = 0;
      linear(*weight, {x.data(), 1, k, k, false}, {1.0f, 0}, {OutKind::kI32, {}, false}, &out, 4);
      EXPECT_EQ(out, int64_t{255} * (-128 - zero) * k)
          << "k=" << k << " weight zero point " << zero;
    }
  }
}

TEST_P(LinearDriverTest, KeepsWeightsAcrossForcedKernels) {
  // The same object serves every format: it packs again when a kernel with another one is forced.
  Random random(6);
  const Shape shape{9, 37, 21};
  const QuantizedBytes x(random, shape.m * shape.k, true);
  const LayerCase layer(random, 1, shape.n, 1, shape.k, LayerCase::Zeros::kSome, true,
                        x.qparams.scale);
  const QuantizedWeight weight(layer.weights.data(), {1, shape.n, 1, shape.k}, layer.params, false);
  const OutputSpec output =
      random_output(random, OutKind::kS8, layer.output_scale(random, x.qparams.scale));
  std::vector<uint8_t> expected(shape.m * shape.n);
  ref::linear(layer.reference(), x.reference(), shape.m, x.affine(), reference_output(output), {},
              expected.data());
  for (int round = 0; round < 2; ++round) {
    for (const char* kernel : kernel_choices(set())) {
      const ForcedKernel forced(kernel);
      std::vector<uint8_t> out(expected.size());
      linear(weight, {x.data.data(), shape.m, shape.k, shape.k, true}, x.qparams, output,
             out.data(), shape.n);
      EXPECT_EQ(output_difference(OutKind::kS8, out, expected), "") << (kernel ? kernel : "chosen");
      std::vector<int8_t> plain(layer.weights.size());
      weight.unpack(plain.data());
      EXPECT_EQ(plain, layer.weights);
    }
  }
}

template <typename Call>
void expect_error(Call call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "expected an error with '" << words << "'";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST_P(LinearDriverTest, RefusesBadArguments) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  const std::vector<int8_t> w(6, 1);
  const WeightShape shape{1, 2, 1, 3};
  const WeightParams good{{1.0f, 1.0f}, {0, 0}, {}};
  const auto make = [&](WeightParams params) {
    QuantizedWeight(w.data(), shape, std::move(params), false);
  };
  expect_error([&] { make({{1.0f}, {0, 0}, {}}); }, "weight scale");
  expect_error([&] { make({{1.0f, 0.0f}, {0, 0}, {}}); }, "weight scale");
  expect_error([&] { make({{1.0f, nan}, {0, 0}, {}}); }, "weight scale");
  expect_error([&] { make({{inf, 1.0f}, {0, 0}, {}}); }, "weight scale");
  expect_error([&] { make({{1.0f, 1.0f}, {0}, {}}); }, "weight zero_point");
  expect_error([&] { make({{1.0f, 1.0f}, {0, 128}, {}}); }, "weight zero_point");
  expect_error([&] { make({{1.0f, 1.0f}, {0, 0}, {1.0f}}); }, "bias");
  expect_error([&] { make({{1.0f, 1.0f}, {0, 0}, {1.0f, nan}}); }, "bias");

  const QuantizedWeight weight(w.data(), shape, good, false);
  const std::vector<uint8_t> x(3);
  std::vector<uint8_t> out(2, 0x77);
  const auto run = [&](int64_t columns, QParams input, QParams output,
                       OutKind kind = OutKind::kU8) {
    linear(weight, {x.data(), 1, columns, 3, false}, input, {kind, output, false}, out.data(), 2);
  };
  expect_error([&] { run(2, {1.0f, 0}, {1.0f, 0}); }, "3");
  expect_error([&] { run(3, {0.0f, 0}, {1.0f, 0}); }, "input");
  expect_error([&] { run(3, {-1.0f, 0}, {1.0f, 0}); }, "input");
  expect_error([&] { run(3, {nan, 0}, {1.0f, 0}); }, "input");
  expect_error([&] { run(3, {1.0f, 256}, {1.0f, 0}); }, "input");
  expect_error([&] { run(3, {1.0f, -1}, {1.0f, 0}); }, "input");
  expect_error([&] { run(3, {1.0f, 0}, {inf, 0}); }, "output");
  expect_error([&] { run(3, {1.0f, 0}, {1.0f, 300}); }, "output");
  expect_error([&] { run(3, {1.0f, 0}, {1.0f, 200}, OutKind::kS8); }, "output");
  expect_error([&] { run(3, {1e38f, 0}, {1e-38f, 0}); }, "scale");
  EXPECT_EQ(out, std::vector<uint8_t>(2, 0x77));
}

OCTAVO_INSTANTIATE_ISA_TESTS(LinearDriverTest);

}  // namespace
}  // namespace octavo::testing
