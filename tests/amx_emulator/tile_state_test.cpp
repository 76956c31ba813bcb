// What no instruction can show: the parts of a tile outside its shape, and both forms of the
// arithmetic.
#include "tile_state.h"

#include <gtest/gtest.h>

#include <memory>

#include "test_amx.h"

namespace octavo::amx_test {
namespace {

using amx::Exception;
using amx::TileMemory;
using amx::TileState;

TileMemory MemoryOf(const TileBytes& bytes) {
  return {0, reinterpret_cast<uint64_t>(bytes.row), 64, ~uint64_t{0}};
}

const uint8_t* BytesOf(const Config& config) { return reinterpret_cast<const uint8_t*>(&config); }

// Compares all 1024 bytes: `expected` inside rows x row_bytes, zero outside.
void ExpectTile(const TileState& state, int tile, int rows, int row_bytes,
                const TileBytes& expected) {
  for (int row = 0; row < 16; ++row) {
    for (int byte = 0; byte < 64; ++byte) {
      const int want = row < rows && byte < row_bytes ? expected.row[row][byte] : 0;
      ASSERT_EQ(state.row(tile, row)[byte], want) << "row " << row << " byte " << byte;
    }
  }
}

TEST(TileState, OutsideTheShapeIsZero) {
  std::mt19937 random(1);
  const auto state = std::make_unique<TileState>();
  TileBytes a = RandomTile(&random), b = RandomTile(&random), c = RandomTile(&random);
  for (int m : {1, 5, 16}) {
    for (int n : {1, 7, 16}) {
      for (int k : {1, 3, 16}) {
        const Config config = Config().Set(0, m, 4 * n).Set(1, m, 4 * k).Set(2, k, 4 * n);
        ASSERT_EQ(state->LoadConfig(BytesOf(config)).exception, Exception::kNone);
        for (int tile = 0; tile < 8; ++tile) ExpectTile(*state, tile, 0, 0, a);
        ASSERT_EQ(state->Load(0, MemoryOf(c)).exception, Exception::kNone);
        ASSERT_EQ(state->Load(1, MemoryOf(a)).exception, Exception::kNone);
        ASSERT_EQ(state->Load(2, MemoryOf(b)).exception, Exception::kNone);
        ExpectTile(*state, 0, m, 4 * n, c);
        ExpectTile(*state, 1, m, 4 * k, a);
        ExpectTile(*state, 2, k, 4 * n, b);
        ASSERT_EQ(state->DotProduct(false, true, 0, 1, 2).exception, Exception::kNone);
        TileBytes expected = c;
        ReferenceDotProduct(false, true, m, n, k, a, b, &expected);
        ExpectTile(*state, 0, m, 4 * n, expected);
        ASSERT_EQ(state->Zero(0).exception, Exception::kNone);
        ExpectTile(*state, 0, 0, 0, a);
        ExpectTile(*state, 1, m, 4 * k, a);
      }
    }
  }
}

TEST(TileState, PartialLoadKeepsTheRowsBeforeStartRow) {
  std::mt19937 random(2);
  const auto state = std::make_unique<TileState>();
  const TileBytes bytes = RandomTile(&random);
  Config config = Config::AllFull();
  config.start_row = 5;
  ASSERT_EQ(state->LoadConfig(BytesOf(config)).exception, Exception::kNone);
  ASSERT_EQ(state->Load(3, MemoryOf(bytes)).exception, Exception::kNone);
  TileBytes expected = bytes;
  memset(expected.row, 0, 5 * 64);
  ExpectTile(*state, 3, 16, 64, expected);
  EXPECT_EQ(state->start_row(), 0);
}

TEST(TileState, BadConfigurationChangesNothing) {
  std::mt19937 random(3);
  const auto state = std::make_unique<TileState>();
  const TileBytes bytes = RandomTile(&random);
  const Config good = Config::AllFull();
  ASSERT_EQ(state->LoadConfig(BytesOf(good)).exception, Exception::kNone);
  ASSERT_EQ(state->Load(0, MemoryOf(bytes)).exception, Exception::kNone);
  Config bad = good;
  bad.Set(7, 17, 64);
  ASSERT_EQ(state->LoadConfig(BytesOf(bad)).exception, Exception::kGeneralProtection);
  ExpectTile(*state, 0, 16, 64, bytes);
  Config stored;
  state->StoreConfig(reinterpret_cast<uint8_t*>(&stored));
  EXPECT_TRUE(stored == good);
}

TEST(DotProduct, BothFormsAgree) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "needs avx2, which this CPU lacks";
  std::mt19937 random(4);
  constexpr uint8_t kCorners[] = {0, 1, 127, 128, 255};
  for (int round = 0; round < 400; ++round) {
    amx::Tile a, b, c;
    for (amx::Tile* tile : {&a, &b, &c}) {
      for (auto& row : tile->row) {
        for (uint8_t& byte : row) {
          byte = round % 2 ? static_cast<uint8_t>(random()) : kCorners[random() % 5];
        }
      }
    }
    const bool signed1 = random() % 2, signed2 = random() % 2;
    const int rows = 1 + static_cast<int>(random() % 16),
              depth = 1 + static_cast<int>(random() % 16);
    amx::Tile portable = c, avx2 = c;
    amx::DotProductPortable(signed1, signed2, rows, depth, a, b, &portable);
    amx::DotProductAvx2(signed1, signed2, rows, depth, a, b, &avx2);
    ASSERT_EQ(memcmp(&portable, &avx2, sizeof(portable)), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace octavo::amx_test
