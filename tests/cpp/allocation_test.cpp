// Drivers allocate nothing once their scratch has its size: every operator new of this program is
// counted.
#include <cstdlib>
#include <new>
#include <thread>

#include "layer_case.h"
#include "ops/cat.h"
#include "ops/conv_transpose.h"
#include "ops/elementwise.h"
#include "ops/fake_quantize.h"
#include "ops/linear_function.h"
#include "ops/pooling.h"
#include "ops/recurrent.h"
#include "ops/upsample.h"

namespace {

thread_local int64_t allocations = 0;
thread_local int64_t allocated_bytes = 0;

void* counted(size_t size, size_t alignment) {
  ++allocations;
  allocated_bytes += static_cast<int64_t>(size);
  const size_t rounded = (size + alignment - 1) / alignment * alignment;
  if (void* memory = std::aligned_alloc(alignment, rounded ? rounded : alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace octavo::testing {
namespace {

class AllocationTest : public IsaTest {
 protected:
  template <typename Call>
  void expect_none(const char* what, Call call) {
    call();
    const int64_t before = allocations;
    for (int i = 0; i < 3; ++i) call();
    EXPECT_EQ(allocations, before) << what;
  }
};

TEST_P(AllocationTest, CounterCounts) {
  const int64_t before = allocations;
  std::vector<int> v(10);
  const AlignedBuffer aligned(100);
  EXPECT_EQ(allocations, before + 2);
}

TEST_P(AllocationTest, FakeQuantizeAllocatesNothing) {
  for (const ChannelGrid grid : {ChannelGrid{1, 1, 100000}, ChannelGrid{3, 40, 50}}) {
    const int64_t size = grid.elements();
    std::vector<float> x(size, 0.5f), out(size), min(grid.channels), max(min), scale(min);
    std::vector<int32_t> zero(grid.channels);
    std::vector<uint8_t> inside(size);
    const FakeQuantizeStep step{
        x.data(),   grid,       true,         {true, 0.5f, 1e-7f, {0, 255}, false, 0},
        min.data(), max.data(), scale.data(), zero.data(),
        {0, 255},   out.data(), inside.data()};
    expect_none("fake quantize", [&] { fake_quantize_step(step); });
    expect_none("its gradient",
                [&] { masked_gradient(x.data(), inside.data(), size, out.data()); });
  }
}

TEST_P(AllocationTest, LinearAllocatesNothing) {
  for (const LayerCase::Zeros zeros : {LayerCase::Zeros::kNone, LayerCase::Zeros::kSome}) {
    Random random(1);
    const QParams input{0.02f, 100}, other{0.03f, 90};
    const LayerCase layer(random, 1, 70, 1, 133, zeros, true, input.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, 70, 1, 133}, layer.params, false);
    const OutputSpec output = random_output(random, OutKind::kU8, 0.1f);
    for (const int64_t rows : {1, 2, 13, 100}) {
      const std::vector<uint8_t> x(rows * 133, 7);
      std::vector<uint8_t> out(rows * 70);
      for (const bool is_signed : {false, true}) {
        const QParams q = is_signed ? QParams{input.scale, 20} : input;
        expect_none("linear", [&] {
          linear(weight, {x.data(), rows, 133, 133, is_signed}, q, output, out.data(), 70);
        });
        expect_none("linear and tanh", [&] {
          linear_function(weight, {x.data(), rows, 133, 133, is_signed}, q, FloatFunction::kTanh,
                          0.0f, other, false, out.data(), 70);
        });
      }
      expect_none("linear, qparams that change", [&] {
        for (int32_t zero = 0; zero < 20; ++zero) {
          linear(weight, {x.data(), rows, 133, 133, false}, {other.scale, zero}, output, out.data(),
                 70);
        }
      });
    }
  }
}

struct ConvCase {
  const char* what;
  int32_t groups, n, k, kernel, stride;
};

TEST_P(AllocationTest, ConvolutionAllocatesNothing) {
  for (const ConvCase& c :
       {ConvCase{"3x3", 1, 20, 16, 3, 1}, ConvCase{"odd channels", 1, 20, 3, 3, 2},
        ConvCase{"pointwise", 1, 20, 16, 1, 1}, ConvCase{"groups", 2, 18, 20, 3, 1},
        ConvCase{"depthwise", 24, 1, 1, 3, 1}, ConvCase{"depthwise 7x7", 24, 1, 1, 7, 1},
        ConvCase{"multiplier", 24, 2, 1, 3, 1}, ConvCase{"small groups", 6, 4, 4, 3, 2},
        ConvCase{"small groups 5x5", 6, 5, 3, 5, 1}}) {
    Random random(2);
    const QParams input{0.02f, 100};
    const int32_t pad = c.kernel / 2, taps = c.kernel * c.kernel, channels = c.groups * c.k;
    const ConvGeometry g{
        {1, c.kernel, c.kernel}, {1, c.stride, c.stride}, {0, pad, pad}, {0, pad, pad}, {1, 1, 1}};
    const LayerCase layer(random, c.groups, c.n, taps, c.k, LayerCase::Zeros::kNone, true,
                          input.scale);
    const ConvWeight weight(layer.weights.data(), c.groups, c.n, c.k, g, layer.params);
    const int64_t side = 9;
    const std::vector<uint8_t> x(2 * side * side * channels, 7);
    std::vector<uint8_t> out(2 * side * side * c.groups * c.n);
    const ptrdiff_t row = side * channels;
    const ImageView view{
        x.data(), 2, {1, side, side}, channels, side * row, {side * row, row, channels}, false};
    const OutputSpec output = random_output(random, OutKind::kU8, 0.1f);
    expect_none(c.what, [&] { conv(weight, view, input, output, {}, out.data()); });
  }
}

TEST_P(AllocationTest, TransposedConvolutionAllocatesNothing) {
  for (const ConvCase& c : {ConvCase{"2x2/2", 1, 20, 16, 2, 2}, ConvCase{"3x3/2", 1, 20, 3, 3, 2},
                            ConvCase{"groups", 2, 8, 8, 4, 2}, ConvCase{"1x1/2", 1, 8, 8, 1, 2}}) {
    Random random(3);
    const QParams input{0.02f, 100};
    const int32_t channels = c.groups * c.k;
    const ConvTransposeGeometry g{
        {1, c.kernel, c.kernel}, {1, c.stride, c.stride}, {0, 0, 0}, {1, 1, 1}};
    const LayerCase layer(random, c.groups, c.n, g.taps(), c.k, LayerCase::Zeros::kNone, true,
                          input.scale);
    const ConvTransposeWeight weight(layer.weights.data(), c.groups, c.n, c.k, g, layer.params);
    const int64_t side = 9, row = side * channels;
    const std::vector<uint8_t> x(2 * side * row, 7);
    std::vector<uint8_t> out(2 * g.output_size(1, side) * g.output_size(2, side) * c.groups * c.n);
    const ImageView view{
        x.data(), 2, {1, side, side}, channels, side * row, {side * row, row, channels}, false};
    const OutputSpec output = random_output(random, OutKind::kU8, 0.1f);
    expect_none(c.what, [&] {
      conv_transpose(weight, view, {0, 0, 0}, input, output, out.data());
    });
  }
}

// Whatever the sizes: what a thread that never ran anything allocates is all of its scratch.
TEST_P(AllocationTest, LinearFunctionKeepsItsScratchUnderOneMebibyte) {
  struct Shape {
    int64_t rows;
    int32_t n, k;
  };
  for (const Shape& s : {Shape{600, 3000, 16}, Shape{2, 300000, 4}, Shape{200, 70, 7001}}) {
    if (emulated() && s.k > 1024) continue;
    Random random(6);
    const QParams input{0.02f, 100};
    const LayerCase layer(random, 1, s.n, 1, s.k, LayerCase::Zeros::kNone, true, input.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, s.n, 1, s.k}, layer.params, false);
    const std::vector<uint8_t> x(s.rows * s.k, 7);
    std::vector<uint8_t> out(s.rows * s.n);
    const auto run = [&] {
      linear_function(weight, {x.data(), s.rows, s.k, s.k, false}, input, FloatFunction::kTanh,
                      0.0f, {0.01f, 128}, false, out.data(), s.n);
    };
    run();  // what the weight keeps for these qparams
    int64_t bytes = 0;
    std::thread([&] {
      const int64_t before = allocated_bytes;
      run();
      bytes = allocated_bytes - before;
    }).join();
    EXPECT_GT(bytes, 0);
    EXPECT_LT(bytes, 1 << 20) << s.rows << " rows, " << s.n << " outputs";
  }
}

TEST_P(AllocationTest, TransposedConvolutionKeepsItsScratchUnderOneMebibyte) {
  struct Shape {
    int64_t height, width;
    int32_t n, k, kernel, stride;
  };
  for (const Shape& s : {Shape{64, 300, 16, 4, 2, 2}, Shape{40, 9, 20, 1024, 2, 2},
                         Shape{9, 9, 8, 3000, 4, 2}, Shape{9, 9, 8, 7001, 3, 1}}) {
    if (emulated() && s.k > 1024) continue;
    Random random(4);
    const QParams input{0.02f, 100};
    const ConvTransposeGeometry g{
        {1, s.kernel, s.kernel}, {1, s.stride, s.stride}, {0, 0, 0}, {1, 1, 1}};
    const LayerCase layer(random, 1, s.n, g.taps(), s.k, LayerCase::Zeros::kNone, true,
                          input.scale);
    const ConvTransposeWeight weight(layer.weights.data(), 1, s.n, s.k, g, layer.params);
    const int64_t row = s.width * s.k, image = s.height * row;
    const std::vector<uint8_t> x(image, 7);
    std::vector<uint8_t> out(g.output_size(1, s.height) * g.output_size(2, s.width) * s.n);
    const ImageView view{x.data(), 1, {1, s.height, s.width}, s.k, image, {image, row, s.k}, false};
    const OutputSpec output = random_output(random, OutKind::kU8, 0.1f);
    int64_t bytes = 0;
    std::thread([&] {
      const int64_t before = allocated_bytes;
      conv_transpose(weight, view, {0, 0, 0}, input, output, out.data());
      bytes = allocated_bytes - before;
    }).join();
    EXPECT_GT(bytes, 0);
    EXPECT_LT(bytes, 1 << 20) << s.k << " channels";
  }
}

TEST_P(AllocationTest, ConvolutionKeepsItsScratchUnderOneMebibyte) {
  struct Shape {
    int64_t height, width;
    int32_t groups, n, k, kernel, stride;
  };
  for (const Shape& s : {Shape{64, 300, 1, 16, 4, 3, 1}, Shape{200, 200, 1, 8, 3, 7, 2},
                         Shape{3, 4000, 1, 8, 16, 3, 1}, Shape{9, 9, 1, 20, 1024, 3, 1},
                         Shape{9, 9, 1, 8, 7001, 3, 1}, Shape{12, 12, 1, 8, 5000, 1, 2},
                         Shape{3, 3000, 640, 1, 1, 3, 1}, Shape{60, 60, 256, 1, 1, 7, 2},
                         Shape{40, 400, 32, 4, 4, 3, 1}, Shape{30, 30, 32, 5, 7, 5, 1}}) {
    if (emulated() && s.k > 1024) continue;
    Random random(5);
    const QParams input{0.02f, 100};
    const int32_t pad = s.kernel / 2, channels = s.groups * s.k;
    const ConvGeometry g{
        {1, s.kernel, s.kernel}, {1, s.stride, s.stride}, {0, pad, pad}, {0, pad, pad}, {1, 1, 1}};
    const LayerCase layer(random, s.groups, s.n, g.taps(), s.k, LayerCase::Zeros::kNone, true,
                          input.scale);
    const ConvWeight weight(layer.weights.data(), s.groups, s.n, s.k, g, layer.params);
    const int64_t row = s.width * channels, image = s.height * row;
    const std::vector<uint8_t> x(image, 7);
    std::vector<uint8_t> out(g.output_size(1, s.height) * g.output_size(2, s.width) * s.groups *
                             s.n);
    const ImageView view{
        x.data(), 1, {1, s.height, s.width}, channels, image, {image, row, channels}, false};
    const OutputSpec output = random_output(random, OutKind::kU8, 0.1f);
    int64_t bytes = 0;
    std::thread([&] {
      const int64_t before = allocated_bytes;
      conv(weight, view, input, output, {}, out.data());
      bytes = allocated_bytes - before;
    }).join();
    EXPECT_GT(bytes, 0);
    EXPECT_LT(bytes, 1 << 20) << s.height << "x" << s.width << "x" << channels << ", kernel "
                              << s.kernel;
  }
}

TEST_P(AllocationTest, RecurrentLayersAllocateNothing) {
  constexpr int32_t kSize = 40, kInputs = 30, kOutputs = 20, kSteps = 9, kBatch = 4;
  Random random(6);
  const auto weight = [&](int32_t n, int32_t k) {
    const LayerCase layer(random, 1, n, 1, k, LayerCase::Zeros::kSome, true, 0.02f);
    return QuantizedWeight(layer.weights.data(), {1, n, 1, k}, layer.params, false);
  };
  const QuantizedWeight input = weight(4 * kSize, kInputs), hidden = weight(4 * kSize, kOutputs);
  const QuantizedWeight project = weight(kOutputs, kSize);
  const RecurrentLayer layer{CellKind::kLstm, &input, &hidden, &project};
  const std::vector<float> x(kSteps * kBatch * kInputs, 0.7f);
  std::vector<float> h(kBatch * kOutputs), c(kBatch * kSize), out(kSteps * kBatch * kOutputs);
  for (const bool per_tensor : {false, true}) {
    expect_none("recurrent", [&] {
      recurrent(layer, {x.data(), FloatType::kF32, kSteps * kBatch, kInputs, kInputs},
                {kSteps, kBatch}, {per_tensor}, false, {h.data(), c.data()}, out.data(), kOutputs);
    });
  }
}

TEST_P(AllocationTest, ElementwiseAllocatesNothing) {
  const int64_t size = 1000;
  const std::vector<float> x(size, 0.7f);
  std::vector<float> back(size);
  std::vector<uint8_t> q(size), r(size);
  const QParams p{0.02f, 100};
  expect_none("quantize", [&] { quantize(x.data(), size, p, {0, 255}, Storage::kU8, q.data()); });
  expect_none("dequantize", [&] { dequantize(q.data(), size, p, Storage::kU8, back.data()); });
  expect_none("add", [&] { add(q.data(), p, q.data(), p, size, false, p, true, r.data()); });
  const ImageView view{q.data(), 1, {1, 10, 10}, 10, 1000, {1000, 100, 10}, false};
  const PoolGeometry g{{1, 2, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, false};
  expect_none("max_pool", [&] { max_pool(view, g, r.data()); });
  const PoolGeometry wide{{1, 5, 5}, {1, 1, 1}, {0, 2, 2}, {1, 1, 1}, false};
  expect_none("max_pool by columns", [&] { max_pool(view, wide, r.data()); });
  expect_none("adaptive_avg_pool", [&] { adaptive_avg_pool(view, 100, {1, 3, 3}, r.data()); });
  const ResizeGeometry resize{{1, 9, 11}, {0, 0, 0}};
  expect_none("upsample_nearest", [&] { upsample_nearest(view, resize, false, r.data()); });
  expect_none("upsample_linear", [&] { upsample_linear(view, 100, resize, false, r.data()); });
  const CatPart parts[] = {{q.data(), 4, 10, p}, {q.data() + 4, 6, 10, {0.03f, 90}}};
  expect_none("cat", [&] { cat(parts, 2, 100, false, p, r.data(), 10); });
}

OCTAVO_INSTANTIATE_ISA_TESTS(AllocationTest);

}  // namespace
}  // namespace octavo::testing
