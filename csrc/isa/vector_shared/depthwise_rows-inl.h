// Depthwise convolution with square windows of neighbouring pixels, 3x3 and 5x5, along image rows.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/depthwise_block-inl.h"
#include "isa/vector_shared/depthwise_tile-inl.h"
#include "isa/vector_shared/window_columns-inl.h"

namespace octavo {
namespace {

// How the K x K products of a window are laid into dwords of four, column by column. `first` holds
// a column's rows 0 to 3. What is left has the columns before in it:
// - K = 5: `rest` holds row 4 of the columns j - 3 to j. Kernel columns 3 and 4 multiply it, column
//   4 by its own byte only; 7 dot products for 25 taps.
// - K = 3 where dwords are multiplied in pairs of bytes: `first` is rows 0, 1 of column j - 1, 2,
// 1,
//   so that row 1 takes two multiplications rather than three.
// Weights go the same way.
template <class L, int K>
class ColumnDwords {
 public:
  using Vec = typename L::Vec;
  using Dwords = typename Dot<L>::Dwords;
  static constexpr bool kJoinsMiddle = K == 3 && Dot<L>::kPairs;

  ColumnDwords() {
    last_ = before_[0][0] = before_[0][1] = before_[1][0] = before_[1][1] = L::zero();
  }
  // H = 0, then H = 1 for every column.
  template <int H>
  inline OCTAVO_INLINE void next(const Vec (&row)[K], Dwords (&first)[2], Dwords (&rest)[2]) {
    if constexpr (K == 5) {
      Dot<L>::template interleave<H>(row[0], row[1], row[2], row[3], first);
      const Vec pair = interleave_bytes<L, H>(last_, row[4]);
      Dot<L>::join(before_[1][H], pair, rest);
      before_[1][H] = before_[0][H];
      before_[0][H] = pair;
    } else if constexpr (kJoinsMiddle) {
      Dot<L>::template interleave<H>(row[0], last_, row[2], row[1], first);
    } else {
      Dot<L>::template interleave<H>(row[0], row[1], row[2], L::zero(), first);
    }
    if constexpr (H == 1) last_ = row[K == 5 ? 4 : 1];
  }

 private:
  Vec last_, before_[2][2];
};

// The weights of a block of channels, and what its epilogue needs.
template <class L, int J, int K>
struct DepthwiseBlock : BlockChannels<L, J> {
  using Vec = typename L::Vec;
  using Weights = typename Dot<L>::Weights;

  DepthwiseBlock(const WindowArgs& args, int channel) : BlockChannels<L, J>(args, channel) {
    const auto* w = static_cast<const int8_t*>(args.w) + ptrdiff_t{channel} * args.taps;
    const ptrdiff_t lane = ptrdiff_t{args.taps} * kDepthwiseBlock;
    ColumnDwords<L, K> dwords;
    unroll<K>([&](auto c) OCTAVO_INLINE {
      Vec row[K];
      unroll<K>([&](auto r) OCTAVO_INLINE {
        row[r] = Joined<L, J>::load_lanes(w + (r * K + c) * kDepthwiseBlock, lane);
      });
      // The last column's dwords count none of the columns before.
      if constexpr (c == K - 1) dwords = ColumnDwords<L, K>();
      unroll<2>([&](auto h) OCTAVO_INLINE {
        typename Dot<L>::Dwords first[2], rest[2];
        dwords.template next<h>(row, first, rest);
        unroll<2>([&](auto i) OCTAVO_INLINE {
          constexpr int q = 2 * kIndex<decltype(h)> + i;
          columns[c][q] = Dot<L>::weights(first[i]);
          if constexpr (K == 5 && kIndex<decltype(c)> >= 3)
            tails[c - 3][q] = Dot<L>::weights(rest[i]);
        });
      });
    });
  }

  Weights columns[K][4], tails[2][4];  // for `first`, and for `rest` from column 3 on
};

// Runs along a row and keeps the accumulators of the pixels whose windows hold the current column:
// every column is read and interleaved once. finish(accumulators) takes each pixel as its last
// column has passed.
//
// Where moves between registers cost an instruction, the loop is unrolled over the pixels under way
// instead of moving their accumulators on.
//
// Register budget, K = 3 and stride 1 (32 vectors): 12 accumulators, 12 weights, 4 for a column.
template <class L, int J, int K, int S, bool kSigned, class Columns, typename Load, typename Finish>
static inline OCTAVO_INLINE void depthwise_run(Columns columns, const Load& load,
                                               const DepthwiseBlock<L, J, K>& block, int pixels,
                                               const Finish& finish) {
  using Vec = typename L::Vec;
  using Block = DepthwiseBlock<L, J, K>;
  constexpr int kFlight = (K + S - 1) / S;  // pixels under way
  constexpr int kPhases = L::kFreeMoves ? 1 : kFlight;
  using D = Dot<L, kSigned>;
  using Weights = typename Block::Weights;
  Vec acc[kFlight][4];  // pixel f of those under way is (f + phase) % kFlight
  ColumnDwords<L, K> dwords;
  Weights weights[K][4], tails[2][4];
  unroll<4>([&](auto q) OCTAVO_INLINE {
    unroll<K>([&](auto c) OCTAVO_INLINE { weights[c][q] = block.columns[c][q]; });
    if constexpr (K == 5) unroll<2>([&](auto c) OCTAVO_INLINE { tails[c][q] = block.tails[c][q]; });
  });
  const auto add_column = [&](auto c, auto q, Vec sum, const auto& first, const auto& rest)
                              OCTAVO_INLINE {
                                if constexpr (ColumnDwords<L, K>::kJoinsMiddle) {
                                  sum = D::template dot_even<q>(sum, first, weights[c][q]);
                                  if constexpr (c > 0)
                                    sum = D::template dot_odd<q>(sum, first, weights[c][q]);
                                } else {
                                  sum = D::template dot<q>(sum, first, weights[c][q]);
                                }
                                // Apart, as clang looks dot_odd up even where it is discarded.
                                if constexpr (D::kPairs) {
                                  if constexpr (K == 5 && c == 4) {
                                    sum = D::template dot_odd<q>(sum, rest, tails[1][q]);
                                  } else if constexpr (K == 5 && c == 3) {
                                    sum = D::template dot<q>(sum, rest, tails[0][q]);
                                  }
                                } else if constexpr (K == 5 && c >= 3) {
                                  sum = D::template dot<q>(sum, rest, tails[c - 3][q]);
                                }
                                return sum;
                              };
  // The S columns that complete pixel 0 of those under way, for pixels `from` and later.
  const auto advance = [&](auto from, auto phase) OCTAVO_INLINE {
    unroll<S>([&](auto s) OCTAVO_INLINE {
      constexpr int kColumn = K - S + s;  // of pixel 0's window
      if constexpr (kColumn < kIndex<decltype(from)> * S) {
        columns.skip();
      } else {
        const uint8_t* at[K + (J - 1) * S];
        columns.next(at);
        Vec row[K];
        unroll<K>([&](auto r) OCTAVO_INLINE { row[r] = load(at + r); });
        unroll<2>([&](auto h) OCTAVO_INLINE {
          typename D::Dwords firsts[2], rests[2];
          dwords.template next<h>(row, firsts, rests);
          unroll<2>([&](auto i) OCTAVO_INLINE {
            constexpr int q = 2 * kIndex<decltype(h)> + i;
            typename D::Bytes first = D::bytes(firsts[i]), rest{};
            if constexpr (K == 5) rest = D::bytes(rests[i]);
            unroll<kFlight>([&](auto f) OCTAVO_INLINE {
              constexpr int c = kColumn - f * S;
              if constexpr (f >= kIndex<decltype(from)> && c >= 0) {
                Vec& sum = acc[(f + kIndex<decltype(phase)>) % kFlight][q];
                sum = add_column(Index<c>(), Index<q>(), c == 0 ? block.init[q] : sum, first, rest);
              }
            });
          });
        });
      }
    });
  };
  const auto rotate = [&]() OCTAVO_INLINE {
    if constexpr (kPhases > 1) return;  // the phase moves on
    unroll<kFlight - 1>([&](auto f) OCTAVO_INLINE {
      unroll<4>([&](auto q) OCTAVO_INLINE { acc[f][q] = acc[f + 1][q]; });
    });
  };
  run_along<kFlight, kPhases>(pixels, [&](auto from, auto phase) OCTAVO_INLINE {
    advance(from, phase);
    if constexpr (from == 0) finish(acc[phase]);
    rotate();
  });
}

// One block of n channels, all rows, J at a time.
template <class L, int J, int K, int S, bool kSigned, bool kPartial>
__attribute__((noinline)) void depthwise_block(const WindowArgs& args, int channel, int n) {
  using Vec = typename L::Vec;
  constexpr int kFlight = (K + S - 1) / S;
  constexpr int kRows = K + (J - 1) * S;  // image rows under J output rows
  const DepthwiseBlock<L, J, K> block(args, channel);
  const bool plain8 = is_plain8(args);
  const Requantize8<L> requantize(args, plain8 && stays_int32(args, args.taps, channel, n));
  const auto load = [&](const uint8_t* const* row) OCTAVO_INLINE {
    return Dot<L, kSigned>::activations(Joined<L, J>::template load<S, kPartial>(row, channel, n));
  };
  DepthwiseTile<L> tile;
  const int image_rows = (args.out_rows - 1) * S + K, most = run_pixels(args);
  for (int row = 0; row < args.out_rows; row += J) {
    for (int first = 0; first < args.pixels; first += most) {
      const RowColumns<kRows> columns(args, row * S, image_rows,
                                      args.first + (first - kFlight) * S + K);
      char* to = output_pixel(args, row, first) + channel;
      int pixel = 0;
      const auto finish = [&](const Vec(&acc)[4]) OCTAVO_INLINE {
        const auto store = [&](auto bounded) OCTAVO_INLINE {
          const Vec bytes =
              requantize_block<kIndex<decltype(bounded)> != 0>(requantize, acc, block);
          Joined<L, J>::template store<kPartial>(to, args.out_row_stride, bytes, n,
                                                 args.out_rows - row);
          to += args.out_stride;
        };
        if (requantize.bounded) {
          store(Index<1>());
        } else if (plain8) {
          store(Index<0>());
        } else {
          tile.put(pixel++, acc);
        }
      };
      const int pixels = args.pixels - first < most ? args.pixels - first : most;
      depthwise_run<L, J, K, S, kSigned>(columns, load, block, pixels, finish);
      if (!plain8) store_tile<L, J, kPartial>(tile, block, args, {channel, n, row, first, pixels});
    }
  }
}

}  // namespace
}  // namespace octavo
