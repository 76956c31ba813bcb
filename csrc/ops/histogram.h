// Counting float32 values in bins, and moving counts to other bins.
#pragma once

#include <cstdint>

namespace octavo {

constexpr int32_t kMostBins = 1 << 16;

// counts[b] = how many values lie in bin b of `bins` (1 to kMostBins) over [low, high], low < high.
// A value's bin is the integer part of (x - low) * bins / (high - low), in float32, one rounding an
// operation and in this order, as torch.histc has it; the last bin for high itself and what lies
// above it, the first for what lies below low and for NaN.
void count_bins(const float* x, int64_t size, float low, float high, int32_t bins, float* counts);

// Moves counts from bins that are cut into `pieces` pieces of equal weight each: out[b] is the sum,
// in their order, of the pieces whose middle lies in [borders[b], borders[b + 1]); the first and
// the last bin take what lies outside. counts and out have `bins` elements, middles bins * pieces,
// and borders bins + 1, which must not fall: returns false, with nothing written, where they do.
bool move_counts(const float* counts, int32_t bins, const float* middles, int32_t pieces,
                 const float* borders, float* out);

}  // namespace octavo
