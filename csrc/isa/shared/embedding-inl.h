// The walk through the bags of an embedding table, and its rows in plain C++.
//
// What an ISA brings is a class of rows: accumulate<n, max>() adds n rows, and then `offsets`, to a
// bag's columns, or takes the maximum; `fresh` says that nothing is in the output yet. A bag's sums
// lie in the output, in the L1 cache, between groups of rows, so that tables may have any number of
// columns, while each group is read in one pass with as many streams as it has rows.
#pragma once

#include <cmath>

#include "abi/kernel_abi.h"

namespace octavo {
namespace {

// Rows of a group, and the first of them that a piece is about.
struct EmbeddingGroup {
  const uint8_t* row[kEmbeddingGroup];
  float qparams[kEmbeddingGroup][2];  // scale and offset, times the weight
  float offsets = 0.0f;               // their sum
  int count = 0;
};

// Some rows of a group. Passed by value and small, to travel in registers.
struct EmbeddingPiece {
  const uint8_t* const* row;
  const float (*qparams)[2];
};

template <bool kNibbles>
struct PortableRows {
  static float value(const uint8_t* row, int64_t c) {
    if (kNibbles) return static_cast<float>(row[c >> 1] >> (c & 1) * 4 & 15);
    return static_cast<float>(row[c]);
  }

  template <int kRows, bool kMax>
  static __attribute__((noinline)) void accumulate(EmbeddingPiece piece, float offsets, bool fresh,
                                                   int64_t columns, float* out) {
    for (int64_t c = 0; c < columns; ++c) {
      float x = fresh ? (kMax ? -INFINITY : 0.0f) : out[c];
      for (int r = 0; r < kRows; ++r) {
        const float product = value(piece.row[r], c) * piece.qparams[r][0];
        if (kMax) {
          const float v = product + piece.qparams[r][1];
          x = x > v ? x : v;
        } else {
          x = x + product;
        }
      }
      out[c] = kMax ? x : x + offsets;
    }
  }
};

// How many rows ahead to prefetch: enough to hide the latency of memory, as long as they fit into
// the L1 cache; 0 for a table that the L2 cache holds.
static inline int64_t embedding_rows_ahead(const EmbeddingArgs& args) {
  constexpr int64_t kAhead = 16, kBytes = 8192, kCached = 1 << 18;
  if (args.table_rows * (args.row_bytes + 8) <= kCached) return 0;
  const int64_t rows = kBytes / (args.row_bytes + 64);
  return rows > kAhead ? kAhead : rows < 1 ? 1 : rows;
}

template <typename Rows, typename Integer>
class EmbeddingWalk {
 public:
  explicit EmbeddingWalk(const EmbeddingArgs& args)
      : a_(args),
        indices_(static_cast<const Integer*>(args.indices)),
        ahead_(embedding_rows_ahead(args)),
        last_ahead_(ahead_ ? args.count - ahead_ : 0) {}

  int64_t run() {
    const bool single = !a_.offsets && a_.bag_length == 1 && !a_.weights && a_.padding < 0;
    return single ? run_single() : run_bags();
  }

 private:
  // Bags of one row, which each mode gives as it is.
  int64_t run_single() {
    for (int64_t i = a_.bag_begin; i < a_.bag_end; ++i) {
      const int64_t index = indices_[i];
      if (i < last_ahead_) prefetch(indices_[i + ahead_]);
      if (!in_table(index)) return i;
      const uint8_t* row = a_.table + index * a_.row_bytes;
      const float* qparams = a_.qparams + index * 2;
      Rows::template accumulate<1, false>({&row, reinterpret_cast<const float(*)[2]>(qparams)},
                                          qparams[1], true, a_.columns, a_.out + i * a_.columns);
    }
    return -1;
  }

  int64_t run_bags() {
    for (int64_t b = a_.bag_begin; b < a_.bag_end; ++b) {
      out_ = a_.out + b * a_.columns;
      fresh_ = true;
      const int64_t begin = bound(b), end = bound(b + 1);
      const float weight = a_.mode == EmbeddingMode::kMean ? 1.0f / rows_in(begin, end) : 1.0f;
      const int64_t bad = bag(begin, end, weight);
      if (bad >= 0) return bad;
      if (fresh_) {
        for (int64_t c = 0; c < a_.columns; ++c) out_[c] = 0.0f;
      }
    }
    return -1;
  }

  int64_t bound(int64_t bag) const {
    if (!a_.offsets) return bag * a_.bag_length;
    return bag < a_.offset_count ? static_cast<const Integer*>(a_.offsets)[bag] : a_.count;
  }

  float rows_in(int64_t begin, int64_t end) const {
    int64_t count = end - begin;
    for (int64_t i = begin; a_.padding >= 0 && i < end; ++i) count -= indices_[i] == a_.padding;
    return static_cast<float>(count);
  }

  bool in_table(int64_t index) const {
    return static_cast<uint64_t>(index) < static_cast<uint64_t>(a_.table_rows);
  }

  // Returns the position of an index that is not in the table, or -1.
  int64_t bag(int64_t begin, int64_t end, float weight) {
    int64_t i = begin;
    for (; a_.padding < 0 && end - i >= kEmbeddingGroup; i += kEmbeddingGroup) {
      if (!take_group(i, weight)) break;
      flush();
    }
    for (; i < end; ++i) {
      const int64_t index = indices_[i];
      if (i < last_ahead_) prefetch(indices_[i + ahead_]);
      if (!in_table(index)) return i;
      if (index == a_.padding) continue;
      take(group_.count++, index, a_.weights ? a_.weights[i] : weight);
      if (group_.count == kEmbeddingGroup) flush();
    }
    if (group_.count > 0) flush();
    return -1;
  }

  // A whole group at once, without branches between its rows; false where an index is bad.
  bool take_group(int64_t i, float weight) {
    int64_t index[kEmbeddingGroup];
    bool good = true;
    for (int r = 0; r < kEmbeddingGroup; ++r) {
      index[r] = indices_[i + r];
      good &= in_table(index[r]);
    }
    if (!good) return false;
    if (i + kEmbeddingGroup <= last_ahead_) {
      for (int r = 0; r < kEmbeddingGroup; ++r) prefetch(indices_[i + ahead_ + r]);
    }
    for (int r = 0; r < kEmbeddingGroup; ++r) {
      take(r, index[r], a_.weights ? a_.weights[i + r] : weight);
    }
    group_.count = kEmbeddingGroup;
    return true;
  }

  // Any index will do: nothing is read. Inlined always, since gcc takes a function that does
  // nothing but prefetch for one without effect, and drops its calls.
  inline __attribute__((always_inline)) void prefetch(int64_t index) const {
    const uintptr_t row = reinterpret_cast<uintptr_t>(a_.table) +
                          static_cast<uintptr_t>(index) * static_cast<uintptr_t>(a_.row_bytes);
    const uintptr_t qparams =
        reinterpret_cast<uintptr_t>(a_.qparams) + static_cast<uintptr_t>(index) * 8;
    __builtin_prefetch(reinterpret_cast<const void*>(qparams));
    for (ptrdiff_t at = 0; at < a_.row_bytes; at += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<uintptr_t>(at)));
    }
    if (a_.row_bytes % 64 == 0) return;
    __builtin_prefetch(
        reinterpret_cast<const void*>(row + static_cast<uintptr_t>(a_.row_bytes) - 1));
  }

  void take(int n, int64_t index, float weight) {
    const float* qparams = a_.qparams + index * 2;
    group_.row[n] = a_.table + index * a_.row_bytes;
    const float scale = weight * qparams[0], offset = weight * qparams[1];
    group_.qparams[n][0] = scale;
    group_.qparams[n][1] = offset;
    group_.offsets = group_.offsets + offset;
  }

  void flush() {
    if (a_.mode == EmbeddingMode::kMax) {
      flush<true>();
    } else {
      flush<false>();
    }
  }

  // A group in pieces of 8, 4, 2 and 1 rows.
  template <bool kMax>
  void flush() {
    int first = 0;
    if (group_.count & 8) first = piece<8, kMax>(first);
    if (group_.count & 4) first = piece<4, kMax>(first);
    if (group_.count & 2) first = piece<2, kMax>(first);
    if (group_.count & 1) first = piece<1, kMax>(first);
    group_.count = 0;
    group_.offsets = 0.0f;
  }

  template <int kRows, bool kMax>
  int piece(int first) {
    const bool last = first + kRows == group_.count;
    Rows::template accumulate<kRows, kMax>({group_.row + first, group_.qparams + first},
                                           last ? group_.offsets : 0.0f, fresh_, a_.columns, out_);
    fresh_ = false;
    return first + kRows;
  }

  const EmbeddingArgs a_;
  const Integer* const indices_;
  const int64_t ahead_, last_ahead_;  // positions before last_ahead_ prefetch
  EmbeddingGroup group_;
  float* out_ = nullptr;
  bool fresh_ = true;
};

template <typename Rows>
int64_t embedding_bags(const EmbeddingArgs* args) {
  if (args->is_64_bit) return EmbeddingWalk<Rows, int64_t>(*args).run();
  return EmbeddingWalk<Rows, int32_t>(*args).run();
}

}  // namespace
}  // namespace octavo
