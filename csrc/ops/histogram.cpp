#include "ops/histogram.h"

#include <algorithm>

#include "parallel/parallel.h"
#include "util/aligned_buffer.h"

namespace octavo {
namespace {

constexpr int64_t kLeastPart = 1 << 15;  // elements of a task, or more
// Tables of a task. Neighbouring values go to different ones: many may lie in one bin, such as the
// zeros that a ReLU leaves, and a count can be added to only once it was stored.
constexpr int64_t kTables = 2;
constexpr int64_t kMostScratch = 1 << 19;  // bytes of the tables of all tasks, but for one
constexpr int64_t kBlock = 256;

struct Bins {
  float low, width, count;

  // The bins of a block. Its size is a constant so that the compiler takes vectors.
  void find(const float* x, int32_t* bin) const {
    const float last = count - 1.0f;
    for (int64_t i = 0; i < kBlock; ++i) {
      const float at = (x[i] - low) * count / width;
      const float above = at > 0.0f ? at : 0.0f;
      bin[i] = static_cast<int32_t>(above < last ? above : last);
    }
  }
};

void count_part(const Bins& bins, const float* x, int64_t size, int64_t* even, int64_t* odd) {
  alignas(64) int32_t bin[kBlock];
  alignas(64) float rest[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = std::min(kBlock, size - begin);
    const float* block = x + begin;
    if (count < kBlock) {
      std::fill(std::copy_n(block, count, rest), rest + kBlock, 0.0f);
      block = rest;
    }
    bins.find(block, bin);
    for (int64_t i = 0; i + 1 < count; i += 2) {
      ++even[bin[i]];
      ++odd[bin[i + 1]];
    }
    if (count % 2) ++even[bin[count - 1]];
  }
}

}  // namespace

void count_bins(const float* x, int64_t size, float low, float high, int32_t bins, float* counts) {
  const Bins found{low, high - low, static_cast<float>(bins)};
  const int64_t table_bytes = int64_t{sizeof(int64_t)} * kTables * bins;
  const int64_t most = std::clamp<int64_t>(kMostScratch / table_bytes, 1, max_threads());
  const int64_t parts = std::clamp<int64_t>(size / kLeastPart, 1, most);
  const int64_t part_size = ceil_div(size, parts);
  auto* const tables = reinterpret_cast<int64_t*>(call_scratch(parts * table_bytes));
  parallel_for(parts, size, [&](int64_t part) {
    const int64_t begin = std::min(size, part * part_size);
    int64_t* const even = tables + part * kTables * bins;
    std::fill_n(even, kTables * bins, 0);
    count_part(found, x + begin, std::min(part_size, size - begin), even, even + bins);
  });
  for (int32_t b = 0; b < bins; ++b) {
    int64_t sum = 0;
    for (int64_t table = 0; table < parts * kTables; ++table) sum += tables[table * bins + b];
    counts[b] = static_cast<float>(sum);
  }
}

bool move_counts(const float* counts, int32_t bins, const float* middles, int32_t pieces,
                 const float* borders, float* out) {
  if (!std::is_sorted(borders, borders + bins + 1)) return false;
  std::fill_n(out, bins, 0.0f);
  int32_t b = 0;
  for (int32_t from = 0; from < bins; ++from) {
    const float piece = counts[from] / static_cast<float>(pieces);
    for (int32_t i = 0; i < pieces; ++i) {
      const float middle = *middles++;  // they rise, but for rounding: the next bin is near
      while (b + 1 < bins && middle >= borders[b + 1]) ++b;
      while (b > 0 && middle < borders[b]) --b;
      out[b] += piece;
    }
  }
  return true;
}

}  // namespace octavo
