// What kernels for small groups do with blocks of 16 output channels (GroupedBlock).
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/window_epilogue-inl.h"

namespace octavo {
namespace {

#if defined(__AVX512BW__)
using GroupedLanes = Window512;
#else
using GroupedLanes = Window256;
#endif
// Vectors of a block.
constexpr int kBlockVectors = 64 / GroupedLanes::kBytes;

// B blocks that are computed together, in B * kBlockVectors vectors.
template <int B>
struct GroupedBlocks {
  using L = GroupedLanes;
  static constexpr int kVectors = B * kBlockVectors;

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
  }

  // Vector v of the picks of a chunk, or of the weights of a tap's chunk (at = tap * chunks +
  // chunk).
  inline OCTAVO_INLINE L::Vec pick(int chunk, int v) const { return L::load(part(v) + chunk * 64); }
  inline OCTAVO_INLINE L::Vec weights(int chunks, int at, int v) const {
    return L::load(part(v) + (chunks + at) * ptrdiff_t{64});
  }
  inline OCTAVO_INLINE L::Vec init_vector(int v) const {
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
  inline OCTAVO_INLINE void store8(const Requantize8<L>& requantize,
                                   const L::Vec (&acc)[P][kVectors], char* out,
                                   ptrdiff_t out_stride) const {
    const auto floats = [&](const auto& from, int v) OCTAVO_INLINE {
      return L::as_floats(L::load(reinterpret_cast<const char*>(from) + v * L::kBytes));
    };
    L::Vec steps[4];
    unroll<4>([&](auto i) OCTAVO_INLINE {
      constexpr int at = i % (P * kVectors), v = at % kVectors;  // what is left, anything fills
      steps[i] = at < i ? steps[at]
                        : requantize.template steps<kBounded>(acc[at / kVectors][v],
                                                              floats(mult, v), floats(bias, v));
    });
    __m128i packed[L::kBytes / 16];
    L::split_dwords(requantize.pack(steps[0], steps[1], steps[2], steps[3]), packed);
    unroll<P>([&](auto p) OCTAVO_INLINE {
      for (int b = 0; b < B; ++b) {
        char* to = out + p * out_stride + block[b]->first;
        if (block[b]->count == kGroupedLanes) {
          Window128::store(to, packed[p * B + b]);
        } else {
          store_first16(to, packed[p * B + b], block[b]->count);
        }
      }
    });
  }

  const GroupedBlock* block[B];
  alignas(64) int32_t init[B][kGroupedLanes];
  alignas(64) float mult[B][kGroupedLanes], bias[B][kGroupedLanes];

 private:
  inline OCTAVO_INLINE const char* part(int v) const {
    return reinterpret_cast<const char*>(block[v / kBlockVectors] + 1) +
           v % kBlockVectors * L::kBytes;
  }
};

// The 16 bytes that a chunk's picks choose from, as often as a vector holds them.
template <bool kSigned, bool kPartial>
static inline OCTAVO_INLINE GroupedLanes::Vec load_group(const uint8_t* p, int in_channels) {
  using L = GroupedLanes;
  const auto v = kPartial ? L::broadcast(load_first16(p, in_channels)) : L::broadcast16(p);
  return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
}

// Accumulators that wait in memory for store_accumulators(), [pixels][B][16].
template <int B>
struct GroupedTile {
  static constexpr int kVectors = GroupedBlocks<B>::kVectors;

  inline OCTAVO_INLINE void put(int pixel, const GroupedLanes::Vec (&acc)[kVectors]) {
    unroll<kVectors>([&](auto v) OCTAVO_INLINE {
      GroupedLanes::store(reinterpret_cast<char*>(acc_[pixel]) + v * GroupedLanes::kBytes, acc[v]);
    });
  }
  void store(const WindowArgs& args, const GroupedBlocks<B>& blocks, int pixels, char* out,
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
