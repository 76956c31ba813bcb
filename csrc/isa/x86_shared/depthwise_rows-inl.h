// Depthwise convolution with square windows of neighbouring pixels, 3x3 and 5x5, along image rows.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/depthwise_block-inl.h"
#include "isa/x86_shared/depthwise_tile-inl.h"
#include "isa/x86_shared/window_columns-inl.h"

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
  static constexpr bool kJoinsMiddle = K == 3 && Dot<L>::kPairs;

  ColumnDwords() {
    last_ = before_[0][0] = before_[0][1] = before_[1][0] = before_[1][1] = L::zero();
  }
  // H = 0, then H = 1 for every column.
  template <int H>
  inline OCTAVO_INLINE void next(const Vec (&row)[K], Vec (&first)[2], Vec (&rest)[2]) {
    if constexpr (K == 5) {
      interleave<L, H>(row[0], row[1], row[2], row[3], first);
      const Vec pair = interleave_bytes<L, H>(last_, row[4]);
      rest[0] = L::low16(before_[1][H], pair);
      rest[1] = L::high16(before_[1][H], pair);
      before_[1][H] = before_[0][H];
      before_[0][H] = pair;
    } else if constexpr (kJoinsMiddle) {
      interleave<L, H>(row[0], last_, row[2], row[1], first);
    } else {
      interleave<L, H>(row[0], row[1], row[2], L::zero(), first);
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
        Vec first[2], rest[2];
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
// Register budget, K = 3 and stride 1 (32 vectors): 12 accumulators, 12 weights, 4 for a column.
template <class L, int J, int K, int S, class Columns, typename Load, typename Finish>
static inline OCTAVO_INLINE void depthwise_run(Columns columns, const Load& load,
                                               const DepthwiseBlock<L, J, K>& block, int pixels,
                                               const Finish& finish) {
  using Vec = typename L::Vec;
  using Block = DepthwiseBlock<L, J, K>;
  constexpr int kFlight = (K + S - 1) / S;  // pixels under way
  using Weights = typename Block::Weights;
  Vec acc[kFlight][4];
  ColumnDwords<L, K> dwords;
  Weights weights[K][4], tails[2][4];
  unroll<4>([&](auto q) OCTAVO_INLINE {
    unroll<K>([&](auto c) OCTAVO_INLINE { weights[c][q] = block.columns[c][q]; });
    if constexpr (K == 5) unroll<2>([&](auto c) OCTAVO_INLINE { tails[c][q] = block.tails[c][q]; });
  });
  const auto add_column = [&](auto c, auto q, Vec sum, const auto& first, const auto& rest)
                              OCTAVO_INLINE {
                                using D = Dot<L>;
                                if constexpr (ColumnDwords<L, K>::kJoinsMiddle) {
                                  sum = D::dot_even(sum, first, weights[c][q]);
                                  if constexpr (c > 0) sum = D::dot_odd(sum, first, weights[c][q]);
                                } else {
                                  sum = D::dot(sum, first, weights[c][q]);
                                }
                                // Apart, as clang looks dot_odd up even where it is discarded.
                                if constexpr (D::kPairs) {
                                  if constexpr (K == 5 && c == 4) {
                                    sum = D::dot_odd(sum, rest, tails[1][q]);
                                  } else if constexpr (K == 5 && c == 3) {
                                    sum = D::dot(sum, rest, tails[0][q]);
                                  }
                                } else if constexpr (K == 5 && c >= 3) {
                                  sum = D::dot(sum, rest, tails[c - 3][q]);
                                }
                                return sum;
                              };
  // The S columns that complete pixel 0 of those under way, for pixels `from` and later.
  const auto advance = [&](auto from) OCTAVO_INLINE {
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
          Vec firsts[2], rests[2];
          dwords.template next<h>(row, firsts, rests);
          unroll<2>([&](auto i) OCTAVO_INLINE {
            constexpr int q = 2 * kIndex<decltype(h)> + i;
            typename Dot<L>::Bytes first = Dot<L>::bytes(firsts[i]), rest{};
            if constexpr (K == 5) rest = Dot<L>::bytes(rests[i]);
            unroll<kFlight>([&](auto f) OCTAVO_INLINE {
              constexpr int c = kColumn - f * S;
              if constexpr (f >= kIndex<decltype(from)> && c >= 0) {
                acc[f][q] = add_column(Index<c>(), Index<q>(), c == 0 ? block.init[q] : acc[f][q],
                                       first, rest);
              }
            });
          });
        });
      }
    });
  };
  const auto rotate = [&]() OCTAVO_INLINE {
    unroll<kFlight - 1>([&](auto f) OCTAVO_INLINE {
      unroll<4>([&](auto q) OCTAVO_INLINE { acc[f][q] = acc[f + 1][q]; });
    });
  };
  unroll<kFlight - 1>([&](auto i) OCTAVO_INLINE {
    advance(Index<kFlight - 1 - kIndex<decltype(i)>>());
    rotate();
  });
  for (int p = 0; p < pixels; ++p) {
    advance(Index<0>());
    finish(acc[0]);
    rotate();
  }
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
    const Vec v = Joined<L, J>::template load<S, kPartial>(row, channel, n);
    // int8 activations are offset by 128 (WindowKernel::a_offset).
    return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
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
      depthwise_run<L, J, K, S>(columns, load, block, pixels, finish);
      if (!plain8) store_tile<L, J, kPartial>(tile, block, args, {channel, n, row, first, pixels});
    }
  }
}

// Cuts channels into blocks of a vector; where what is left is less than half a vector, rows share
// one.
template <int K, int S, bool kSigned>
void depthwise_rows(const WindowArgs* args) {
  int channel = args->begin;
#if defined(__AVX512BW__)
  for (; args->end - channel >= 64; channel += 64)
    depthwise_block<Window512, 1, K, S, kSigned, false>(*args, channel, 64);
  const int n = args->end - channel;
  if (n > 32) {
    depthwise_block<Window512, 1, K, S, kSigned, true>(*args, channel, n);
  } else if (n > 16) {
    depthwise_block<Window512, 2, K, S, kSigned, true>(*args, channel, n);
  } else if (n > 0) {
    depthwise_block<Window512, 4, K, S, kSigned, true>(*args, channel, n);
  }
#else
  for (; args->end - channel >= 32; channel += 32)
    depthwise_block<Window256, 1, K, S, kSigned, false>(*args, channel, 32);
  for (; args->end - channel >= 16; channel += 16)
    depthwise_block<Window256, 2, K, S, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_block<Window256, 2, K, S, kSigned, true>(*args, channel, args->end - channel);
#endif
}

template <int K, int S>
constexpr WindowKernel depthwise_rows_row(const char* name) {
  return {name,
          WindowKind::kDepthwise,
          K,
          S,
          {depthwise_rows<K, S, false>, depthwise_rows<K, S, true>},
          {0, 128}};
}

}  // namespace
}  // namespace octavo
