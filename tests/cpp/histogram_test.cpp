// Counting in bins and moving counts, against plain loops.
#include "ops/histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "guard_buffer.h"
#include "support.h"

namespace octavo::testing {
namespace {

std::vector<float> counted(const std::vector<float>& x, float low, float high, int32_t bins) {
  std::vector<float> counts(bins);
  for (const float v : x) {
    const float at = (v - low) * static_cast<float>(bins) / (high - low);
    const double bin = std::isnan(at) ? 0.0 : std::clamp(std::floor(double{at}), 0.0, bins - 1.0);
    ++counts[static_cast<size_t>(bin)];
  }
  return counts;
}

TEST(HistogramTest, Counts) {
  Random random(1);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  GuardBuffer input(size_t{1} << 20), output(size_t{1} << 19);
  for (const int32_t bins : {1, 2, 5, 2048, kMostBins}) {
    for (const int64_t size : {1, 2, 255, 256, 257, 1000, 200003}) {
      std::vector<float> x(size);
      for (float& v : x) {
        v = random.chance(4) ? 0.0f : random.real(-3.0f, 5.0f);
        if (random.chance(50)) v = random.chance(2) ? std::nanf("") : kInfinity;
        if (random.chance(50)) v = random.chance(2) ? -kInfinity : 5.0f;
      }
      float* data = input.place_array<float>(size, Side::kEnd);
      std::copy(x.begin(), x.end(), data);
      float* counts = output.place_array<float>(bins, Side::kEnd);
      count_bins(data, size, -3.0f, 5.0f, bins, counts);
      const std::vector<float> expected = counted(x, -3.0f, 5.0f, bins);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), counts))
          << bins << " bins, " << size << " values";
      ASSERT_TRUE(output.margin_intact());
    }
  }
}

// Each piece goes to the last bin that begins at or below its middle.
std::vector<float> moved(const std::vector<float>& counts, const std::vector<float>& middles,
                         const std::vector<float>& borders) {
  std::vector<float> out(counts.size());
  const size_t pieces = middles.size() / counts.size();
  for (size_t i = 0; i < middles.size(); ++i) {
    const auto above = std::upper_bound(borders.begin(), borders.end(), middles[i]);
    const int64_t b = std::clamp<int64_t>(above - borders.begin() - 1, 0, counts.size() - 1);
    out[b] += counts[i / pieces] / static_cast<float>(pieces);
  }
  return out;
}

TEST(HistogramTest, Moves) {
  Random random(2);
  for (const int32_t bins : {1, 2, 7, 300}) {
    for (const int32_t pieces : {1, 3, 16}) {
      for (const bool sorted : {true, false}) {
        std::vector<float> counts(bins), middles(bins * pieces), borders(bins + 1), out(bins);
        for (float& v : counts) v = random.real(0.0f, 100.0f);
        for (float& v : middles) v = random.real(-2.0f, 2.0f);
        for (float& v : borders) v = random.real(-2.0f, 2.0f);
        borders[0] = borders[bins / 2];  // a bin without width, where there are several
        std::sort(borders.begin(), borders.end());
        if (sorted) std::sort(middles.begin(), middles.end());
        ASSERT_TRUE(
            move_counts(counts.data(), bins, middles.data(), pieces, borders.data(), out.data()));
        ASSERT_EQ(out, moved(counts, middles, borders)) << bins << " bins, " << pieces;
        borders[bins] = borders[0] - 1.0f;
        const std::vector<float> before = out;
        ASSERT_FALSE(
            move_counts(counts.data(), bins, middles.data(), pieces, borders.data(), out.data()));
        ASSERT_EQ(out, before);
      }
    }
  }
}

}  // namespace
}  // namespace octavo::testing
