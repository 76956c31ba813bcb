// Bytes from planes to channels last.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// to[p * to_stride + c] = from[c * pitch + p]
void transpose_bytes(const uint8_t* from, ptrdiff_t pitch, int32_t channels, int64_t pixels,
                     uint8_t* to, ptrdiff_t to_stride);

// Dense [batch][channels][pixels] to dense [batch][pixels][channels].
void to_channels_last(const void* from, int64_t batch, int32_t channels, int64_t pixels, void* to);

}  // namespace octavo
