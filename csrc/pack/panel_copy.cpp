#include "pack/panel_copy.h"

#include <algorithm>
#include <cstring>

namespace octavo {
namespace {

// Bytes of each column that pass at a time: a block of 64 columns by 512 stays in the L1 and L2
// caches, and a column's part is long enough for the prefetcher. A multiple of every kr below.
constexpr int32_t kBlockBytes = 512;
// Columns that pass together. Eight loads of kr bytes and one store of 8 * kr are what the compiler
// turns into vector instructions of the baseline.
constexpr int kBlockColumns = 8;

// `groups` k groups of kColumns columns. kKr 0: kr is known at run time only.
template <int kKr, int kColumns>
void pack_block(const PanelTap& tap, const int8_t* plain, int32_t groups, int8_t* packed) {
  const ptrdiff_t pitch = tap.pitch;
  const int32_t kr = kKr ? kKr : tap.kr;
  const ptrdiff_t stride = ptrdiff_t{tap.width} * kr;
  for (int32_t g = 0; g < groups; ++g) {
    const int8_t* from = plain + g * kr;
    int8_t* to = packed + g * stride;
    if constexpr (kKr != 0) {
      int8_t row[kColumns * kKr];
      for (int c = 0; c < kColumns; ++c) std::memcpy(row + c * kKr, from + c * pitch, kKr);
      std::memcpy(to, row, sizeof row);
    } else {
      for (int c = 0; c < kColumns; ++c) std::copy_n(from + c * pitch, kr, to + c * kr);
    }
  }
}

template <int kKr, int kColumns>
void unpack_block(const PanelTap& tap, const int8_t* packed, int32_t groups, int8_t* plain) {
  const ptrdiff_t pitch = tap.pitch;
  const int32_t kr = kKr ? kKr : tap.kr;
  const ptrdiff_t stride = ptrdiff_t{tap.width} * kr;
  for (int32_t g = 0; g < groups; ++g) {
    const int8_t* from = packed + g * stride;
    int8_t* to = plain + g * kr;
    if constexpr (kKr != 0) {
      int8_t row[kColumns * kKr];
      std::memcpy(row, from, sizeof row);
      for (int c = 0; c < kColumns; ++c) std::memcpy(to + c * pitch, row + c * kKr, kKr);
    } else {
      for (int c = 0; c < kColumns; ++c) std::copy_n(from + c * kr, kr, to + c * pitch);
    }
  }
}

// In int16 lanes, 256 at a time: their sum is no less than -32768 and no more than 32512.
int32_t sum_of(const int8_t* values, int32_t size) {
  int32_t total = 0;
  for (int32_t begin = 0; begin < size; begin += 256) {
    const int32_t end = std::min(begin + 256, size);
    int16_t part = 0;
    for (int32_t i = begin; i < end; ++i) part = static_cast<int16_t>(part + values[i]);
    total += part;
  }
  return total;
}

// Whole k groups, a block of k after another so that what a block writes stays in the cache; the
// remainder of k and the padding columns are the caller's.
template <int kKr>
void pack_groups(const PanelTap& tap, const int8_t* plain, int8_t* packed, int32_t* sums) {
  const int32_t kr = kKr ? kKr : tap.kr;
  const int32_t block = kBlockBytes / kr, groups = tap.k / kr;
  for (int32_t g = 0; g < groups; g += block) {
    const int32_t count = std::min(block, groups - g);
    const int8_t* from = plain + int64_t{g} * kr;
    int8_t* to = packed + int64_t{g} * tap.width * kr;
    int32_t c = 0;
    for (; c + kBlockColumns <= tap.columns; c += kBlockColumns)
      pack_block<kKr, kBlockColumns>(tap, from + c * tap.pitch, count, to + c * kr);
    for (; c < tap.columns; ++c) pack_block<kKr, 1>(tap, from + c * tap.pitch, count, to + c * kr);
    for (c = 0; sums && c < tap.columns; ++c) sums[c] += sum_of(from + c * tap.pitch, count * kr);
  }
}

template <int kKr>
void unpack_groups(const PanelTap& tap, const int8_t* packed, int8_t* plain) {
  const int32_t kr = kKr ? kKr : tap.kr;
  const int32_t block = kBlockBytes / kr, groups = tap.k / kr;
  for (int32_t g = 0; g < groups; g += block) {
    const int32_t count = std::min(block, groups - g);
    const int8_t* from = packed + int64_t{g} * tap.width * kr;
    int8_t* to = plain + int64_t{g} * kr;
    int32_t c = 0;
    for (; c + kBlockColumns <= tap.columns; c += kBlockColumns)
      unpack_block<kKr, kBlockColumns>(tap, from + c * kr, count, to + c * tap.pitch);
    for (; c < tap.columns; ++c)
      unpack_block<kKr, 1>(tap, from + c * kr, count, to + c * tap.pitch);
  }
}

// Calls f.operator()<kr>() for the kr of real formats, f.operator()<0>() for any other.
template <typename F>
void with_kr(int32_t kr, F f) {
  switch (kr) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 4:
      return f.template operator()<4>();
    case 8:
      return f.template operator()<8>();
    default:
      return f.template operator()<0>();
  }
}

}  // namespace

void pack_tap(const PanelTap& tap, const int8_t* plain, int8_t* packed, int32_t* sums) {
  with_kr(tap.kr, [&]<int kKr>() { pack_groups<kKr>(tap, plain, packed, sums); });
  const int32_t groups = tap.k / tap.kr, rest = tap.k % tap.kr;
  const ptrdiff_t stride = ptrdiff_t{tap.width} * tap.kr;
  const ptrdiff_t used = ptrdiff_t{tap.columns} * tap.kr;
  if (used < stride) {
    for (int32_t g = 0; g < groups; ++g) std::memset(packed + g * stride + used, 0, stride - used);
  }
  if (rest == 0) return;
  int8_t* last = packed + groups * stride;
  std::memset(last, 0, stride);
  for (int32_t c = 0; c < tap.columns; ++c) {
    const int8_t* from = plain + c * tap.pitch + int64_t{groups} * tap.kr;
    std::copy_n(from, rest, last + c * tap.kr);
    if (sums) sums[c] += sum_of(from, rest);
  }
}

void unpack_tap(const PanelTap& tap, const int8_t* packed, int8_t* plain) {
  with_kr(tap.kr, [&]<int kKr>() { unpack_groups<kKr>(tap, packed, plain); });
  const int32_t groups = tap.k / tap.kr, rest = tap.k % tap.kr;
  const int8_t* last = packed + ptrdiff_t{groups} * tap.width * tap.kr;
  for (int32_t c = 0; rest && c < tap.columns; ++c)
    std::copy_n(last + c * tap.kr, rest, plain + c * tap.pitch + int64_t{groups} * tap.kr);
}

}  // namespace octavo
