// The walk through the bags of an embedding table, and its rows in plain C++.
//
// What an ISA brings is a class of rows: copy() writes one row, and reduce<kind>() adds up a part
// of a bag, whose rows it finds by for_rows() while it goes. Finding them is scalar work, which
// takes no time beside the arithmetic of the row before, and would where all of a bag's came first.
#pragma once

#include <cmath>

#include "abi/fused.h"
#include "abi/kernel_abi.h"

namespace octavo {
namespace {

// What becomes of a bag's rows. kSum: they have weight 1, and none is padding.
enum class BagKind : uint8_t { kSum, kWeightedSum, kMax };

// What is left of a bag, and where its columns go.
struct BagPart {
  int64_t begin, end;
  int64_t groups;  // how many to take at most
  float weight;    // of rows that have none of their own
  bool fresh;      // nothing is in `out` yet
  float* out;
};

// Indices, and what belongs to them.
class EmbeddingReader {
 public:
  explicit EmbeddingReader(const EmbeddingArgs& args)
      : a(args), ahead(rows_ahead(args)), last_ahead(ahead ? args.count - ahead : 0) {}

  int64_t index(int64_t i) const { return integer(a.indices, i); }
  // Where bag b begins.
  int64_t bound(int64_t b) const {
    if (!a.offsets) return b * a.bag_length;
    return b < a.offset_count ? integer(a.offsets, b) : a.count;
  }
  bool in_table(int64_t index) const {
    return static_cast<uint64_t>(index) < static_cast<uint64_t>(a.table_rows);
  }
  const uint8_t* row(int64_t index) const { return a.table + index * a.row_bytes; }
  const float* qparams(int64_t index) const { return a.qparams + index * 2; }
  float weight(int64_t i, float otherwise) const { return a.weights ? a.weights[i] : otherwise; }

  // Prefetches so many bytes of the row of an index, from `begin` on. Any index will do: nothing is
  // read. Inlined always, since gcc takes a function that does nothing but prefetch for one without
  // effect, and drops its calls.
  inline __attribute__((always_inline)) void prefetch(int64_t index, ptrdiff_t begin,
                                                      ptrdiff_t bytes) const {
    const auto at = static_cast<uintptr_t>(index);
    const uintptr_t row = reinterpret_cast<uintptr_t>(a.table) +
                          at * static_cast<uintptr_t>(a.row_bytes) + static_cast<uintptr_t>(begin);
    const uintptr_t size = static_cast<uintptr_t>(bytes);
    if (begin == 0) {
      const uintptr_t qparams = reinterpret_cast<uintptr_t>(a.qparams) + at * 8;
      __builtin_prefetch(reinterpret_cast<const void*>(qparams));
    }
    for (uintptr_t line = 0; line < size; line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + line));
    }
    if (size % 64) __builtin_prefetch(reinterpret_cast<const void*>(row + size - 1));
  }

  const EmbeddingArgs a;
  // Positions before last_ahead prefetch the row of the index `ahead` behind them.
  const int64_t ahead, last_ahead;

 private:
  int64_t integer(const void* from, int64_t i) const {
    return a.is_64_bit ? static_cast<const int64_t*>(from)[i]
                       : static_cast<const int32_t*>(from)[i];
  }

  // Enough rows to hide the latency of memory, as long as they fit into the L1 cache; 0 for a table
  // that the L2 cache holds.
  static int64_t rows_ahead(const EmbeddingArgs& args) {
    constexpr int64_t kAhead = 16, kBytes = 8192, kCached = 1 << 18;
    if (args.table_rows * (args.row_bytes + 8) <= kCached) return 0;
    const int64_t rows = kBytes / (args.row_bytes + 64);
    return rows > kAhead ? kAhead : rows < 1 ? 1 : rows;
  }
};

// Goes through a part of a bag: row(address, scale, offset) for each row, done(sum of the offsets)
// after each group. Returns where it stopped: at the end, after so many groups, or at an index that
// is not in the table, which sets `bad`.
template <BagKind kKind, typename Row, typename Done>
static inline __attribute__((always_inline)) int64_t for_rows(const EmbeddingReader& by_reference,
                                                              const BagPart& part, ptrdiff_t at,
                                                              ptrdiff_t bytes, bool& bad,
                                                              const Row& row, const Done& done) {
  const EmbeddingReader reader = by_reference;  // in registers
  const int64_t end = part.end, last_ahead = reader.last_ahead;
  int64_t i = part.begin;
  for (int64_t groups = part.groups; groups > 0 && i < end; --groups) {
    float offsets = 0.0f;
    int64_t group_end = end - i < kEmbeddingGroup ? end : i + kEmbeddingGroup;
    for (; i < group_end; ++i) {
      const int64_t index = reader.index(i);
      if (i < last_ahead) reader.prefetch(reader.index(i + reader.ahead), at, bytes);
      if (!reader.in_table(index)) {
        bad = true;
        return i;
      }
      if (kKind != BagKind::kSum && index == reader.a.padding) {
        group_end += group_end < end;
        continue;
      }
      const float* qparams = reader.qparams(index);
      float scale = qparams[0], offset = qparams[1];
      if (kKind == BagKind::kWeightedSum) {
        const float weight = reader.weight(i, part.weight);
        scale = weight * scale;
        offset = weight * offset;
      }
      row(reader.row(index), scale, offset);
      offsets = offsets + offset;
    }
    done(offsets);
  }
  return i;
}

template <bool kNibbles>
struct PortableRows {
  static float value(const uint8_t* row, int64_t c) {
    if (kNibbles) return static_cast<float>(row[c >> 1] >> (c & 1) * 4 & 15);
    return static_cast<float>(row[c]);
  }

  static void copy(const uint8_t* row, const float* qparams, int64_t columns, float* out) {
    for (int64_t c = 0; c < columns; ++c) out[c] = value(row, c) * qparams[0] + qparams[1];
  }

  static constexpr int64_t kColumns = 0;  // as many are kept in registers for a whole bag

  template <BagKind kKind>
  static int64_t reduce(const EmbeddingReader& reader, const BagPart& part, bool& bad) {
    const int64_t columns = reader.a.columns;
    float* const out = part.out;
    for (int64_t c = 0; part.fresh && c < columns; ++c) {
      out[c] = kKind == BagKind::kMax ? -INFINITY : 0.0f;
    }
    return for_rows<kKind>(
        reader, part, 0, reader.a.row_bytes, bad,
        [&](const uint8_t* row, float scale, float offset) {
          for (int64_t c = 0; c < columns; ++c) {
            const float q = value(row, c);
            if (kKind == BagKind::kMax) {
              const float v = q * scale + offset;
              out[c] = out[c] > v ? out[c] : v;
            } else {
              out[c] = fused_multiply_add(q, scale, out[c]);
            }
          }
        },
        [&](float offsets) {
          for (int64_t c = 0; kKind != BagKind::kMax && c < columns; ++c) out[c] += offsets;
        });
  }
};

template <typename Rows>
class EmbeddingWalk {
 public:
  explicit EmbeddingWalk(const EmbeddingArgs& args) : reader_(args) {}

  int64_t run() {
    if (!a_.offsets && a_.bag_length == 1 && !a_.weights && a_.padding < 0) return run_single();
    if (a_.mode == EmbeddingMode::kMax) return run_bags<BagKind::kMax>();
    const bool plain = a_.mode == EmbeddingMode::kSum && !a_.weights && a_.padding < 0;
    return plain ? run_bags<BagKind::kSum>() : run_bags<BagKind::kWeightedSum>();
  }

 private:
  // Bags of one row, which each mode gives as it is.
  int64_t run_single() {
    const EmbeddingReader reader = reader_;  // in registers
    float* out = a_.out + a_.bag_begin * a_.columns;
    for (int64_t i = a_.bag_begin; i < a_.bag_end; ++i, out += reader.a.columns) {
      const int64_t index = reader.index(i);
      if (i < reader.last_ahead) {
        reader.prefetch(reader.index(i + reader.ahead), 0, reader.a.row_bytes);
      }
      if (!reader.in_table(index)) return i;
      Rows::copy(reader.row(index), reader.qparams(index), reader.a.columns, out);
    }
    return -1;
  }

  template <BagKind kKind>
  int64_t run_bags() {
    // So that rows are still in the L1 cache when the next of their columns are read.
    constexpr int64_t kGroups = 8;
    const bool at_once = a_.columns <= Rows::kColumns;
    for (int64_t b = a_.bag_begin; b < a_.bag_end; ++b) {
      float* const out = a_.out + b * a_.columns;
      const int64_t begin = reader_.bound(b), end = reader_.bound(b + 1);
      const int64_t rows = kKind == BagKind::kSum ? end - begin : rows_in(begin, end);
      const float weight = a_.mode == EmbeddingMode::kMean ? 1.0f / static_cast<float>(rows) : 1.0f;
      BagPart part{begin, end, at_once ? end - begin : kGroups, weight, true, out};
      bool bad = false;
      do {
        part.begin = Rows::template reduce<kKind>(reader_, part, bad);
        if (bad) return part.begin;
        part.fresh = false;
      } while (part.begin < end);
      for (int64_t c = 0; kKind == BagKind::kMax && rows == 0 && c < a_.columns; ++c) out[c] = 0.0f;
    }
    return -1;
  }

  // Without padding, where its number matters.
  int64_t rows_in(int64_t begin, int64_t end) const {
    int64_t count = end - begin;
    for (int64_t i = begin; a_.padding >= 0 && i < end; ++i)
      count -= reader_.index(i) == a_.padding;
    return count;
  }

  const EmbeddingReader reader_;
  const EmbeddingArgs& a_ = reader_.a;
};

template <typename Rows>
int64_t embedding_bags(const EmbeddingArgs* args) {
  return EmbeddingWalk<Rows>(*args).run();
}

}  // namespace
}  // namespace octavo
