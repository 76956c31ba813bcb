// Packed weights: the layout that kernels rely on, and the way back.
#include <stdexcept>

#include "pack/packed_weight.h"
#include "pack/packed_window.h"
#include "support.h"

namespace octavo::testing {
namespace {

// Formats of all built ISAs, runnable or not, and odd ones.
std::vector<PackFormat> formats() {
  std::vector<PackFormat> all = {{64, 4, 16}, {16, 4, 16}, {16, 2, 8}, {5, 2, 5},
                                 {7, 3, 7},   {8, 8, 4},   {1, 1, 1}};
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      bool known = false;
      for (const PackFormat& f : all) known |= cpu::same_format(f, isa.table->gemm[i].format);
      if (!known) all.push_back(isa.table->gemm[i].format);
    }
  }
  return all;
}

const std::vector<WeightShape>& shapes() {
  static const std::vector<WeightShape> all = {
      {1, 1, 1, 1},  {1, 64, 1, 64}, {1, 65, 1, 63}, {1, 130, 9, 5},   {3, 7, 4, 10},
      {2, 80, 1, 6}, {5, 1, 25, 1},  {1, 5, 1, 300}, {1, 77, 1, 1203}, {2, 9, 3, 520}};
  return all;
}

std::vector<int8_t> random_weights(const WeightShape& shape) {
  Random random(shape.elements());
  std::vector<int8_t> w(shape.elements());
  random.fill(w.data(), w.size());
  return w;
}

TEST(PackTest, UnpackGivesTheWeightsBack) {
  for (const PackFormat& format : formats()) {
    for (const WeightShape& shape : shapes()) {
      const std::vector<int8_t> w = random_weights(shape);
      std::vector<int8_t> back(w.size());
      PackedWeight::pack(w.data(), shape, format)->unpack(back.data());
      EXPECT_EQ(back, w) << "nr=" << format.nr << " kr=" << int{format.kr};
    }
  }
}

TEST(PackTest, SumsColumns) {
  for (const PackFormat& format : formats()) {
    for (const WeightShape& shape : shapes()) {
      std::vector<int8_t> w = random_weights(shape);
      const int64_t columns = int64_t{shape.groups} * shape.n, depth = shape.depth();
      // The largest sums there are, of both signs.
      std::fill_n(w.begin(), depth, int8_t{-128});
      if (columns > 1) std::fill_n(w.begin() + depth, depth, int8_t{127});
      std::vector<int32_t> expected(columns, 0), sums(columns, 12345);
      for (int64_t i = 0; i < columns * depth; ++i) expected[i / depth] += w[i];
      PackedWeight::pack(w.data(), shape, format, sums.data());
      EXPECT_EQ(sums, expected) << "nr=" << format.nr << " kr=" << int{format.kr};
    }
  }
}

// Walks the layout as its comment words it and finds every weight, and zeros in the padding.
TEST(PackTest, LaysPanelsOutAsDocumented) {
  for (const PackFormat& f : formats()) {
    for (const WeightShape& s : shapes()) {
      const std::vector<int8_t> w = random_weights(s);
      const auto packed = PackedWeight::pack(w.data(), s, f);
      const int32_t k_groups = (s.k + f.kr - 1) / f.kr;
      ASSERT_EQ(packed->padded_k(), k_groups * f.kr);
      ASSERT_EQ(packed->panels(), (s.n + f.nr - 1) / f.nr);
      int64_t total_columns = 0;
      for (int32_t g = 0; g < s.groups; ++g) {
        ASSERT_EQ(reinterpret_cast<uintptr_t>(packed->panel(g, 0)) % 64, 0u);
        for (int32_t p = 0; p < packed->panels(); ++p) {
          const int32_t columns = std::min<int32_t>(f.nr, s.n - p * f.nr);
          const bool last = p + 1 == packed->panels();
          const int32_t width = last ? (columns + f.nr_tail - 1) / f.nr_tail * f.nr_tail : f.nr;
          ASSERT_EQ(packed->panel_columns(p), columns);
          ASSERT_EQ(packed->panel_width(p), width);
          ASSERT_EQ(packed->panel_stride(p), width * f.kr);
          total_columns += width;
          const int8_t* b = packed->panel(g, p);
          for (int32_t t = 0; t < s.taps; ++t) {
            for (int32_t k0 = 0; k0 < k_groups; ++k0) {
              for (int32_t c = 0; c < width; ++c) {
                for (int32_t j = 0; j < f.kr; ++j, ++b) {
                  const int32_t k = k0 * f.kr + j, n = p * f.nr + c;
                  const bool valid = k < s.k && n < s.n;
                  const int64_t plain = ((int64_t{g} * s.n + n) * s.taps + t) * s.k + k;
                  ASSERT_EQ(*b, valid ? w[plain] : 0)
                      << "group " << g << " panel " << p << " tap " << t;
                }
              }
            }
          }
        }
      }
      const int8_t* last_panel = packed->panel(s.groups - 1, packed->panels() - 1);
      const int64_t last_bytes =
          packed->panel_stride(packed->panels() - 1) * k_groups * static_cast<int64_t>(s.taps);
      const int8_t* end = packed->panel(0, 0) + packed->bytes();
      EXPECT_GE(end - (last_panel + last_bytes), PackedWeight::kReadAhead);
      for (const int8_t* b = last_panel + last_bytes; b < end; ++b)
        ASSERT_EQ(*b, 0) << "read-ahead is zeros";
      EXPECT_LT(packed->bytes(), total_columns * s.taps * k_groups * f.kr + 64 * s.groups +
                                     PackedWeight::kReadAhead + 1);
    }
  }
}

TEST(PackTest, TailPanelsAreNoWiderThanNeeded) {
  const PackFormat f{64, 4, 16};
  const std::vector<int8_t> w(70 * 4);
  const auto packed = PackedWeight::pack(w.data(), {1, 70, 1, 4}, f);
  EXPECT_EQ(packed->panel_width(0), 64);
  EXPECT_EQ(packed->panel_width(1), 16);
}

TEST(PackTest, DepthwiseBlocksOfSixteenChannels) {
  for (const int32_t channels : {1, 15, 16, 17, 64, 70}) {
    for (const int32_t taps : {1, 9, 25}) {
      Random random(channels * 100 + taps);
      std::vector<int8_t> w(size_t(channels) * taps), back(w.size());
      random.fill(w.data(), w.size());
      const auto packed = PackedWindow::pack(w.data(), {channels, 1, taps, 1});
      EXPECT_EQ(packed->kind(), WindowKind::kDepthwise);
      EXPECT_EQ(packed->units(), channels);
      packed->unpack(back.data());
      EXPECT_EQ(back, w);
      ASSERT_EQ(packed->bytes(), round_up(channels, kWindowSplit) * taps);
      const auto* data = static_cast<const int8_t*>(packed->data());
      for (int32_t i = 0; i < packed->bytes(); ++i) {
        const int32_t c = i / (taps * 16) * 16 + i % 16, t = i / 16 % taps;
        ASSERT_EQ(data[i], c < channels ? w[size_t(c) * taps + t] : 0);
      }
    }
  }
}

// Multiplies as a kernel does: bytes that the record picks by weights that it holds.
TEST(PackTest, GroupedBlocksPickTheirInputs) {
  for (const auto& [n, k] : std::vector<std::pair<int32_t, int32_t>>{
           {4, 4}, {8, 8}, {16, 16}, {5, 3}, {2, 1}, {1, 9}, {13, 13}, {3, 7}}) {
    for (const int32_t groups : {2, 3, 7, 16}) {
      constexpr int32_t taps = 3;
      Random random(n * 100 + k);
      const WeightShape shape{groups, n, taps, k};
      std::vector<int8_t> w(shape.elements()), back(w.size());
      random.fill(w.data(), w.size());
      std::vector<uint8_t> x(taps * groups * k);
      random.fill(x.data(), x.size());
      const auto packed = PackedWindow::pack(w.data(), shape);
      packed->unpack(back.data());
      ASSERT_EQ(back, w);
      int32_t channel = 0;
      for (int32_t b = 0; b < packed->units(); ++b) {
        const auto* record = static_cast<const char*>(packed->data()) +
                             b * grouped_record_bytes(taps, packed->chunks());
        const auto& block = *reinterpret_cast<const GroupedBlock*>(record);
        const auto* pick = reinterpret_cast<const uint8_t*>(record + 64);
        const auto* weights = reinterpret_cast<const int8_t*>(pick + packed->chunks() * 64);
        ASSERT_EQ(block.first, channel);
        for (int32_t lane = 0; lane < block.count; ++lane, ++channel) {
          int32_t got = 0, expected = 0;
          for (int32_t t = 0; t < taps; ++t) {
            for (int32_t i = 0; i < k; ++i) {
              expected +=
                  x[t * groups * k + channel / n * k + i] * w[(size_t(channel) * taps + t) * k + i];
            }
            for (int32_t c = 0; c < packed->chunks(); ++c) {
              if (groups * k >= 16) {
                ASSERT_LE(block.load[c] + 16, groups * k);
              }
              for (int32_t i = 0; i < 4; ++i) {
                const uint8_t from = pick[(c * 16 + lane) * 4 + i];
                if (from > 127) continue;
                ASSERT_LT(from, 16);
                got += x[t * groups * k + block.load[c] + from] *
                       weights[((t * packed->chunks() + c) * 16 + lane) * 4 + i];
              }
            }
          }
          ASSERT_EQ(got, expected) << "n " << n << " k " << k << " channel " << channel;
        }
      }
      EXPECT_EQ(channel, groups * n);
    }
  }
}

TEST(PackTest, RefusesDepthsThatInt32CannotSum) {
  EXPECT_LT(kMaxDepth * 255 * 128, int64_t{1} << 31);
  EXPECT_GE((kMaxDepth + 1) * 255 * 128, int64_t{1} << 31);
  const std::vector<int8_t> w(kMaxDepth + 9, 1);
  const int32_t depth = static_cast<int32_t>(kMaxDepth);
  EXPECT_NO_THROW(PackedWeight::pack(w.data(), {1, 1, 1, depth}, {16, 4, 16}));
  EXPECT_NO_THROW(PackedWeight::pack(w.data(), {1, 1, 9, depth / 9}, {16, 4, 16}));
  try {
    PackedWeight::pack(w.data(), {1, 1, 1, depth + 1}, {16, 4, 16});
    ADD_FAILURE() << "a depth of " << depth + 1 << " was accepted";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(depth)), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(PackedWeight::pack(w.data(), {1, 1, 9, depth / 9 + 1}, {16, 4, 16}),
               std::invalid_argument);
  EXPECT_THROW(PackedWindow::pack(w.data(), {1, 1, depth + 1, 1}), std::invalid_argument);
}

TEST(PackTest, RefusesEmptyShapes) {
  const int8_t w = 0;
  for (const WeightShape& shape :
       {WeightShape{0, 1, 1, 1}, {1, 0, 1, 1}, {1, 1, 0, 1}, {1, 1, 1, 0}, {1, -1, 1, 1}}) {
    EXPECT_THROW(PackedWeight::pack(&w, shape, {16, 4, 16}), std::invalid_argument);
  }
  EXPECT_THROW(PackedWindow::pack(&w, {0, 1, 9, 1}), std::invalid_argument);
}

}  // namespace
}  // namespace octavo::testing
