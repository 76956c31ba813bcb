// The element-wise operators on tensors that span several tasks and blocks, against the reference.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "ops/elementwise.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

constexpr int64_t kSizes[] = {0, 1, 63, 64, 65, 1000, 32768, 70001};

ref::Affine affine(QParams q) { return {q.scale, q.zero_point}; }

QParams random_qparams(Random& random, bool is_signed) {
  return {random.chance(2) ? std::ldexp(1.0f, random.integer(-5, 1)) : random.real(0.01f, 2.0f),
          random.byte() - (is_signed ? 128 : 0)};
}

IntRange full_range(bool is_signed) { return is_signed ? IntRange{-128, 127} : IntRange{0, 255}; }

float hard_value(Random& random) {
  static const std::vector<float> kSpecial = {std::numeric_limits<float>::infinity(),
                                              -std::numeric_limits<float>::infinity(),
                                              std::nanf(""),
                                              3e38f,
                                              -3e38f,
                                              1e-42f,
                                              -0.0f};
  if (random.chance(20)) return random.pick(kSpecial);
  return static_cast<float>(random.integer(-600, 600)) * 0.25f;
}

class ElementwiseDriverTest : public IsaTest {};

TEST_P(ElementwiseDriverTest, QuantizeAndDequantize) {
  Random random(1);
  for (const Storage storage : {Storage::kU8, Storage::kS8, Storage::kI32}) {
    for (const int64_t size : kSizes) {
      const bool wide = storage == Storage::kI32;
      const QParams q{wide ? 0.5f : 0.25f, wide ? -7 : storage == Storage::kS8 ? -3 : 130};
      const IntRange range =
          wide ? IntRange{std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}
               : full_range(storage == Storage::kS8);
      std::vector<float> x(size), back(size);
      for (float& v : x) v = hard_value(random);
      std::vector<int32_t> ints(size);
      std::vector<uint8_t> bytes(size);
      void* out = wide ? static_cast<void*>(ints.data()) : bytes.data();
      quantize(x.data(), size, q, range, storage, out);
      dequantize(out, size, q, storage, back.data());
      for (int64_t i = 0; i < size; ++i) {
        const int32_t expected = ref::quantize(x[i], affine(q), range.lo, range.hi);
        const int32_t got =
            wide ? ints[i] : ref::Bytes{bytes.data(), storage == Storage::kS8}.at(i);
        ASSERT_EQ(got, expected) << "x=" << x[i] << " i=" << i << " of " << size;
        ASSERT_EQ(back[i], ref::dequantize(expected, affine(q))) << "i=" << i;
      }
    }
  }
}

TEST_P(ElementwiseDriverTest, PerChannel) {
  Random random(2);
  for (const Storage storage : {Storage::kU8, Storage::kS8, Storage::kI32}) {
    for (const int64_t inner : {1, 3, 64, 131}) {
      const int64_t outer = 3, channels = 5, size = outer * channels * inner;
      const bool wide = storage == Storage::kI32;
      const IntRange range = wide ? IntRange{-1000, 1000} : full_range(storage == Storage::kS8);
      std::vector<float> x(size), scales(channels), back(size);
      std::vector<int32_t> zeros(channels), ints(size);
      std::vector<uint8_t> bytes(size);
      for (float& v : x) v = hard_value(random);
      for (int64_t c = 0; c < channels; ++c) {
        const QParams q = random_qparams(random, storage == Storage::kS8);
        scales[c] = q.scale;
        zeros[c] = q.zero_point;
      }
      void* out = wide ? static_cast<void*>(ints.data()) : bytes.data();
      quantize_per_channel(x.data(), outer, channels, inner, scales.data(), zeros.data(), range,
                           storage, out);
      dequantize_per_channel(out, outer, channels, inner, scales.data(), zeros.data(), storage,
                             back.data());
      for (int64_t i = 0; i < size; ++i) {
        const int64_t c = i / inner % channels;
        const ref::Affine q{scales[c], zeros[c]};
        const int32_t expected = ref::quantize(x[i], q, range.lo, range.hi);
        const int32_t got =
            wide ? ints[i] : ref::Bytes{bytes.data(), storage == Storage::kS8}.at(i);
        ASSERT_EQ(got, expected) << "x=" << x[i] << " channel " << c;
        ASSERT_EQ(back[i], ref::dequantize(expected, q));
      }
    }
  }
}

TEST_P(ElementwiseDriverTest, Arithmetic) {
  Random random(3);
  for (const bool is_signed : {false, true}) {
    for (const int64_t size : kSizes) {
      for (int round = 0; round < 4; ++round) {
        std::vector<uint8_t> a(size), b(size), out(size);
        random.fill(a.data(), size);
        random.fill(b.data(), size);
        const ref::Bytes ra{a.data(), is_signed}, rb{b.data(), is_signed},
            got{out.data(), is_signed};
        const QParams qa = random_qparams(random, is_signed),
                      qb = random_qparams(random, is_signed),
                      qo = random_qparams(random, is_signed);
        const bool relu = round % 2;
        const IntRange range = full_range(is_signed);
        const int32_t lo = relu ? qo.zero_point : range.lo;
        add(a.data(), qa, b.data(), qb, size, is_signed, qo, relu, out.data());
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_EQ(got.at(i),
                    ref::add(ra.at(i), affine(qa), rb.at(i), affine(qb), affine(qo), lo, range.hi));
        }
        mul(a.data(), qa, b.data(), qb, size, is_signed, qo, relu, out.data());
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_EQ(got.at(i),
                    ref::mul(ra.at(i), affine(qa), rb.at(i), affine(qb), affine(qo), lo, range.hi));
        }
        clamp(a.data(), size, is_signed, {lo, range.hi - 9 > lo ? range.hi - 9 : lo}, out.data());
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_EQ(got.at(i), std::min(std::max(ra.at(i), lo), std::max(range.hi - 9, lo)));
        }
        const bool to_signed = round / 2 != 0;
        const QParams qr = random_qparams(random, to_signed);
        const IntRange to = full_range(to_signed);
        requantize(a.data(), size, qa, is_signed, qr, to_signed, to, out.data());
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_EQ((ref::Bytes{out.data(), to_signed}.at(i)),
                    ref::requantize(ra.at(i), affine(qa), affine(qr), to.lo, to.hi));
        }
      }
    }
  }
}

TEST_P(ElementwiseDriverTest, RefusesBadArguments) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x(3);
  std::vector<uint8_t> a(3), out(3);
  for (const float scale : {0.0f, -1.0f, inf, std::nanf("")}) {
    EXPECT_THROW(quantize(x.data(), 3, {scale, 0}, {0, 255}, Storage::kU8, out.data()),
                 std::invalid_argument);
    EXPECT_THROW(
        add(a.data(), {scale, 0}, a.data(), {1.0f, 0}, 3, false, {1.0f, 0}, false, out.data()),
        std::invalid_argument);
    EXPECT_THROW(
        mul(a.data(), {1.0f, 0}, a.data(), {1.0f, 0}, 3, false, {scale, 0}, false, out.data()),
        std::invalid_argument);
    EXPECT_THROW(requantize(a.data(), 3, {scale, 0}, false, {1.0f, 0}, false, {0, 255}, out.data()),
                 std::invalid_argument);
  }
  EXPECT_THROW(
      add(a.data(), {1.0f, 256}, a.data(), {1.0f, 0}, 3, false, {1.0f, 0}, false, out.data()),
      std::invalid_argument);
  EXPECT_THROW(
      mul(a.data(), {1.0f, 0}, a.data(), {1.0f, 200}, 3, true, {1.0f, 0}, false, out.data()),
      std::invalid_argument);
  EXPECT_THROW(
      requantize(a.data(), 3, {1.0f, 0}, false, {1.0f, 200}, true, {-128, 127}, out.data()),
      std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(ElementwiseDriverTest);

}  // namespace
}  // namespace octavo::testing
