// Rows of embedding tables in vectors of any width. L is a Table{Bytes,Nibbles} vector: floats as
// in floats_*-inl.h, of which
//   row(p)          come from the kBytes bytes of a row at p
//   row_part(p, n)  come from the first n columns, 0 < n < kCount; the others are 0
// in an order of L's own, which its load() and store() know; kMost of them are kept as sums. Rows
// that are copied go through L::Copied.
#pragma once

#include <utility>

#include "abi/unroll.h"
#include "isa/shared/embedding-inl.h"

namespace octavo {
namespace {

// A bag's sums stay in registers while its rows are read, up to kMost vectors of them.
//
// Register budget, 512 bits: 8 sums, one scale (max: and offset), one vector of a row, 2 constants
// for nibbles: 13 of 32; 16 sums are no faster. 256 bits: 16 sums, scale and vector; gcc keeps
// two of the sums in memory, which takes less time than to go through the rows again.
template <class L>
struct VectorRows {
  using Vec = typename L::Vec;

  static constexpr int64_t kColumns = L::kMost * L::kCount;

  static void copy(const uint8_t* row, const float* qparams, int64_t columns, float* out) {
    using C = typename L::Copied;
    const typename C::Vec scale = C::set(qparams[0]), offset = C::set(qparams[1]);
    const auto scaled = [&](typename C::Vec q)
                            OCTAVO_INLINE { return C::add(C::mul(q, scale), offset); };
    const auto vectors = [&](auto count) OCTAVO_INLINE {
      unroll<kIndex<decltype(count)>>([&](auto v) OCTAVO_INLINE {
        C::store(out + v * C::kCount, scaled(C::row(row + v * C::kBytes)), C::kCount);
      });
      out += count * C::kCount;
      row += count * C::kBytes;
      columns -= count * C::kCount;
    };
    while (columns >= 4 * C::kCount) vectors(Index<4>());
    while (columns >= C::kCount) vectors(Index<1>());
    if (columns == 0) return;
    const int n = static_cast<int>(columns);
    C::store(out, scaled(C::row_part(row, n)), n);
  }

  template <BagKind kKind>
  static int64_t reduce(const EmbeddingReader& reader, const BagPart& part, bool& bad) {
    static constexpr ReduceTable kReduce =
        table<kKind>(std::make_integer_sequence<int, kMost + 1>());
    const int64_t columns = kNibbles ? reader.a.row_bytes * 2 : reader.a.columns;
    if (columns < L::kCount) return kReduce.of[0](reader, part, 0, bad);
    int64_t c = 0, stop = 0;
    int64_t vectors = (columns + L::kCount - 1) / L::kCount;
    for (int64_t parts = (vectors + kMost - 1) / kMost; parts > 0; --parts) {
      const int64_t count = (vectors + parts - 1) / parts;
      stop = kReduce.of[count](reader, part, c, bad);
      c += count * L::kCount;
      vectors -= count;
    }
    return stop;
  }

 private:
  static constexpr int kMost = L::kMost;
  static constexpr bool kNibbles = L::kBytes < L::kCount;

  using Reduce = int64_t (*)(const EmbeddingReader&, const BagPart&, int64_t, bool&);

  struct ReduceTable {
    Reduce of[kMost + 1];  // by the number of vectors
  };
  template <BagKind kKind, int... kVectors>
  static constexpr ReduceTable table(std::integer_sequence<int, kVectors...>) {
    return {{reduce_columns<kVectors, kKind>...}};
  }

  // The columns of kVectors vectors from c on. Where a row ends within the last one, that vector
  // begins earlier, on columns that the one before it has, too; both compute the same. kVectors = 0
  // is for rows that are shorter than a vector.
  template <int kVectors, BagKind kKind>
  static int64_t reduce_columns(const EmbeddingReader& reader, const BagPart& part, int64_t c,
                                bool& bad) {
    constexpr int kSums = kVectors ? kVectors : 1;
    constexpr bool kMax = kKind == BagKind::kMax;
    const int64_t columns = reader.a.columns;
    int64_t last = c + (kSums - 1) * L::kCount;                // of this part's vectors
    int n = kVectors ? L::kCount : static_cast<int>(columns);  // columns that it has
    if (kVectors && last > columns - L::kCount) {
      last = (kNibbles ? reader.a.row_bytes * 2 : columns) - L::kCount;
      n = static_cast<int>(columns - last);
    }
    const ptrdiff_t at = c * L::kBytes / L::kCount, last_at = last * L::kBytes / L::kCount;
    float* const out = part.out;
    const auto each = [&](const auto& body) OCTAVO_INLINE {
      unroll<kSums - 1>([&](auto v) OCTAVO_INLINE { body(v, c + v * L::kCount, L::kCount); });
      body(Index<kSums - 1>(), last, n);
    };
    Vec x[kSums];
    each([&](auto v, int64_t column, int count) OCTAVO_INLINE {
      x[v] = L::set(kMax ? -INFINITY : 0.0f);
      if (part.fresh) return;
      x[v] = L::load(out + column, count);
    });
    const int64_t stop = for_rows<kKind>(
        reader, part, at, kVectors ? kVectors * L::kBytes : reader.a.row_bytes, bad,
        [&](const uint8_t* row, float row_scale, float row_offset) OCTAVO_INLINE {
          const Vec scale = L::set(row_scale), offset = L::set(row_offset);
          const auto take = [&](auto v, Vec q) OCTAVO_INLINE {
            x[v] = kMax ? L::max(x[v], L::add(L::mul(q, scale), offset)) : L::fma(q, scale, x[v]);
          };
          unroll<kSums - 1>([&](auto v)
                                OCTAVO_INLINE { take(v, L::row(row + at + v * L::kBytes)); });
          take(Index<kSums - 1>(), kVectors ? L::row(row + last_at) : L::row_part(row, n));
        },
        [&](float group_offsets) OCTAVO_INLINE {
          if (kMax) return;
          const Vec offsets = L::set(group_offsets);
          unroll<kSums>([&](auto v) OCTAVO_INLINE { x[v] = L::add(x[v], offsets); });
        });
    each([&](auto v, int64_t column, int count)
             OCTAVO_INLINE { L::store(out + column, x[v], count); });
    return stop;
  }
};

}  // namespace
}  // namespace octavo
