// Attention: its two kernels of every ISA against the reference at all small sizes, between guard
// pages, and the driver, to the bit.
#include "ops/attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "guard_buffer.h"
#include "layer_case.h"

namespace octavo::testing {
namespace {

constexpr size_t kCapacity = size_t{1} << 17;
struct Memory {
  GuardBuffer in{kCapacity}, other{kCapacity}, high{kCapacity}, low{kCapacity};
};
Memory& memory() {
  static Memory once;
  return once;
}

std::vector<int64_t> sizes() {
  std::vector<int64_t> all;
  for (int64_t i = 1; i <= 67; ++i) all.push_back(i);
  all.insert(all.end(), {127, 128, 129, 1000, 4099});
  return all;
}

class AttentionKernelTest : public IsaTest {};

TEST_P(AttentionKernelTest, Weights) {
  Random random(1);
  const std::vector<float> factors = {1e-30f, 1e-6f, 3e-5f, 1e-3f, 0.1f, 1e5f, 3e38f};
  for (const int64_t size : sizes()) {
    for (const Side side : {Side::kEnd, Side::kBegin}) {
      int32_t* scores = memory().in.place_array<int32_t>(size, side);
      // Close together, all equal, or as far apart as they may be.
      const int32_t reach = random.pick(std::vector<int32_t>{0, 1, 3000, 200000, 500000000});
      for (int64_t i = 0; i < size; ++i) scores[i] = random.integer(-reach, reach);
      const float factor = random.pick(factors);
      uint8_t* high = memory().high.place(size, side);
      uint8_t* low = memory().low.place(size, side);
      std::vector<uint8_t> upper(size), lower(size);
      const int32_t want = ref::attention_weights(scores, size, factor, upper.data(), lower.data());
      ASSERT_EQ(set().elementwise.attention_weights(scores, size, factor, high, low), want) << size;
      ASSERT_TRUE(std::equal(upper.begin(), upper.end(), high)) << size << " " << factor;
      ASSERT_TRUE(std::equal(lower.begin(), lower.end(), low)) << size << " " << factor;
      ASSERT_TRUE(memory().high.margin_intact() && memory().low.margin_intact()) << size;
    }
  }
}

// A sum of as many weights as there may be, all of them 65535.
TEST_P(AttentionKernelTest, LargestSum) {
  const std::vector<int32_t> scores(kAttentionKeys, -7);
  std::vector<uint8_t> high(scores.size()), low(scores.size());
  ASSERT_EQ(set().elementwise.attention_weights(scores.data(), kAttentionKeys, 1.0f, high.data(),
                                                low.data()),
            kAttentionKeys * 65535);
}

TEST_P(AttentionKernelTest, Output) {
  Random random(2);
  for (const int64_t size : sizes()) {
    for (const Side side : {Side::kEnd, Side::kBegin}) {
      int32_t* high = memory().in.place_array<int32_t>(size, side);
      int32_t* low = memory().other.place_array<int32_t>(size, side);
      const int32_t reach = random.pick(std::vector<int32_t>{300, 4000000, 1000000000});
      for (int64_t i = 0; i < size; ++i) {
        high[i] = random.integer(-reach, reach);
        low[i] = random.integer(-reach, reach);
      }
      AttentionOutputArgs args{};
      args.high = high;
      args.low = low;
      args.size = size;
      args.factor = random.pick(std::vector<float>{1e-9f, 3e-7f, 1e-4f, 3e38f});
      args.shift = random.real(-300.0f, 300.0f);
      args.out_signed = random.chance(2);
      args.out_zero = args.out_signed ? random.integer(-128, 127) : random.integer(0, 255);
      std::vector<uint8_t> want(size);
      args.out = want.data();
      ref::attention_output(args);
      uint8_t* out = memory().high.place(size, side);
      args.out = out;
      set().elementwise.attention_output(&args);
      ASSERT_TRUE(std::equal(want.begin(), want.end(), out)) << size << " " << args.factor;
      ASSERT_TRUE(memory().high.margin_intact()) << size;
    }
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(AttentionKernelTest);

class AttentionTest : public IsaTest {
 protected:
  // Tensors are dense [batch][tokens][heads][size] or [batch][heads][tokens][size].
  static HeadStrides strides(const AttentionShape& s, int64_t tokens, int64_t size, bool by_token) {
    const ptrdiff_t batch = s.heads * tokens * size;
    return by_token ? HeadStrides{batch, size, s.heads * size}
                    : HeadStrides{batch, tokens * size, size};
  }

  // From [batch][heads][tokens][size] to what `strides` says, or back.
  static std::vector<uint8_t> moved(const AttentionShape& s, int64_t tokens, int64_t size,
                                    const HeadStrides& to, const std::vector<uint8_t>& from,
                                    bool back) {
    std::vector<uint8_t> result(from.size());
    for (int64_t i = 0; i < static_cast<int64_t>(from.size()); ++i) {
      const int64_t at = i % size, token = i / size % tokens;
      const int64_t head = i / size / tokens % s.heads, batch = i / size / tokens / s.heads;
      const int64_t there = batch * to.batch + head * to.head + token * to.token + at;
      result[back ? i : there] = from[back ? there : i];
    }
    return result;
  }

  void check(Random& random, const AttentionShape& s, const char* kernel) {
    const ForcedKernel forced(kernel);
    const int64_t groups = s.batch * s.heads;
    const bool q_signed = random.chance(2), k_signed = random.chance(2),
               v_signed = random.chance(2), out_signed = random.chance(2);
    const QuantizedBytes q(random, groups * s.queries * s.size, q_signed);
    const QuantizedBytes k(random, groups * s.keys * s.size, k_signed);
    const QuantizedBytes v(random, groups * s.keys * s.value_size, v_signed);
    const float scale = random.pick(std::vector<float>{0.125f, 0.7f}) / static_cast<float>(s.size);
    const QParams output{v.qparams.scale * 0.3f, out_signed ? -5 : 130};
    std::vector<uint8_t> want(groups * s.queries * s.value_size);
    ref::attention({groups, s.queries, s.keys, s.size, s.value_size, scale}, q.reference(),
                   q.affine(), k.reference(), k.affine(), v.reference(), v.affine(), out_signed,
                   {output.scale, output.zero_point}, want.data());
    const HeadStrides sq = strides(s, s.queries, s.size, random.chance(2));
    const HeadStrides sk = strides(s, s.keys, s.size, random.chance(2));
    const HeadStrides sv = strides(s, s.keys, s.value_size, random.chance(2));
    const HeadStrides so = strides(s, s.queries, s.value_size, random.chance(2));
    const auto mq = moved(s, s.queries, s.size, sq, q.data, false);
    const auto mk = moved(s, s.keys, s.size, sk, k.data, false);
    const auto mv = moved(s, s.keys, s.value_size, sv, v.data, false);
    std::vector<uint8_t> out(want.size(), 0xEE);
    attention(s, {mq.data(), sq, q_signed, q.qparams}, {mk.data(), sk, k_signed, k.qparams},
              {mv.data(), sv, v_signed, v.qparams}, scale, {out.data(), so, out_signed, output});
    ASSERT_EQ(moved(s, s.queries, s.value_size, so, out, true), want)
        << (kernel ? kernel : "chosen kernel") << " groups=" << groups << " queries=" << s.queries
        << " keys=" << s.keys << " size=" << s.size << " value_size=" << s.value_size;
  }
};

TEST_P(AttentionTest, EqualsReference) {
  Random random(3);
  const std::vector<int64_t> tokens = {1, 2, 3, 4, 5, 17, 64, 65, 130};
  const std::vector<int32_t> features = {1, 3, 4, 31, 32, 64, 70};
  for (const char* kernel : kernel_choices(set())) {
    for (int round = 0; round < (emulated() ? 4 : 16); ++round) {
      check(random,
            {random.integer(1, 3), random.integer(1, 3), random.pick(tokens), random.pick(tokens),
             random.pick(features), random.pick(features)},
            kernel);
      if (HasFatalFailure()) return;
    }
  }
}

// More rows than a task takes, rows longer than a task would like.
TEST_P(AttentionTest, EqualsReferenceAcrossBlocks) {
  Random random(4);
  check(random, {1, 2, emulated() ? 40 : 700, 40, 16, 8}, nullptr);
  if (!HasFatalFailure()) check(random, {1, 1, 3, 20000, 4, 4}, nullptr);
}

TEST_P(AttentionTest, Refuses) {
  const uint8_t bytes[64] = {};
  uint8_t out[64];
  const HeadStrides s{16, 16, 4};
  const auto run = [&](AttentionShape shape, float scale, QParams qparams) {
    const HeadInput x{bytes, s, false, qparams};
    attention(shape, x, x, x, scale, {out, s, false, {1.0f, 0}});
  };
  const AttentionShape shape{1, 1, 2, 2, 4, 4};
  run(shape, 1.0f, {1.0f, 0});
  EXPECT_THROW(run({1, 1, 2, 0, 4, 4}, 1.0f, {1.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({1, 1, 2, kAttentionKeys + 1, 4, 4}, 1.0f, {1.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({1, 1, 2, 2, kAttentionSize + 1, 4}, 1.0f, {1.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({1, 1, 2, 2, 0, 4}, 1.0f, {1.0f, 0}), std::invalid_argument);
  for (const float scale : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
    EXPECT_THROW(run(shape, scale, {1.0f, 0}), std::invalid_argument) << scale;
  }
  EXPECT_THROW(run(shape, 1.0f, {1.0f, 256}), std::invalid_argument);
  EXPECT_THROW(run(shape, 1.0f, {0.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run(shape, 1.0f, {1e30f, 0}), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(AttentionTest);

}  // namespace
}  // namespace octavo::testing
