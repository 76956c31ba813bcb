// Moves weights between the plain order and the order of packed panels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// One tap of one panel. Plain: `columns` rows of k bytes, `pitch` bytes apart. Packed: [ceil(k /
// kr)][width][kr], zeros past k and past the columns.
struct PanelTap {
  int32_t columns;
  int32_t width;  // >= columns
  int32_t k;
  int32_t kr;
  ptrdiff_t pitch;
};

// Writes all of `packed`, zeros included, and adds the sum of each column to sums[column]; `sums`
// may be null.
void pack_tap(const PanelTap& tap, const int8_t* plain, int8_t* packed, int32_t* sums);

// Writes the k bytes of each row of `plain`.
void unpack_tap(const PanelTap& tap, const int8_t* packed, int8_t* plain);

}  // namespace octavo
