// Depthwise convolution with square windows of neighbouring pixels, 3x3 and 5x5, along image rows.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/depthwise_block-inl.h"
#include "isa/x86_shared/window_columns-inl.h"

namespace octavo {
namespace {

// The weights of a block of channels, and what its epilogue needs.
template <class L, int K>
struct DepthwiseBlock : BlockChannels<L> {
  static constexpr int kQuads = (K + 3) / 4;

  DepthwiseBlock(const WindowArgs& args, int channel) : BlockChannels<L>(args, channel) {
    const auto* w = static_cast<const int8_t*>(args.w) + ptrdiff_t{channel} * args.taps;
    const ptrdiff_t lane = ptrdiff_t{args.taps} * kDepthwiseBlock;
    unroll<K>([&](auto c) OCTAVO_INLINE {
      typename L::Vec row[K];
      unroll<K>([&](auto r) OCTAVO_INLINE {
        row[r] = L::load_lanes(w + (r * K + c) * kDepthwiseBlock, lane);
      });
      unroll<2>([&](auto h) OCTAVO_INLINE {
        typename L::Vec dwords[2][2];
        interleave<L, K, h>(row, dwords[0], dwords[1]);
        for (int quad = 0; quad < kQuads; ++quad) {
          weights[c][quad][2 * h] = Dot<L>::weights(dwords[quad][0]);
          weights[c][quad][2 * h + 1] = Dot<L>::weights(dwords[quad][1]);
        }
      });
    });
  }

  typename Dot<L>::Weights weights[K][kQuads][4];
};

// Runs along a row and keeps the accumulators of the pixels whose windows hold the current column:
// every column is read and interleaved once. finish(accumulators) takes each pixel as its last
// column has passed.
//
// Register budget, K = 3 and stride 1 (32 vectors): 12 accumulators, 12 weights, 4 for a column.
template <class L, int K, int S, typename Load, typename Finish>
static inline OCTAVO_INLINE void depthwise_run(RowColumns<K> columns, const Load& load,
                                               const DepthwiseBlock<L, K>& block, int pixels,
                                               const Finish& finish) {
  using Vec = typename L::Vec;
  using Block = DepthwiseBlock<L, K>;
  constexpr int kFlight = (K + S - 1) / S;  // pixels under way
  Vec acc[kFlight][4];
  typename Dot<L>::Weights weights[K][Block::kQuads][4];
  unroll<K>([&](auto c) OCTAVO_INLINE {
    unroll<Block::kQuads>([&](auto quad) OCTAVO_INLINE {
      unroll<4>([&](auto q) OCTAVO_INLINE { weights[c][quad][q] = block.weights[c][quad][q]; });
    });
  });
  // The S columns that complete pixel 0 of those under way, for pixels `from` and later.
  const auto advance = [&](auto from) OCTAVO_INLINE {
    unroll<S>([&](auto s) OCTAVO_INLINE {
      constexpr int kColumn = K - S + s;  // of pixel 0's window
      if constexpr (kColumn < kIndex<decltype(from)> * S) {
        columns.skip();
      } else {
        const uint8_t* at[K];
        columns.next(at);
        Vec row[K];
        unroll<K>([&](auto r) OCTAVO_INLINE { row[r] = load(at[r]); });
        unroll<2>([&](auto h) OCTAVO_INLINE {
          Vec dwords[2][2];
          interleave<L, K, h>(row, dwords[0], dwords[1]);
          unroll<2>([&](auto i) OCTAVO_INLINE {
            constexpr int q = 2 * kIndex<decltype(h)> + kIndex<decltype(i)>;
            typename Dot<L>::Bytes first = Dot<L>::bytes(dwords[0][i]), rest{};
            if constexpr (K == 5) rest = Dot<L>::bytes(dwords[1][i]);
            unroll<kFlight>([&](auto f) OCTAVO_INLINE {
              constexpr int c = kColumn - kIndex<decltype(f)> * S;
              if constexpr (f >= kIndex<decltype(from)> && c >= 0) {
                acc[f][q] =
                    Dot<L>::dot(c == 0 ? block.init[q] : acc[f][q], first, weights[c][0][q]);
                if constexpr (K == 5)
                  acc[f][q] = Dot<L>::dot_first(acc[f][q], rest, weights[c][Block::kQuads - 1][q]);
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

// One block of n channels, all rows.
template <class L, int K, int S, bool kSigned, bool kPartial>
__attribute__((noinline)) void depthwise_block(const WindowArgs& args, int channel, int n) {
  constexpr int kFlight = (K + S - 1) / S;
  const DepthwiseBlock<L, K> block(args, channel);
  const Requantize8<L> requantize(args);
  const auto load = [&](const uint8_t* at) OCTAVO_INLINE {
    return load_activations<L, kSigned, kPartial>(at + channel, n);
  };
  for (int row = 0; row < args.out_rows; ++row) {
    const RowColumns<K> columns(args, args.rows + row * K, args.first + K - S - (kFlight - 1) * S);
    char* out = static_cast<char*>(args.out) + row * args.out_row_stride + channel;
    const auto finish = [&](const typename L::Vec(&acc)[4]) OCTAVO_INLINE {
      store_block<kPartial>(requantize, acc, block, n, out);
      out += args.out_stride;
    };
    depthwise_run<L, K, S>(columns, load, block, args.pixels, finish);
  }
}

template <int K, int S, bool kSigned>
void depthwise_rows(const WindowArgs* args) {
  for_channel_blocks(args->begin, args->end, [&](auto lanes, auto partial, int channel, int n) {
    depthwise_block<decltype(lanes), K, S, kSigned, partial.value>(*args, channel, n);
  });
}

template <int K, int S>
constexpr WindowKernel depthwise_rows_row(const char* name) {
  return {
      name, WindowKind::kDepthwise, K, S, {depthwise_rows<K, S, false>, depthwise_rows<K, S, true>},
      128};
}

}  // namespace
}  // namespace octavo
