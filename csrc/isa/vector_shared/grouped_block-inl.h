// What kernels for small groups do with blocks of 16 output channels (GroupedBlock).
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/window_epilogue-inl.h"

namespace octavo {
namespace {

// Vectors of a block.
template <class L>
constexpr int kBlockVectors = 64 / L::kBytes;

// Picks of a block in GroupDot's own order.
template <class L, bool = GroupDot<L>::kArranges>
struct ArrangedPicks {
  using Vec = typename L::Vec;
  void take(int chunk, int v, Vec picks) { all_[chunk][v] = GroupDot<L>::arrange(picks); }
  inline OCTAVO_INLINE Vec get(int chunk, int v, const char*) const { return all_[chunk][v]; }

 private:
  Vec all_[kGroupedChunks][kBlockVectors<L>];
};
template <class L>
struct ArrangedPicks<L, false> {
  using Vec = typename L::Vec;
  void take(int, int, Vec) {}
  inline OCTAVO_INLINE Vec get(int, int, const char* record) const { return L::load(record); }
};

// B blocks that are computed together, in B * kBlockVectors vectors.
template <class L, int B>
struct GroupedBlocks {
  using Vec = typename L::Vec;
  static constexpr int kVectors = B * kBlockVectors<L>;

  GroupedBlocks(const WindowArgs& args, int index) {
    const Epilogue& e = *args.epilogue;
    const ptrdiff_t record = grouped_record_bytes(args.taps, args.chunks);
    for (int b = 0; b < B; ++b) {
      block[b] = reinterpret_cast<const GroupedBlock*>(static_cast<const char*>(args.w) +
                                                       (index + b) * record);
      const int first = block[b]->first, bytes = block[b]->count * 4;
      std::memset(init[b], 0, sizeof init[b]);
      std::memset(mult[b], 0, sizeof mult[b]);
      std::memset(bias[b], 0, sizeof bias[b]);
      std::memcpy(init[b], e.acc_init + first, bytes);
      std::memcpy(mult[b], e.mult + first, bytes);
      std::memcpy(bias[b], e.bias + first, bytes);
    }
    for (int chunk = 0; chunk < args.chunks; ++chunk) {
      for (int v = 0; v < kVectors; ++v) {
        picks_[v / kBlockVectors<L>].take(chunk, v % kBlockVectors<L>,
                                          L::load(part(v) + chunk * 64));
      }
    }
  }

  // Vector v of the picks of a chunk, or of the weights of a tap's chunk (at = tap * chunks +
  // chunk).
  inline OCTAVO_INLINE Vec pick(int chunk, int v) const {
    return picks_[v / kBlockVectors<L>].get(chunk, v % kBlockVectors<L>, part(v) + chunk * 64);
  }
  inline OCTAVO_INLINE Vec weights(int chunks, int at, int v) const {
    return L::load(part(v) + (chunks + at) * ptrdiff_t{64});
  }
  inline OCTAVO_INLINE Vec init_vector(int v) const {
    return L::load(reinterpret_cast<const char*>(init) + v * L::kBytes);
  }

  bool stay_int32(const WindowArgs& args) const {
    bool stay = true;
    for (int b = 0; b < B; ++b)
      stay &= stays_int32(args, args.taps * args.chunks * 4, block[b]->first, block[b]->count);
    return stay;
  }

  // Stores P neighbouring pixels of 8-bit outputs, at most four vectors; `out` is channel 0.
  template <bool kBounded, int P>
  inline OCTAVO_INLINE void store8(const Requantize8<L>& requantize, const Vec (&acc)[P][kVectors],
                                   char* out, ptrdiff_t out_stride) const {
    const auto floats = [&](const auto& from, int v) OCTAVO_INLINE {
      return L::as_floats(L::load(reinterpret_cast<const char*>(from) + v * L::kBytes));
    };
    Vec steps[4];
    unroll<4>([&](auto i) OCTAVO_INLINE {
      constexpr int at = i % (P * kVectors), v = at % kVectors;  // what is left, anything fills
      steps[i] = at < i ? steps[at]
                        : requantize.template steps<kBounded>(acc[at / kVectors][v],
                                                              floats(mult, v), floats(bias, v));
    });
    typename L::Part::Vec packed[L::kBytes / 16];
    L::split_dwords(requantize.pack(steps[0], steps[1], steps[2], steps[3]), packed);
    unroll<P>([&](auto p) OCTAVO_INLINE {
      for (int b = 0; b < B; ++b) {
        char* to = out + p * out_stride + block[b]->first;
        if (block[b]->count == kGroupedLanes) {
          L::Part::store(to, packed[p * B + b]);
        } else {
          L::Part::store_first(to, packed[p * B + b], block[b]->count);
        }
      }
    });
  }

  const GroupedBlock* block[B];
  alignas(64) int32_t init[B][kGroupedLanes];
  alignas(64) float mult[B][kGroupedLanes], bias[B][kGroupedLanes];

 private:
  inline OCTAVO_INLINE const char* part(int v) const {
    return reinterpret_cast<const char*>(block[v / kBlockVectors<L>] + 1) +
           v % kBlockVectors<L> * L::kBytes;
  }

  ArrangedPicks<L> picks_[B];
};

// The 16 bytes that a chunk's picks choose from, as often as a vector holds them.
template <class L, bool kSigned, bool kPartial>
static inline OCTAVO_INLINE typename L::Vec load_group(const uint8_t* p, int in_channels) {
  return GroupDot<L, kSigned>::activations(
      kPartial ? L::broadcast(L::Part::load_first(p, in_channels)) : L::broadcast16(p));
}

// Accumulators that wait in memory for store_accumulators(), [pixels][B][16].
template <class L, int B>
struct GroupedTile {
  static constexpr int kVectors = GroupedBlocks<L, B>::kVectors;

  inline OCTAVO_INLINE void put(int pixel, const typename L::Vec (&acc)[kVectors]) {
    unroll<kVectors>([&](auto v) OCTAVO_INLINE {
      L::store(reinterpret_cast<char*>(acc_[pixel]) + v * L::kBytes, acc[v]);
    });
  }
  void store(const WindowArgs& args, const GroupedBlocks<L, B>& blocks, int pixels, char* out,
             int m) const {
    for (int b = 0; b < B; ++b) {
      store_accumulators(acc_[0][b], B * kGroupedLanes, args, blocks.block[b]->first,
                         blocks.block[b]->count, pixels, out, m);
    }
  }

 private:
  alignas(64) int32_t acc_[kTilePixels][B][kGroupedLanes];
};

}  // namespace
}  // namespace octavo
