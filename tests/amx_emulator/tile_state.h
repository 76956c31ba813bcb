// What AMX-TILE and AMX-INT8 instructions do to the architectural state of one thread: the
// operation and exception sections of the Intel SDM, volume 2 (LDTILECFG to TILEZERO, "Intel AMX
// Instruction Exception Classes"), for palette 1. No signals and no decoding here.
#pragma once

#include <cstdint>

#include "dot_product.h"

namespace octavo::amx {

constexpr int kTiles = 8;
constexpr int kConfigBytes = 64;

enum class Exception : uint8_t {
  kNone,
  kInvalidOpcode,      // #UD, which Linux delivers as SIGILL
  kGeneralProtection,  // #GP, which Linux delivers as SIGSEGV
};

struct Outcome {
  Exception exception = Exception::kNone;
  const char* reason = "";  // static storage
};

// Where the rows of a tile lie in memory. Arithmetic wraps as it does in the processor.
struct TileMemory {
  uint64_t segment_base;
  uint64_t begin;
  uint64_t stride;
  uint64_t mask;  // all ones, or the low 32 bits under an address-size prefix

  uint8_t* Row(int row) const {
    const uint64_t offset = (begin + static_cast<uint64_t>(row) * stride) & mask;
    return reinterpret_cast<uint8_t*>(segment_base + offset);
  }
};

struct TileShape {
  uint8_t rows = 0;
  uint16_t row_bytes = 0;  // colsb
};

// Zero-initialized is the INIT state. Memory is accessed directly: a page fault is the caller's
// page fault, with start_row left at the row that faulted.
class TileState {
 public:
  // Reads 64 bytes. The state is unchanged if the outcome is an exception.
  Outcome LoadConfig(const uint8_t* memory);
  // Writes 64 bytes; zeros while no tiles are configured.
  void StoreConfig(uint8_t* memory) const;
  void Release();

  // Tile numbers are 0..15, as instructions can encode them; 8..15 end in #UD.
  Outcome Zero(int tile);
  Outcome Load(int tile, const TileMemory& memory);
  Outcome Store(int tile, const TileMemory& memory);
  // dst[m][n] += sum over k and four bytes of src1[m][k] * src2[k][n], modulo 2^32.
  Outcome DotProduct(bool signed1, bool signed2, int dst, int src1, int src2);

  TileShape shape(int tile) const { return tile < kTiles ? shapes_[tile] : TileShape{}; }
  int start_row() const { return start_row_; }
  // All 64 bytes of a row, those outside the configured shape included.
  const uint8_t* row(int tile, int row) const { return tiles_[tile].row[row]; }

 private:
  Outcome CheckTile(int tile) const;
  Outcome CheckTransfer(int tile) const;
  Outcome CheckDotProduct(int dst, int src1, int src2) const;

  Tile tiles_[kTiles] = {};
  TileShape shapes_[kTiles] = {};
  uint8_t palette_ = 0;  // 0: not configured
  uint8_t start_row_ = 0;
};

}  // namespace octavo::amx
