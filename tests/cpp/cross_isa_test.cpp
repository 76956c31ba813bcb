// Every ISA gives the bits that scalar gives, through whole chains of drivers.
#include <cmath>

#include "layer_case.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/pooling.h"

namespace octavo::testing {
namespace {

ImageView view_of(const std::vector<uint8_t>& data, int64_t batch, int64_t height, int64_t width,
                  int32_t channels, bool is_signed) {
  const ptrdiff_t row = width * channels;
  return {data.data(), batch,        {1, height, width},
          channels,    height * row, {height * row, row, channels},
          is_signed};
}

// A small residual network: quantize, conv, conv with a residual, depthwise, max pool, average
// pool, linear to float. Fixed weights, so that every call computes the same function.
class Network {
 public:
  explicit Network(bool is_signed)
      : signed_(is_signed),
        random_(is_signed ? 7 : 6),
        x_(kBatch * kSide * kSide * 3),
        stem_layer_(random_, 1, kWidth, 9, 3, LayerCase::Zeros::kNone, true, kScale),
        block_layer_(random_, 1, kWidth, 9, kWidth, LayerCase::Zeros::kNone, true, kScale),
        depthwise_layer_(random_, kWidth, 1, 9, 1, LayerCase::Zeros::kNone, true, kScale),
        head_layer_(random_, 1, 10, 1, kWidth, LayerCase::Zeros::kSome, true, kScale),
        stem_(stem_layer_.weights.data(), 1, kWidth, 3, same(1), stem_layer_.params),
        block_(block_layer_.weights.data(), 1, kWidth, kWidth, same(1), block_layer_.params),
        depthwise_(depthwise_layer_.weights.data(), kWidth, 1, 1, same(2), depthwise_layer_.params),
        head_(head_layer_.weights.data(), {1, 10, 1, kWidth}, head_layer_.params, false) {
    for (float& v : x_) v = random_.real(-3.0f, 3.0f);
    x_[5] = std::nanf("");
    x_[6] = 1e30f;
    scales_ = {kScale, stem_layer_.output_scale(random_, kScale),
               block_layer_.output_scale(random_, kScale),
               depthwise_layer_.output_scale(random_, kScale)};
  }

  // Every tensor that the network computes, one after the other.
  std::vector<std::vector<uint8_t>> run() const {
    const OutKind kind = signed_ ? OutKind::kS8 : OutKind::kU8;
    const int32_t zero = signed_ ? -9 : 121;
    const auto q = [&](size_t i) { return QParams{scales_[i], zero}; };
    const Storage storage = signed_ ? Storage::kS8 : Storage::kU8;
    const IntRange range = signed_ ? IntRange{-128, 127} : IntRange{0, 255};
    const size_t pixels = kBatch * kSide * kSide;

    std::vector<uint8_t> input(pixels * 3), stem(pixels * kWidth), block(stem.size()),
        sum(stem.size());
    quantize(x_.data(), static_cast<int64_t>(x_.size()), q(0), range, storage, input.data());
    conv(stem_, view_of(input, kBatch, kSide, kSide, 3, signed_), q(0), {kind, q(1), true}, {},
         stem.data());
    const Residual residual{stem.data(), kWidth, q(1), signed_};
    conv(block_, view_of(stem, kBatch, kSide, kSide, kWidth, signed_), q(1), {kind, q(2), true},
         residual, block.data());
    add(block.data(), q(2), stem.data(), q(1), static_cast<int64_t>(sum.size()), signed_, q(2),
        false, sum.data());

    const int64_t half = (kSide + 1) / 2;
    std::vector<uint8_t> depth(kBatch * half * half * kWidth);
    conv(depthwise_, view_of(sum, kBatch, kSide, kSide, kWidth, signed_), q(2), {kind, q(3), false},
         {}, depth.data());
    PoolGeometry pool;
    pool.kernel = {1, 3, 3};
    pool.padding = {0, 1, 1};
    std::vector<uint8_t> pooled(depth.size()), mean(kBatch * kWidth);
    max_pool(view_of(depth, kBatch, half, half, kWidth, signed_), pool, pooled.data());
    adaptive_avg_pool(view_of(pooled, kBatch, half, half, kWidth, signed_), zero, {1, 1, 1},
                      mean.data());
    std::vector<uint8_t> logits(kBatch * 10 * sizeof(float));
    linear(head_, {mean.data(), kBatch, kWidth, kWidth, signed_}, q(3), {OutKind::kF32, {}, false},
           logits.data(), 10 * sizeof(float));
    return {input, stem, block, sum, depth, pooled, mean, logits};
  }

 private:
  static constexpr int64_t kBatch = 2, kSide = 13;
  static constexpr int32_t kWidth = 24;
  static constexpr float kScale = 0.02f;
  static ConvGeometry same(int32_t stride) {
    return {{1, 3, 3}, {1, stride, stride}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}};
  }

  bool signed_;
  Random random_;
  std::vector<float> x_;
  LayerCase stem_layer_, block_layer_, depthwise_layer_, head_layer_;
  ConvWeight stem_, block_, depthwise_;
  QuantizedWeight head_;
  std::vector<float> scales_;
};

TEST(CrossIsaTest, NetworksGiveTheSameBits) {
  static const char* kStages[] = {"quantize",  "conv",     "conv+residual", "add",
                                  "depthwise", "max_pool", "avg_pool",      "linear"};
  for (const bool is_signed : {false, true}) {
    std::vector<std::vector<uint8_t>> expected;
    const Network network(is_signed);  // packed under one ISA, run under all
    {
      const ForcedIsa forced("scalar");
      expected = network.run();
    }
    for (const std::string& isa : isas_under_test()) {
      const ForcedIsa forced(isa);
      for (const char* kernel : kernel_choices(forced.set())) {
        const ForcedKernel one(kernel);
        const auto got = network.run();
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_EQ(first_difference(got[i].data(), expected[i].data(), expected[i].size()), "")
              << isa << " " << (kernel ? kernel : "") << " differs from scalar after "
              << kStages[i];
        }
      }
      std::printf("%s: equal to scalar%s\n", isa.c_str(), is_emulated(isa) ? " (emulated)" : "");
    }
  }
}

// A batch gives each image the bits that it gets alone.
TEST(CrossIsaTest, ResultsDoNotDependOnTheBatch) {
  for (const std::string& isa : isas_under_test()) {
    const ForcedIsa forced(isa);
    Random random(3);
    const int32_t m = 37, n = 50, k = 70;
    const QuantizedBytes x(random, m * k, true);
    const LayerCase layer(random, 1, n, 1, k, LayerCase::Zeros::kNone, true, x.qparams.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, n, 1, k}, layer.params, false);
    const OutputSpec output =
        random_output(random, OutKind::kU8, layer.output_scale(random, x.qparams.scale));
    std::vector<uint8_t> together(m * n), alone(n);
    linear(weight, {x.data.data(), m, k, k, true}, x.qparams, output, together.data(), n);
    for (int32_t r = 0; r < m; ++r) {
      linear(weight, {x.data.data() + r * k, 1, k, k, true}, x.qparams, output, alone.data(), n);
      ASSERT_EQ(first_difference(alone.data(), together.data() + r * n, n), "")
          << isa << " row " << r;
    }
  }
}

}  // namespace
}  // namespace octavo::testing
