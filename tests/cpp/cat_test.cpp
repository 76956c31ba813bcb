// Concatenation against the reference's requantization, element by element.
#include "ops/cat.h"

#include <cmath>
#include <stdexcept>

#include "guard_buffer.h"
#include "image_case.h"

namespace octavo::testing {
namespace {

struct Parts {
  std::vector<std::vector<uint8_t>> data;
  std::vector<CatPart> parts;
  int64_t row_bytes = 0;
};

QParams random_qparams(Random& random, bool is_signed) {
  return {random.real(0.01f, 1.0f), random_zero_point(random, is_signed)};
}

Parts random_parts(Random& random, int64_t rows, int64_t longest, bool is_signed, QParams output) {
  Parts all;
  for (int count = random.integer(1, 5); count > 0; --count) {
    CatPart part{};
    part.row_bytes = random.integer(random.chance(4) ? 0 : 1, static_cast<int32_t>(longest));
    part.stride = part.row_bytes + (random.chance(2) ? random.integer(0, 20) : 0);
    part.qparams = random.chance(3) ? output : random_qparams(random, is_signed);
    std::vector<uint8_t> bytes(rows * part.stride + 1);
    random.fill(bytes.data(), bytes.size());
    part.data = bytes.data();
    all.row_bytes += part.row_bytes;
    all.data.push_back(std::move(bytes));
    all.parts.push_back(part);
  }
  return all;
}

// The output's bytes; those between rows are `fill`.
std::vector<uint8_t> expected_bytes(const Parts& all, int64_t rows, bool is_signed, QParams output,
                                    ptrdiff_t stride, uint8_t fill) {
  std::vector<uint8_t> out((rows - 1) * stride + all.row_bytes, fill);
  const int32_t lo = is_signed ? -128 : 0;
  int64_t place = 0;
  for (const CatPart& part : all.parts) {
    const ref::Bytes in{part.data, is_signed};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < part.row_bytes; ++i) {
        const int32_t q = in.at(r * part.stride + i);
        ref::store_byte(out.data(), r * stride + place + i, is_signed,
                        ref::requantize(q, {part.qparams.scale, part.qparams.zero_point},
                                        {output.scale, output.zero_point}, lo, lo + 255));
      }
    }
    place += part.row_bytes;
  }
  return out;
}

class CatTest : public IsaTest {};

TEST_P(CatTest, RowsOfAllLengths) {
  Random random(1);
  GuardBuffer buffer(size_t{1} << 20);
  for (int round = 0; round < 300; ++round) {
    const bool is_signed = random.chance(2), is_long = random.chance(10);
    const int64_t rows = is_long ? random.integer(1, 3) : random.integer(1, 60);
    const QParams output = random_qparams(random, is_signed);
    const Parts all = random_parts(random, rows, is_long ? 50000 : 130, is_signed, output);
    const ptrdiff_t stride = all.row_bytes + (random.chance(2) ? random.integer(0, 20) : 0);
    const auto expected = expected_bytes(all, rows, is_signed, output, stride, GuardBuffer::kFill);
    uint8_t* out = buffer.place(expected.size(), random.chance(2) ? Side::kEnd : Side::kBegin);
    cat(all.parts.data(), static_cast<int64_t>(all.parts.size()), rows, is_signed, output, out,
        stride);
    ASSERT_EQ(first_difference(out, expected.data(), expected.size()), "") << "round " << round;
    ASSERT_TRUE(buffer.margin_intact()) << "round " << round;
  }
}

// A producer that writes where its part belongs saves the copy.
TEST_P(CatTest, PartsInPlaceStay) {
  Random random(2);
  const QParams output{0.1f, 5}, other{0.2f, 9};
  const int64_t rows = 20, first = 24, second = 40, stride = first + second;
  std::vector<uint8_t> out(rows * stride), part(rows * first);
  random.fill(out.data(), out.size());
  random.fill(part.data(), part.size());
  const std::vector<uint8_t> before = out;
  const CatPart parts[] = {{part.data(), first, first, other},
                           {out.data() + first, second, stride, output}};
  cat(parts, 2, rows, false, output, out.data(), stride);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < stride; ++i) {
      const int32_t want = i < first
                               ? ref::requantize(part[r * first + i], {0.2f, 9}, {0.1f, 5}, 0, 255)
                               : before[r * stride + i];
      ASSERT_EQ(out[r * stride + i], want) << "row " << r << " byte " << i;
    }
  }
  const CatPart wrong[] = {parts[0], {out.data() + first, second, stride, other}};
  EXPECT_THROW(cat(wrong, 2, rows, false, output, out.data(), stride), std::invalid_argument);
}

TEST_P(CatTest, RefusesWrongQParams) {
  uint8_t byte = 0, out = 0;
  const auto run = [&](QParams part, QParams output) {
    const CatPart one{&byte, 1, 1, part};
    cat(&one, 1, 1, false, output, &out, 1);
  };
  EXPECT_NO_THROW(run({1.0f, 0}, {1.0f, 0}));
  EXPECT_THROW(run({1.0f, 256}, {1.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({1.0f, 0}, {0.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({std::nanf(""), 0}, {1.0f, 0}), std::invalid_argument);
  EXPECT_THROW(run({3e38f, 0}, {1e-30f, 0}), std::invalid_argument);
}

OCTAVO_INSTANTIATE_ISA_TESTS(CatTest);

}  // namespace
}  // namespace octavo::testing
