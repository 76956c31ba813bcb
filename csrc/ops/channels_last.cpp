#include "ops/channels_last.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "parallel/parallel.h"
#include "util/aligned_buffer.h"

namespace octavo {
namespace {

// Pixels of a task: of 64 channels, half of the L1 cache.
constexpr int64_t kTaskPixels = 256;

// Vectors of the compiler's, which become the baseline's registers on every CPU.
template <int kSize>
using Bytes __attribute__((vector_size(kSize))) = uint8_t;

// The first (second) halves of two vectors, byte by byte in turn.
template <int kSize, int kFirst, int... kIndex>
Bytes<kSize> interleave(Bytes<kSize> a, Bytes<kSize> b, std::integer_sequence<int, kIndex...>) {
  return __builtin_shufflevector(a, b, (kFirst + kIndex / 2 + (kIndex % 2) * kSize)...);
}

// A kSize x kSize block, kSize a power of two. A round of interleaving moves one bit of the row's
// index into the column's; log2(kSize) rounds exchange the two.
template <int kSize>
void transpose_block(const uint8_t* from, ptrdiff_t pitch, uint8_t* to, ptrdiff_t to_stride) {
  constexpr std::make_integer_sequence<int, kSize> kAll;
  Bytes<kSize> rows[kSize], next[kSize];
  for (int i = 0; i < kSize; ++i) std::memcpy(&rows[i], from + i * pitch, kSize);
#pragma GCC unroll 4
  for (int bit = 1; bit < kSize; bit *= 2) {
    for (int i = 0; i < kSize / 2; ++i) {
      next[2 * i] = interleave<kSize, 0>(rows[i], rows[i + kSize / 2], kAll);
      next[2 * i + 1] = interleave<kSize, kSize / 2>(rows[i], rows[i + kSize / 2], kAll);
    }
    for (int i = 0; i < kSize; ++i) rows[i] = next[i];
  }
  for (int i = 0; i < kSize; ++i) std::memcpy(to + i * to_stride, &rows[i], kSize);
}

}  // namespace

void transpose_bytes(const uint8_t* from, ptrdiff_t pitch, int32_t channels, int64_t pixels,
                     uint8_t* to, ptrdiff_t to_stride) {
  const int64_t whole = pixels / 16 * 16;
  int32_t c = 0;
  for (int64_t p = 0; p < whole; p += 16) {
    for (c = 0; c + 16 <= channels; c += 16)
      transpose_block<16>(from + c * pitch + p, pitch, to + p * to_stride + c, to_stride);
    for (; c + 8 <= channels; c += 8) {
      for (int half = 0; half < 16; half += 8) {
        transpose_block<8>(from + c * pitch + p + half, pitch, to + (p + half) * to_stride + c,
                           to_stride);
      }
    }
  }
  const int32_t done = channels / 8 * 8;
  for (c = 0; c < channels; ++c) {
    for (int64_t p = c < done ? whole : 0; p < pixels; ++p)
      to[p * to_stride + c] = from[c * pitch + p];
  }
}

void to_channels_last(const void* from, int64_t batch, int32_t channels, int64_t pixels, void* to) {
  const int64_t image = pixels * channels, blocks = ceil_div(pixels, kTaskPixels);
  parallel_for(batch * blocks, batch * image, [&](int64_t task) {
    const int64_t b = task / blocks, p = task % blocks * kTaskPixels;
    transpose_bytes(static_cast<const uint8_t*>(from) + b * image + p, pixels, channels,
                    std::min(kTaskPixels, pixels - p),
                    static_cast<uint8_t*>(to) + b * image + p * channels, channels);
  });
}

}  // namespace octavo
