// Depthwise convolution with square windows of neighbouring pixels, 3x3 and 5x5, along image rows.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/depthwise_block-inl.h"
#include "isa/x86_shared/window_columns-inl.h"

namespace octavo {
namespace {

// The weights of a block of channels, and what its epilogue needs.
template <class L, int J, int K>
struct DepthwiseBlock : BlockChannels<L, J> {
  static constexpr int kQuads = (K + 3) / 4;

  DepthwiseBlock(const WindowArgs& args, int channel) : BlockChannels<L, J>(args, channel) {
    const auto* w = static_cast<const int8_t*>(args.w) + ptrdiff_t{channel} * args.taps;
    const ptrdiff_t lane = ptrdiff_t{args.taps} * kDepthwiseBlock;
    unroll<K>([&](auto c) OCTAVO_INLINE {
      typename L::Vec row[K];
      unroll<K>([&](auto r) OCTAVO_INLINE {
        row[r] = Joined<L, J>::load_lanes(w + (r * K + c) * kDepthwiseBlock, lane);
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
template <class L, int J, int K, int S, class Columns, typename Load, typename Finish>
static inline OCTAVO_INLINE void depthwise_run(Columns columns, const Load& load,
                                               const DepthwiseBlock<L, J, K>& block, int pixels,
                                               const Finish& finish) {
  using Vec = typename L::Vec;
  using Block = DepthwiseBlock<L, J, K>;
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
        const uint8_t* at[K + (J - 1) * S];
        columns.next(at);
        Vec row[K];
        unroll<K>([&](auto r) OCTAVO_INLINE { row[r] = load(at + r); });
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

// One block of n channels, all rows, J at a time.
template <class L, int J, int K, int S, bool kSigned, bool kPartial>
__attribute__((noinline)) void depthwise_block(const WindowArgs& args, int channel, int n) {
  using Vec = typename L::Vec;
  constexpr int kFlight = (K + S - 1) / S;
  constexpr int kRows = K + (J - 1) * S;  // image rows under J output rows
  const DepthwiseBlock<L, J, K> block(args, channel);
  const Requantize8<L> requantize(args);
  const auto load = [&](const uint8_t* const* row) OCTAVO_INLINE {
    const Vec v = Joined<L, J>::template load<S, kPartial>(row, channel, n);
    // int8 activations are offset by 128 (WindowKernel::s8_offset).
    return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
  };
  const int image_rows = (args.out_rows - 1) * S + K;
  for (int row = 0; row < args.out_rows; row += J) {
    const RowColumns<kRows> columns(args, row * S, image_rows,
                                    args.first + K - S - (kFlight - 1) * S);
    char* out = static_cast<char*>(args.out) + row * args.out_row_stride + channel;
    const auto finish = [&](const Vec(&acc)[4]) OCTAVO_INLINE {
      Joined<L, J>::template store<kPartial>(out, args.out_row_stride,
                                             requantize_block(requantize, acc, block), n,
                                             args.out_rows - row);
      out += args.out_stride;
    };
    depthwise_run<L, J, K, S>(columns, load, block, args.pixels, finish);
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
  return {
      name, WindowKind::kDepthwise, K, S, {depthwise_rows<K, S, false>, depthwise_rows<K, S, true>},
      128};
}

}  // namespace
}  // namespace octavo
