// The arithmetic of TDPBSSD, TDPBSUD, TDPBUSD and TDPBUUD on whole tiles.
#pragma once

#include <cstdint>

namespace octavo::amx {

constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

struct alignas(64) Tile {
  uint8_t row[kMaxRows][kMaxRowBytes];
};

// dst[m][n] += sum of the four byte products of src1[m][k] and src2[k][n] over k < depth, modulo
// 2^32, for all m < rows and all 16 dword columns n.
void DotProductPortable(bool signed1, bool signed2, int rows, int depth, const Tile& src1,
                        const Tile& src2, Tile* dst);
// The same, several times faster.
void DotProductAvx2(bool signed1, bool signed2, int rows, int depth, const Tile& src1,
                    const Tile& src2, Tile* dst);

}  // namespace octavo::amx
