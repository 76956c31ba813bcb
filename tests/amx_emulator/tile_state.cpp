#include "tile_state.h"

#include <cstring>

namespace octavo::amx {
namespace {

// Byte offsets in the memory operand of LDTILECFG and STTILECFG.
constexpr int kPaletteAt = 0;
constexpr int kStartRowAt = 1;
constexpr int kReservedAt = 2;
constexpr int kRowBytesAt = 16;
constexpr int kRowBytesEnd = kRowBytesAt + 2 * kTiles;
constexpr int kRowsAt = 48;
constexpr int kRowsEnd = kRowsAt + kTiles;

Outcome InvalidOpcode(const char* reason) { return {Exception::kInvalidOpcode, reason}; }
Outcome GeneralProtection(const char* reason) { return {Exception::kGeneralProtection, reason}; }

bool AnyNonzero(const uint8_t* bytes, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (bytes[i] != 0) return true;
  }
  return false;
}

}  // namespace

Outcome TileState::LoadConfig(const uint8_t* memory) {
  uint8_t config[kConfigBytes];
  std::memcpy(config, memory, kConfigBytes);
  const uint8_t palette = config[kPaletteAt];
  if (palette > 1) return GeneralProtection("the palette is neither 0 nor 1");
  if (palette == 0) {
    Release();
    return {};
  }
  if (AnyNonzero(config, kReservedAt, kRowBytesAt) || AnyNonzero(config, kRowBytesEnd, kRowsAt) ||
      AnyNonzero(config, kRowsEnd, kConfigBytes)) {
    return GeneralProtection("a reserved byte of the configuration is not zero");
  }
  TileShape shapes[kTiles];
  for (int tile = 0; tile < kTiles; ++tile) {
    std::memcpy(&shapes[tile].row_bytes, config + kRowBytesAt + 2 * tile, 2);
    shapes[tile].rows = config[kRowsAt + tile];
    if (shapes[tile].row_bytes > kMaxRowBytes) return GeneralProtection("colsb is more than 64");
    if (shapes[tile].rows > kMaxRows) return GeneralProtection("rows is more than 16");
    if ((shapes[tile].rows == 0) != (shapes[tile].row_bytes == 0)) {
      return GeneralProtection("one of rows and colsb is zero and the other is not");
    }
  }
  Release();
  palette_ = palette;
  start_row_ = config[kStartRowAt];
  std::memcpy(shapes_, shapes, sizeof(shapes));
  return {};
}

void TileState::StoreConfig(uint8_t* memory) const {
  uint8_t config[kConfigBytes] = {};
  config[kPaletteAt] = palette_;
  config[kStartRowAt] = start_row_;
  for (int tile = 0; tile < kTiles; ++tile) {
    std::memcpy(config + kRowBytesAt + 2 * tile, &shapes_[tile].row_bytes, 2);
    config[kRowsAt + tile] = shapes_[tile].rows;
  }
  std::memcpy(memory, config, kConfigBytes);
}

void TileState::Release() {
  std::memset(tiles_, 0, sizeof(tiles_));
  for (TileShape& shape : shapes_) shape = {};
  palette_ = 0;
  start_row_ = 0;
}

Outcome TileState::CheckTile(int tile) const {
  if (palette_ == 0) return InvalidOpcode("no tiles are configured on this thread");
  if (tile >= kTiles) return InvalidOpcode("palette 1 has 8 tiles");
  if (shapes_[tile].rows == 0) return InvalidOpcode("the configuration leaves this tile out");
  return {};
}

Outcome TileState::CheckTransfer(int tile) const {
  const Outcome outcome = CheckTile(tile);
  if (outcome.exception != Exception::kNone) return outcome;
  if (shapes_[tile].row_bytes % 4 != 0) return InvalidOpcode("colsb is not a multiple of 4");
  if (start_row_ >= shapes_[tile].rows) return InvalidOpcode("start_row is not below rows");
  return {};
}

Outcome TileState::CheckDotProduct(int dst, int src1, int src2) const {
  if (dst == src1 || dst == src2 || src1 == src2) return InvalidOpcode("a tile is named twice");
  const int tiles[] = {dst, src1, src2};
  for (const int tile : tiles) {
    const Outcome outcome = CheckTile(tile);
    if (outcome.exception != Exception::kNone) return outcome;
    if (shapes_[tile].row_bytes % 4 != 0) return InvalidOpcode("colsb is not a multiple of 4");
  }
  if (shapes_[dst].row_bytes != shapes_[src2].row_bytes) {
    return InvalidOpcode("colsb of destination and second source differ");
  }
  if (shapes_[dst].rows != shapes_[src1].rows) {
    return InvalidOpcode("rows of destination and first source differ");
  }
  if (shapes_[src1].row_bytes / 4 != shapes_[src2].rows) {
    return InvalidOpcode("colsb / 4 of the first source is not rows of the second");
  }
  return {};
}

Outcome TileState::Zero(int tile) {
  const Outcome outcome = CheckTile(tile);
  if (outcome.exception != Exception::kNone) return outcome;
  tiles_[tile] = {};
  start_row_ = 0;
  return {};
}

Outcome TileState::Load(int tile, const TileMemory& memory) {
  const Outcome outcome = CheckTransfer(tile);
  if (outcome.exception != Exception::kNone) return outcome;
  const TileShape shape = shapes_[tile];
  const int first = start_row_;
  std::memset(tiles_[tile].row[first], 0, static_cast<size_t>(kMaxRows - first) * kMaxRowBytes);
  for (int row = first; row < shape.rows; ++row) {
    start_row_ = static_cast<uint8_t>(row);
    std::memcpy(tiles_[tile].row[row], memory.Row(row), shape.row_bytes);
  }
  start_row_ = 0;
  return {};
}

Outcome TileState::Store(int tile, const TileMemory& memory) {
  const Outcome outcome = CheckTransfer(tile);
  if (outcome.exception != Exception::kNone) return outcome;
  const TileShape shape = shapes_[tile];
  for (int row = start_row_; row < shape.rows; ++row) {
    start_row_ = static_cast<uint8_t>(row);
    std::memcpy(memory.Row(row), tiles_[tile].row[row], shape.row_bytes);
  }
  start_row_ = 0;
  return {};
}

// What lies outside the shape of a tile is zero: every instruction that writes a tile sees to it.
// So the products may run over whole rows, and they leave the rest of the destination zero.
Outcome TileState::DotProduct(bool signed1, bool signed2, int dst, int src1, int src2) {
  const Outcome outcome = CheckDotProduct(dst, src1, src2);
  if (outcome.exception != Exception::kNone) return outcome;
  const auto product = __builtin_cpu_supports("avx2") ? DotProductAvx2 : DotProductPortable;
  product(signed1, signed2, shapes_[dst].rows, shapes_[src2].rows, tiles_[src1], tiles_[src2],
          &tiles_[dst]);
  start_row_ = 0;
  return {};
}

}  // namespace octavo::amx
