// Embedding tables against the reference: kernels between guard pages, and the driver.
#include "ops/embedding.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "guard_buffer.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

const std::vector<int32_t> kColumns = {1,  2,  3,  7,  8,  9,  15,  16,  17,  31,  32,  33, 47,
                                       48, 64, 65, 66, 96, 97, 100, 127, 130, 143, 257, 300};

// A table, bags and an output, each between guard pages.
class Bags : public CaseDescriber {
 public:
  struct Shape {
    int64_t rows, columns, bags;
    int32_t longest;
    bool nibbles;
  };

  Bags(Random& random, const Shape& shape, Side side) : nibbles_(shape.nibbles) {
    args.row_bytes = nibbles_ ? (shape.columns + 1) / 2 : shape.columns;
    args.table_rows = shape.rows;
    args.columns = shape.columns;
    const size_t table_bytes = static_cast<size_t>(shape.rows * args.row_bytes);
    uint8_t* table = table_.place(table_bytes, side);
    random.fill(table, table_bytes);
    args.table = table;
    float* qparams = qparams_.place_array<float>(static_cast<size_t>(shape.rows) * 2, side);
    for (int64_t i = 0; i < shape.rows; ++i) {
      qparams[2 * i] = random.chance(8) ? 1e20f : random.real(1e-4f, 0.3f);
      qparams[2 * i + 1] = random.chance(8) ? -1e22f : random.real(-30.0f, 10.0f);
    }
    args.qparams = qparams;
    args.mode = static_cast<EmbeddingMode>(random.integer(0, 2));
    args.is_64_bit = random.chance(2);
    args.padding = random.chance(2) ? random.integer(0, static_cast<int32_t>(shape.rows) - 1) : -1;
    place_bags(random, shape, side);
    if (args.mode == EmbeddingMode::kSum && random.chance(2)) {
      float* weights = weights_.place_array<float>(static_cast<size_t>(args.count), side);
      for (int64_t i = 0; i < args.count; ++i) {
        weights[i] = random.chance(10) ? 0.0f : random.real(-2.0f, 2.0f);
      }
      args.weights = weights;
    }
    args.out = out_.place_array<float>(static_cast<size_t>(args.bag_end * args.columns), side);
    expected_.resize(static_cast<size_t>(args.bag_end * args.columns), -1.0f);
  }

  std::string describe() const override {
    return std::string(nibbles_ ? "nibbles" : "bytes") + " mode " +
           std::to_string(static_cast<int>(args.mode)) + " rows " +
           std::to_string(args.table_rows) + " columns " + std::to_string(args.columns) + " bags " +
           std::to_string(args.bag_end) + " indices " + std::to_string(args.count) +
           (args.offsets ? " offsets" : " of one length") + (args.weights ? " weights" : "");
  }

  int64_t reference() {
    EmbeddingArgs wanted = args;
    wanted.out = expected_.data();
    return ref::embedding_kernel(wanted, nibbles_);
  }
  std::string difference() const {
    if (!out_.margin_intact()) return "wrote beside the output";
    return first_difference(args.out, expected_.data(), expected_.size() * sizeof(float));
  }
  void set_index(int64_t i, int64_t value) { store(indices_.data(), i, value); }
  bool nibbles() const { return nibbles_; }

  EmbeddingArgs args{};

 private:
  void store(uint8_t* to, int64_t i, int64_t value) {
    if (args.is_64_bit) {
      reinterpret_cast<int64_t*>(to)[i] = value;
    } else {
      reinterpret_cast<int32_t*>(to)[i] = static_cast<int32_t>(value);
    }
  }

  void place_bags(Random& random, const Shape& shape, Side side) {
    const size_t size = args.is_64_bit ? 8 : 4;
    const bool ragged = random.chance(2), with_last = random.chance(2);
    std::vector<int64_t> offsets;
    args.bag_length = random.integer(0, shape.longest);
    for (int64_t b = 0; b < shape.bags; ++b) {
      offsets.push_back(args.count);
      args.count += ragged ? random.integer(0, shape.longest) : args.bag_length;
    }
    if (ragged) {
      if (with_last) offsets.push_back(args.count);
      uint8_t* to = offsets_.place(offsets.size() * size, side, size);
      for (size_t i = 0; i < offsets.size(); ++i) store(to, static_cast<int64_t>(i), offsets[i]);
      args.offsets = to;
      args.offset_count = static_cast<int64_t>(offsets.size());
    }
    uint8_t* to = indices_.place(static_cast<size_t>(args.count) * size, side, size);
    for (int64_t i = 0; i < args.count; ++i) {
      store(to, i, random.integer(0, static_cast<int32_t>(shape.rows) - 1));
    }
    args.indices = to;
    args.bag_end = shape.bags;
  }

  bool nibbles_;
  GuardBuffer table_{1 << 16}, qparams_{1 << 12}, indices_{1 << 15}, offsets_{1 << 12},
      weights_{1 << 14}, out_{1 << 16};
  std::vector<float> expected_;
};

class EmbeddingTest : public IsaTest {};

TEST_P(EmbeddingTest, KernelsEqualTheReference) {
  Random random(1);
  for (int round = 0; round < 1000; ++round) {
    const Bags::Shape shape{random.integer(1, 40), random.pick(kColumns), random.integer(1, 12),
                            random.pick(std::vector<int32_t>{1, 3, 8, 9, 20, 40, 150}),
                            random.chance(2)};
    Bags bags(random, shape, random.chance(2) ? Side::kEnd : Side::kBegin);
    const RunningCase running(&bags);
    ASSERT_EQ(bags.reference(), -1);
    ASSERT_EQ(set().elementwise.embedding[bags.nibbles()](&bags.args), -1) << bags.describe();
    ASSERT_EQ(bags.difference(), "") << bags.describe();
  }
}

TEST_P(EmbeddingTest, KernelsWriteOnlyTheirBags) {
  Random random(2);
  for (const bool nibbles : {false, true}) {
    Bags bags(random, {20, 33, 9, 10, nibbles}, Side::kEnd);
    bags.reference();
    EmbeddingArgs part = bags.args;
    const std::vector<float> before(part.out, part.out + 9 * 33);
    part.bag_begin = 3;
    part.bag_end = 5;
    ASSERT_EQ(set().elementwise.embedding[nibbles](&part), -1);
    EXPECT_EQ(first_difference(part.out, before.data(), 3 * 33 * 4), "");
    EXPECT_EQ(first_difference(part.out + 5 * 33, before.data() + 5 * 33, 4 * 33 * 4), "");
    part.bag_begin = 0;
    ASSERT_EQ(set().elementwise.embedding[nibbles](&part), -1);
    part.bag_begin = 5;
    part.bag_end = 9;
    ASSERT_EQ(set().elementwise.embedding[nibbles](&part), -1);
    EXPECT_EQ(bags.difference(), "");
  }
}

// A bad index is reported before its row is read, wherever it lies, the first of several.
TEST_P(EmbeddingTest, IndicesOutsideOfTheTable) {
  Random random(3);
  for (int round = 0; round < 100; ++round) {
    Bags bags(random, {17, 24, 6, 12, random.chance(2)}, Side::kBegin);
    const RunningCase running(&bags);
    if (bags.args.count == 0) continue;
    const int64_t at = random.integer(0, static_cast<int32_t>(bags.args.count) - 1);
    const int64_t bad = random.pick(std::vector<int32_t>{17, -1, -17, 1 << 30, INT32_MIN});
    bags.set_index(at, bad);
    ASSERT_EQ(bags.reference(), at);
    ASSERT_EQ(set().elementwise.embedding[bags.nibbles()](&bags.args), at) << bags.describe();
    const std::string wanted =
        "index " + std::to_string(bad) + " at position " + std::to_string(at);
    try {
      embedding_bags(bags.args, bags.nibbles());
      FAIL() << "no error for " << bad;
    } catch (const std::out_of_range& error) {
      EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("17 rows"), std::string::npos) << error.what();
    }
  }
}

TEST_P(EmbeddingTest, DriverComputesEveryBag) {
  Random random(4);
  for (int round = 0; round < 60; ++round) {
    Bags bags(random,
              {30, random.pick(std::vector<int32_t>{5, 64, 128}), random.integer(1, 60), 30,
               random.chance(2)},
              Side::kEnd);
    const RunningCase running(&bags);
    bags.reference();
    embedding_bags(bags.args, bags.nibbles());
    ASSERT_EQ(bags.difference(), "") << bags.describe();
  }
}

TEST_P(EmbeddingTest, OffsetsAreChecked) {
  const uint8_t table[4] = {1, 2, 3, 4};
  const float qparams[4] = {1, 0, 1, 0};
  const int64_t indices[4] = {0, 1, 1, 0};
  float out[8];
  EmbeddingArgs args{};
  args.table = table;
  args.row_bytes = args.columns = 2;
  args.qparams = qparams;
  args.table_rows = 2;
  args.indices = indices;
  args.count = 4;
  args.is_64_bit = true;
  args.padding = -1;
  args.out = out;
  for (const std::vector<int64_t>& bad :
       {std::vector<int64_t>{1, 2}, {0, 3, 2}, {0, 5}, {0, -1}, {-1}}) {
    args.offsets = bad.data();
    args.offset_count = args.bag_end = static_cast<int64_t>(bad.size());
    EXPECT_THROW(embedding_bags(args, false), std::invalid_argument);
  }
  const int64_t good[3] = {0, 0, 4};
  args.offsets = good;
  args.offset_count = args.bag_end = 3;
  embedding_bags(args, false);
  const float wanted[6] = {0, 0, 8, 12, 0, 0};
  EXPECT_EQ(first_difference(out, wanted, sizeof(wanted)), "");
}

// Sums of thousands of rows stay as near to the exact sum as float allows: the offsets do not pile
// up apart from the products that they balance.
TEST_P(EmbeddingTest, LongBagsKeepTheirDigits) {
  constexpr int64_t kRows = 4096;
  Random random(5);
  std::vector<uint8_t> table(kRows * 16);
  std::vector<float> qparams;
  std::vector<int32_t> indices;
  for (uint8_t& q : table) q = static_cast<uint8_t>(random.integer(0, 255));
  for (int32_t i = 0; i < kRows; ++i) {
    qparams.insert(qparams.end(), {1.0f / 127.5f, -1.0f});
    indices.push_back(i);
  }
  float out[16];
  EmbeddingArgs args{};
  args.table = table.data();
  args.row_bytes = args.columns = 16;
  args.qparams = qparams.data();
  args.table_rows = args.count = args.bag_length = kRows;
  args.indices = indices.data();
  args.padding = -1;
  args.bag_end = 1;
  args.out = out;
  embedding_bags(args, false);
  for (int64_t c = 0; c < 16; ++c) {
    double exact = 0;
    for (int64_t i = 0; i < kRows; ++i) {
      exact += table[i * 16 + c] * static_cast<double>(qparams[0]) - 1.0;
    }
    EXPECT_NEAR(out[c], exact, 2e-4) << "column " << c;
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(EmbeddingTest);

}  // namespace
}  // namespace octavo::testing
