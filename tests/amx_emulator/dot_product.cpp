#include "dot_product.h"

#include <immintrin.h>

#include <cstring>

#define OCTAVO_AVX2 __attribute__((target("avx2")))

namespace octavo::amx {
namespace {

int32_t Extend(uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<int8_t>(byte) : static_cast<int32_t>(byte);
}

// The even and the odd bytes of each dword, widened to 16 bits: vpmaddwd multiplies and adds these
// pairs exactly.
struct Halves {
  __m256i even, odd;
};

OCTAVO_AVX2 inline Halves Split(__m256i bytes, bool is_signed) {
  if (is_signed) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
}

OCTAVO_AVX2 inline __m256i Accumulate(__m256i sum, const Halves& a, const Halves& b) {
  return _mm256_add_epi32(
      sum, _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even), _mm256_madd_epi16(a.odd, b.odd)));
}

}  // namespace

void DotProductPortable(bool signed1, bool signed2, int rows, int depth, const Tile& src1,
                        const Tile& src2, Tile* dst) {
  for (int m = 0; m < rows; ++m) {
    uint32_t sums[kMaxRowBytes / 4];
    std::memcpy(sums, dst->row[m], sizeof(sums));
    for (int k = 0; k < depth; ++k) {
      for (int n = 0; n < kMaxRowBytes / 4; ++n) {
        for (int byte = 0; byte < 4; ++byte) {
          sums[n] += static_cast<uint32_t>(Extend(src1.row[m][4 * k + byte], signed1) *
                                           Extend(src2.row[k][4 * n + byte], signed2));
        }
      }
    }
    std::memcpy(dst->row[m], sums, sizeof(sums));
  }
}

OCTAVO_AVX2 void DotProductAvx2(bool signed1, bool signed2, int rows, int depth, const Tile& src1,
                                const Tile& src2, Tile* dst) {
  Halves right[kMaxRows][2];
  for (int k = 0; k < depth; ++k) {
    const auto* row = reinterpret_cast<const __m256i*>(src2.row[k]);
    right[k][0] = Split(_mm256_load_si256(row), signed2);
    right[k][1] = Split(_mm256_load_si256(row + 1), signed2);
  }
  for (int m = 0; m < rows; ++m) {
    auto* out = reinterpret_cast<__m256i*>(dst->row[m]);
    __m256i low = _mm256_load_si256(out);
    __m256i high = _mm256_load_si256(out + 1);
    for (int k = 0; k < depth; ++k) {
      int32_t dword;
      std::memcpy(&dword, src1.row[m] + 4 * k, sizeof(dword));
      const Halves left = Split(_mm256_set1_epi32(dword), signed1);
      low = Accumulate(low, left, right[k][0]);
      high = Accumulate(high, left, right[k][1]);
    }
    _mm256_store_si256(out, low);
    _mm256_store_si256(out + 1, high);
  }
}

}  // namespace octavo::amx
