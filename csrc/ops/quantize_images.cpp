#include "ops/quantize_images.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/channels_last.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

constexpr int64_t kChunk = 1 << 14;       // elements per task, where they lie in order
constexpr int64_t kConverted = 1 << 11;   // halves that are made floats at a time
constexpr int64_t kTileBytes = 1 << 13;   // of a transposed tile
constexpr int64_t kTilePixels = 1 << 11;  // at most
constexpr int32_t kTileChannels = 64;     // a cache line of a pixel

int64_t element_bytes(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }

// Consecutive floats from element `begin` of x on, in place or converted into `buffer`.
const float* floats(const FloatImages& x, int64_t begin, int64_t count, float* buffer,
                    const ElementwiseFns& fns) {
  const char* from = static_cast<const char*>(x.data) + begin * element_bytes(x.type);
  if (x.type == FloatType::kF32) return reinterpret_cast<const float*>(from);
  fns.to_float[x.type == FloatType::kF16](from, count, buffer);
  return buffer;
}

// Calls visit(floats, offset, count) for the pieces of elements [begin, begin + count).
template <typename Visit>
void for_pieces(const FloatImages& x, int64_t begin, int64_t count, float* buffer,
                const ElementwiseFns& fns, Visit visit) {
  const int64_t step = x.type == FloatType::kF32 ? count : kConverted;
  for (int64_t i = 0; i < count; i += step) {
    const int64_t n = std::min(step, count - i);
    visit(floats(x, begin + i, n, buffer, fns), i, n);
  }
}

float* conversion_buffer() {
  return reinterpret_cast<float*>(thread_scratch(kConverted * sizeof(float)));
}

void quantize_channels_last(const FloatImages& x, int64_t begin, int64_t size,
                            const ByteQuantizer& how, const ElementwiseFns& fns, uint8_t* to) {
  parallel_for(ceil_div(size, kChunk), size, [&](int64_t task) {
    const int64_t first = task * kChunk, count = std::min(kChunk, size - first);
    for_pieces(x, begin + first, count, conversion_buffer(), fns,
               [&](const float* values, int64_t at, int64_t n) {
                 fns.quantize[0](values, n, how.inverse, how.zero_point, 0, how.hi,
                                 to + first + at);
               });
  });
}

void quantize_planes(const FloatImages& x, int64_t begin, const ByteQuantizer& how,
                     const ElementwiseFns& fns, uint8_t* to) {
  const int64_t pixels = x.pixels();
  const int32_t depth = std::min(x.channels, kTileChannels);
  const int64_t width = std::min(kTilePixels, kTileBytes / depth / 64 * 64);
  // Consecutive tasks take the channels of the same pixels.
  const int64_t blocks = ceil_div(x.channels, depth);
  parallel_for(ceil_div(pixels, width) * blocks, pixels * x.channels, [&](int64_t task) {
    const int64_t p = task / blocks * width, count = std::min(width, pixels - p);
    const int32_t c = static_cast<int32_t>(task % blocks) * depth;
    const int32_t channels = std::min(depth, x.channels - c);
    uint8_t* scratch = thread_scratch(kConverted * sizeof(float) + depth * width);
    uint8_t* tile = scratch + kConverted * sizeof(float);
    for (int32_t i = 0; i < channels; ++i) {
      const float* values =
          floats(x, begin + (c + i) * pixels + p, count, reinterpret_cast<float*>(scratch), fns);
      fns.quantize[0](values, count, how.inverse, how.zero_point, 0, how.hi, tile + i * width);
    }
    transpose_bytes(tile, width, channels, count, to + p * x.channels + c, x.channels);
  });
}

}  // namespace

FloatRange range_of_images(const FloatImages& x, int64_t first, int64_t count,
                           const ElementwiseFns& fns) {
  constexpr int64_t kParts = 64;
  std::array<FloatRange, kParts> ranges{};
  const int64_t image = x.pixels() * x.channels, begin = first * image, size = count * image;
  const int64_t part = std::max(kChunk, ceil_div(size, kParts));
  parallel_for(ceil_div(size, part), size, [&](int64_t task) {
    const int64_t from = task * part;
    for_pieces(
        x, begin + from, std::min(part, size - from), conversion_buffer(), fns,
        [&](const float* values, int64_t, int64_t n) { fns.range(values, n, &ranges[task]); });
  });
  // In order, though any order gives the same.
  FloatRange all{};
  for (const FloatRange& range : ranges) {
    if (std::isnan(range.lo)) return range;
    all.lo = std::min(all.lo, range.lo);
    all.hi = std::max(all.hi, range.hi);
  }
  return all;
}

void quantize_image(const FloatImages& x, int64_t index, const ByteQuantizer& how,
                    const ElementwiseFns& fns, uint8_t* to) {
  const int64_t size = x.pixels() * x.channels;
  if (x.channels_last || x.channels == 1) {
    quantize_channels_last(x, index * size, size, how, fns, to);
  } else {
    quantize_planes(x, index * size, how, fns, to);
  }
}

}  // namespace octavo
