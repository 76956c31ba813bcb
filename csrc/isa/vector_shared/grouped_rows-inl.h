// Small groups with square windows of neighbouring pixels, along image rows.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/grouped_block-inl.h"
#include "isa/vector_shared/window_columns-inl.h"

namespace octavo {
namespace {

// All weights of B blocks, in the form that is multiplied.
template <class L, int B, int K, int CHUNKS = 0>
struct GroupedWeights {
  using D = GroupDot<L>;
  using Weights = typename D::Weights;
  static constexpr int kVectors = GroupedBlocks<L, B>::kVectors;

  GroupedWeights() = default;
  GroupedWeights(const GroupedBlocks<L, B>& blocks, int chunks) {
    for (int i = 0; i < K * K * chunks; ++i) {
      for (int v = 0; v < kVectors; ++v) data[i][v] = D::weights(blocks.weights(chunks, i, v));
    }
  }
  // A copy that may stay in registers.
  inline OCTAVO_INLINE void take(const GroupedWeights<L, B, K, 0>& all) {
    if constexpr (CHUNKS == 0) {
      from = all.data;
    } else {
      unroll<K * K * CHUNKS>([&](auto i) OCTAVO_INLINE {
        unroll<kVectors>([&](auto v) OCTAVO_INLINE { data[i][v] = all.data[i][v]; });
      });
    }
  }
  inline OCTAVO_INLINE Weights at(int chunks, int tap, int chunk, int v) const {
    if constexpr (CHUNKS == 0) return from[tap * chunks + chunk][v];
    return data[tap * CHUNKS + chunk][v];
  }

  Weights data[K * K * (CHUNKS ? CHUNKS : kGroupedChunks)][kVectors];
  const Weights (*from)[kVectors];
};

// As depthwise_run() in depthwise_rows-inl.h: accumulators of the pixels under way stay, and every
// column's bytes are loaded and picked once. CHUNKS is 0 where their number is not known
// beforehand.
//
// Register budget, K = 3, stride 1, one chunk, two vectors (32 vectors): 6 accumulators, 18
// weights, 2 picks, 3 for a column. Where there are 16 vectors, and with more chunks, weights come
// from memory.
template <class L, int B, int K, int S, int CHUNKS, bool kSigned, typename Finish>
static inline OCTAVO_INLINE void grouped_run(RowColumns<K> columns,
                                             const GroupedBlocks<L, B>& blocks,
                                             const GroupedWeights<L, B, K>& packed, int chunk_count,
                                             int pixels, const Finish& finish) {
  using Vec = typename L::Vec;
  using D = GroupDot<L, kSigned>;
  constexpr int kVectors = GroupedBlocks<L, B>::kVectors;
  constexpr int kFlight = (K + S - 1) / S;
  constexpr int kPhases = L::kFreeMoves ? 1 : kFlight;
  const int chunks = CHUNKS ? CHUNKS : chunk_count;
  Vec acc[kFlight][kVectors];
  GroupedWeights<L, B, K, CHUNKS> weights;
  weights.take(packed);
  const auto add_chunk = [&](const uint8_t* at, auto column, auto from, auto phase, auto row,
                             int chunk) OCTAVO_INLINE {
    Vec bytes = load_group<L, kSigned, false>(at + blocks.block[0]->load[chunk], 0);
    unroll<kVectors>([&](auto v) OCTAVO_INLINE {
      if constexpr (B > 1 && v == kBlockVectors<L>)
        bytes = load_group<L, kSigned, false>(at + blocks.block[1]->load[chunk], 0);
      const auto a = D::bytes(L::pick_bytes(bytes, blocks.pick(chunk, v)));
      unroll<kFlight>([&](auto f) OCTAVO_INLINE {
        constexpr int c = kIndex<decltype(column)> - kIndex<decltype(f)> * S;
        if constexpr (f >= kIndex<decltype(from)> && c >= 0) {
          const int tap = kIndex<decltype(row)> * K + c;
          Vec& sum = acc[(f + kIndex<decltype(phase)>) % kFlight][v];
          sum = D::dot(sum, a, weights.at(chunks, tap, chunk, v));
        }
      });
    });
  };
  const auto advance = [&](auto from, auto phase) OCTAVO_INLINE {
    unroll<S>([&](auto s) OCTAVO_INLINE {
      constexpr int kColumn = K - S + s;
      if constexpr (kColumn < kIndex<decltype(from)> * S) {
        columns.skip();
      } else {
        if constexpr (kColumn % S == 0) {  // the first column of the last pixel under way
          constexpr int f = (kColumn / S + kIndex<decltype(phase)>) % kFlight;
          unroll<kVectors>([&](auto v) OCTAVO_INLINE { acc[f][v] = blocks.init_vector(v); });
        }
        const uint8_t* at[K];
        columns.next(at);
        unroll<K>([&](auto r) OCTAVO_INLINE {
          if constexpr (CHUNKS == 1) {
            add_chunk(at[r], Index<kColumn>(), from, phase, r, 0);
          } else {
            for (int i = 0; i < chunks; ++i) add_chunk(at[r], Index<kColumn>(), from, phase, r, i);
          }
        });
      }
    });
  };
  const auto rotate = [&]() OCTAVO_INLINE {
    if constexpr (kPhases > 1) return;  // the phase moves on
    unroll<kFlight - 1>([&](auto f) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE { acc[f][v] = acc[f + 1][v]; });
    });
  };
  run_along<kFlight, kPhases>(pixels, [&](auto from, auto phase) OCTAVO_INLINE {
    advance(from, phase);
    if constexpr (from == 0) finish(acc[phase]);
    rotate();
  });
}

// B blocks from `index` on, all rows.
template <class L, int B, int K, int S, int CHUNKS, bool kSigned>
__attribute__((noinline)) void grouped_rows_blocks(const WindowArgs& args, int index) {
  using Vec = typename L::Vec;
  constexpr int kFlight = (K + S - 1) / S;
  const GroupedBlocks<L, B> blocks(args, index);
  const GroupedWeights<L, B, K> weights(blocks, args.chunks);
  const bool plain8 = is_plain8(args);
  const Requantize8<L> requantize(args, plain8 && blocks.stay_int32(args));
  GroupedTile<L, B> tile;
  const int most = run_pixels(args);
  for (int row = 0; row < args.out_rows; ++row) {
    for (int first = 0; first < args.pixels; first += most) {
      const RowColumns<K> columns(args, row * S, row * S + K,
                                  args.first + (first - kFlight) * S + K);
      char* out = output_pixel(args, row, first);
      int pixel = 0;
      constexpr int kVectors = GroupedBlocks<L, B>::kVectors;
      const auto finish = [&](const Vec(&sums)[kVectors]) OCTAVO_INLINE {
        Vec acc[1][kVectors];
        unroll<kVectors>([&](auto v) OCTAVO_INLINE { acc[0][v] = sums[v]; });
        if (requantize.bounded) {
          blocks.template store8<true, 1>(requantize, acc, out, 0);
        } else if (plain8) {
          blocks.template store8<false, 1>(requantize, acc, out, 0);
        } else {
          tile.put(pixel++, acc[0]);
        }
        out += args.out_stride;
      };
      const int pixels = args.pixels - first < most ? args.pixels - first : most;
      grouped_run<L, B, K, S, CHUNKS, kSigned>(columns, blocks, weights, args.chunks, pixels,
                                               finish);
      if (!plain8) {
        tile.store(args, blocks, pixels, output_pixel(args, row, first),
                   args.m0 + row * args.pixels + first);
      }
    }
  }
}

template <class L, int K, int S, int CHUNKS, bool kSigned>
static inline void grouped_rows_chunks(const WindowArgs& args) {
  constexpr int kTogether = kBlockVectors<L> == 1 ? 2 : 1;
  int index = args.begin;
  for (; index + kTogether <= args.end; index += kTogether)
    grouped_rows_blocks<L, kTogether, K, S, CHUNKS, kSigned>(args, index);
  if constexpr (kTogether > 1) {
    if (index < args.end) grouped_rows_blocks<L, 1, K, S, CHUNKS, kSigned>(args, index);
  }
}

template <class L, int K, int S, bool kSigned>
void grouped_rows(const WindowArgs* args) {
  if (args->chunks == 1) {
    grouped_rows_chunks<L, K, S, 1, kSigned>(*args);
  } else {
    grouped_rows_chunks<L, K, S, 0, kSigned>(*args);
  }
}

}  // namespace
}  // namespace octavo
