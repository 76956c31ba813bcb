// Instructions as compiled code runs them. On a CPU with AMX the same tests run on the CPU itself,
// and so hold the emulator's idea of AMX against the real one.
#include <asm/prctl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <barrier>
#include <cstdio>
#include <thread>
#include <vector>

#include "test_amx.h"
#include "test_forms.h"

namespace octavo::amx_test {
namespace {

TEST(Config, RoundTripAndRelease) {
  Release();
  const Config none = [] {
    Config config;
    config.palette = 0;
    return config;
  }();
  EXPECT_TRUE(StoredConfig() == none);
  const Config config = Config().Set(0, 16, 64).Set(1, 3, 20).Set(6, 1, 4).Set(7, 9, 61);
  LoadConfig(config);
  EXPECT_TRUE(StoredConfig() == config);
  Config with_start_row = config;
  with_start_row.start_row = 2;
  LoadConfig(with_start_row);
  EXPECT_TRUE(StoredConfig() == with_start_row);
  Zero<6>();
  EXPECT_EQ(StoredConfig().start_row, 0);
  LoadConfig(none);
  EXPECT_TRUE(StoredConfig() == none);
  LoadConfig(config);
  Release();
  EXPECT_TRUE(StoredConfig() == none);
}

TEST(Config, LoadingZeroesTheTiles) {
  std::mt19937 random(1);
  LoadConfig(Config::AllFull());
  for (int tile = 0; tile < 8; ++tile) LoadTile(tile, RandomTile(&random).row, 64);
  LoadConfig(Config::AllFull());
  for (int tile = 0; tile < 8; ++tile) {
    TileBytes stored = RandomTile(&random);
    StoreTile(tile, stored.row, 64);
    EXPECT_TRUE(stored == TileBytes());
  }
}

// Memory around one operand, with room for a signal frame below it where the operand's base is rsp.
class Arena {
 public:
  static constexpr size_t kBytes = 1 << 17, kBelow = 1 << 16;
  static constexpr size_t kWindow =
      16 * 1024;  // what instructions under test may touch, from `operand` on

  explicit Arena(uint64_t fixed_address = 0) {
    bytes_ = static_cast<uint8_t*>(
        mmap(reinterpret_cast<void*>(fixed_address), kBytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | (fixed_address ? MAP_FIXED_NOREPLACE : 0), -1, 0));
    if (bytes_ == MAP_FAILED) abort();
    std::mt19937 random(5);
    for (size_t i = 0; i < kBytes; ++i) bytes_[i] = static_cast<uint8_t>(random());
  }
  ~Arena() { munmap(bytes_, kBytes); }
  uint8_t* operand() { return bytes_ + kBelow; }
  uint8_t* bytes() { return bytes_; }

 private:
  uint8_t* bytes_;
};

constexpr int kRsp = 4;
constexpr uint64_t kIndexValue = 72;

// Runs the form on `operand` with every other register poisoned, and checks that registers keep
// their values. False: the form cannot reach the operand from any register values, or lies below
// what a signal frame spares.
bool RunForm(const MemoryForm& form, uint64_t operand, uint64_t spare_stack) {
  const bool is_config = form.kind == FormKind::kLdTileCfg || form.kind == FormKind::kStTileCfg;
  if (form.base == form.index && form.base >= 0) return false;
  if (form.base == kRsp && form.displacement < -128) return false;
  for (int i = 0; i < 16; ++i) {
    octavo_test_in[i] = 0xdead000000000000 + 0x0101010101 * static_cast<uint64_t>(i);
  }
  octavo_test_in[kRsp] = spare_stack;
  if (form.index >= 0) octavo_test_in[form.index] = kIndexValue;
  if (form.base >= 0) {
    octavo_test_in[form.base] = operand - static_cast<uint64_t>(int64_t{form.displacement});
    if (is_config && form.index >= 0) octavo_test_in[form.base] -= kIndexValue * form.scale;
  }
  octavo_test_code = form.code;
  octavo_test_run_form();
  EXPECT_EQ(memcmp(octavo_test_in, octavo_test_out, sizeof(octavo_test_in)), 0);
  return true;
}

TEST(Addressing, EveryForm) {
  Arena arena;
  Arena low(0x20000000 + 0x40 - Arena::kBelow - 0x40);
  ASSERT_EQ(reinterpret_cast<uint64_t>(low.operand()) + 0x40, kBaselessAddress);
  std::vector<uint8_t> scratch_stack(1 << 16);
  const uint64_t spare_stack =
      reinterpret_cast<uint64_t>(scratch_stack.data() + scratch_stack.size()) & ~uint64_t{63};
  std::mt19937 random(6);
  int ran = 0;
  for (const MemoryForm* form = octavo_test_memory_forms; form < octavo_test_memory_forms_end;
       ++form) {
    SCOPED_TRACE(form - octavo_test_memory_forms);
    uint8_t* const operand = form->base < 0 ? low.operand() + 0x40 : arena.operand();
    const uint64_t address = reinterpret_cast<uint64_t>(operand);
    const uint64_t stride = form->index < 0 ? 0 : kIndexValue * form->scale;
    std::vector<uint8_t> expected_window(operand - 64, operand + Arena::kWindow);
    uint8_t* const expected = expected_window.data() + 64;
    switch (form->kind) {
      case FormKind::kLdTileCfg: {
        Config config = Config::AllFull();
        config.Set(static_cast<int>(random() % 8), 1 + static_cast<int>(random() % 16),
                   1 + static_cast<int>(random() % 64));
        memcpy(operand, &config, 64);
        memcpy(expected, &config, 64);
        if (!RunForm(*form, address, spare_stack)) continue;
        ASSERT_TRUE(StoredConfig() == config);
        break;
      }
      case FormKind::kStTileCfg: {
        const Config config = Config::AllFull().Set(3, 1 + static_cast<int>(random() % 16), 24);
        LoadConfig(config);
        if (!RunForm(*form, address, spare_stack)) continue;
        memcpy(expected, &config, 64);
        break;
      }
      case FormKind::kTileLoadD:
      case FormKind::kTileLoadDT1: {
        LoadConfig(Config::AllFull());
        if (!RunForm(*form, address, spare_stack)) continue;
        TileBytes loaded, want;
        StoreTile(form->tile, loaded.row, 64);
        for (int row = 0; row < 16; ++row) {
          memcpy(want.row[row], operand + static_cast<uint64_t>(row) * stride, 64);
        }
        ASSERT_TRUE(loaded == want);
        break;
      }
      case FormKind::kTileStoreD: {
        LoadConfig(Config::AllFull());
        const TileBytes tile = RandomTile(&random);
        LoadTile(form->tile, tile.row, 64);
        if (!RunForm(*form, address, spare_stack)) continue;
        for (int row = 0; row < 16; ++row) {
          memcpy(expected + static_cast<uint64_t>(row) * stride, tile.row[row], 64);
        }
        break;
      }
    }
    ++ran;
    const size_t skipped = form->base == kRsp ? 64 : 0;  // lies in what signal frames may overwrite
    ASSERT_EQ(memcmp(operand - 64 + skipped, expected_window.data() + skipped,
                     expected_window.size() - skipped),
              0);
  }
  EXPECT_GT(ran, 5500);
  Release();
}

TEST(Addressing, NegativeStride) {
  std::mt19937 random(7);
  const TileBytes bytes = RandomTile(&random);
  LoadConfig(Config::AllFull());
  Load<2>(bytes.row[15], -64);
  TileBytes stored;
  Store<2>(stored.row[15], -64);
  EXPECT_TRUE(stored == bytes);
  Store<2>(stored.row, 64);
  EXPECT_EQ(memcmp(stored.row[0], bytes.row[15], 64), 0);
  EXPECT_EQ(memcmp(stored.row[15], bytes.row[0], 64), 0);
  Release();
}

TEST(Addressing, InstructionPointer) {
  static Config config __attribute__((used)) = Config::AllFull();
  static Config stored;
  config.Set(4, 7, 28);
  __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  __asm__ volatile("sttilecfg %0" : "=m"(stored) : : "memory");
  EXPECT_TRUE(stored == config);
}

TEST(Addressing, SegmentAndAddressSizePrefixes) {
  static thread_local Config config;
  config = Config::AllFull().Set(5, 3, 12);
  uint64_t fs = 0;
  ASSERT_EQ(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs), 0);
  const uint64_t offset = reinterpret_cast<uint64_t>(&config) - fs;
  __asm__ volatile("ldtilecfg %%fs:(%0)" : : "r"(offset) : "memory");
  EXPECT_TRUE(StoredConfig() == config);

  Arena low(0x20000000);
  LoadConfig(Config::AllFull());
  TileBytes loaded;
  // The upper halves of the registers do not count; nor does a carry out of 32 bits.
  const uint64_t begin = 0xdeadbeef00000000 | (reinterpret_cast<uint64_t>(low.operand()) + 64 * 15);
  const uint64_t stride = 0x12345678ffffffc0;
  __asm__ volatile(".byte 0x67\n\ttileloadd (%0,%1,1), %%tmm1"
                   :
                   : "r"(begin), "r"(stride)
                   : "memory");
  Store<1>(loaded.row[15], -64);
  EXPECT_EQ(memcmp(loaded.row, low.operand(), sizeof(loaded.row)), 0);
  Release();
}

TEST(Transfer, EveryShape) {
  std::mt19937 random(8);
  for (int rows = 1; rows <= 16; ++rows) {
    for (int row_bytes = 4; row_bytes <= 64; row_bytes += 4) {
      LoadConfig(Config().Set(0, rows, row_bytes));
      const TileBytes bytes = RandomTile(&random);
      Load<0>(bytes.row, 64);
      TileBytes stored = RandomTile(&random), expected = stored;
      Store<0>(stored.row, 64);
      for (int row = 0; row < rows; ++row)
        memcpy(expected.row[row], bytes.row[row], static_cast<size_t>(row_bytes));
      ASSERT_TRUE(stored == expected) << rows << "x" << row_bytes;
    }
  }
  Release();
}

TEST(Transfer, TouchesNoByteOutsideTheRows) {
  const size_t page = 4096;
  auto* const pages = static_cast<uint8_t*>(
      mmap(nullptr, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(mprotect(pages, page, PROT_NONE), 0);
  ASSERT_EQ(mprotect(pages + 2 * page, page, PROT_NONE), 0);
  for (int rows : {1, 3, 16}) {
    for (int row_bytes : {4, 60, 64}) {
      LoadConfig(Config().Set(0, rows, row_bytes));
      uint8_t* const at_end = pages + 2 * page - rows * row_bytes;
      Load<0>(at_end, row_bytes);
      Store<0>(at_end, row_bytes);
      Load<0>(pages + page, row_bytes);
      Store<0>(pages + page, row_bytes);
    }
  }
  munmap(pages, 3 * page);
  Release();
}

void FillCorners(std::mt19937* random, TileBytes* tile) {
  constexpr uint8_t kCorners[] = {0, 1, 127, 128, 255};
  for (auto& row : tile->row) {
    for (uint8_t& byte : row) byte = kCorners[(*random)() % 5];
  }
}

TEST(DotProduct, EveryRegisterCombination) {
  std::mt19937 random(9);
  TileBytes tiles[8];
  for (TileBytes& tile : tiles) tile = RandomTile(&random);
  LoadConfig(Config::AllFull());
  for (int tile = 0; tile < 8; ++tile) LoadTile(tile, tiles[tile].row, 64);
  for (const DotProductForm* form = octavo_test_dot_forms; form < octavo_test_dot_forms_end;
       ++form) {
    form->code();
    ReferenceDotProduct(form->signed1, form->signed2, 16, 16, 16, tiles[form->src1],
                        tiles[form->src2], &tiles[form->dst]);
    for (int tile = 0; tile < 8; ++tile) {
      if (tile != form->dst && (form - octavo_test_dot_forms) % 16 != 0) continue;
      TileBytes stored;
      StoreTile(tile, stored.row, 64);
      ASSERT_TRUE(stored == tiles[tile]) << "form " << form - octavo_test_dot_forms;
    }
  }
  Release();
}

TEST(DotProduct, EveryShape) {
  std::mt19937 random(10);
  for (int m = 1; m <= 16; ++m) {
    for (int n = 1; n <= 16; ++n) {
      for (int k = 1; k <= 16; ++k) {
        // The first four forms have dst 0, src1 1, src2 2: one of each signedness.
        const DotProductForm& form = octavo_test_dot_forms[(m + n + k) % 4];
        ASSERT_EQ(form.dst * 100 + form.src1 * 10 + form.src2, 12);
        TileBytes a = RandomTile(&random), b = RandomTile(&random), c = RandomTile(&random);
        if (k % 2) {
          FillCorners(&random, &a);
          FillCorners(&random, &b);
        }
        LoadConfig(Config().Set(0, m, 4 * n).Set(1, m, 4 * k).Set(2, k, 4 * n));
        Load<0>(c.row, 64);
        Load<1>(a.row, 64);
        Load<2>(b.row, 64);
        form.code();
        ReferenceDotProduct(form.signed1, form.signed2, m, n, k, a, b, &c);
        TileBytes stored = c;
        for (int row = 0; row < m; ++row) memset(stored.row[row], 0xcc, static_cast<size_t>(4 * n));
        Store<0>(stored.row, 64);
        ASSERT_TRUE(stored == c) << m << "x" << n << "x" << k;
      }
    }
  }
  Release();
}

TEST(DotProduct, ExtremesOfEverySignedness) {
  constexpr uint8_t kExtremes[] = {0x00, 0x7f, 0x80, 0xff};
  constexpr uint32_t kStarts[] = {0, 0x7fffffff, 0x80000000, 0xffffffff};
  LoadConfig(Config::AllFull());
  for (int which = 0; which < 4; ++which) {
    const DotProductForm& form = octavo_test_dot_forms[which];
    for (const uint8_t left : kExtremes) {
      for (const uint8_t right : kExtremes) {
        for (const uint32_t start : kStarts) {
          TileBytes a, b, c;
          memset(a.row, left, sizeof(a.row));
          memset(b.row, right, sizeof(b.row));
          for (int i = 0; i < 256; ++i) memcpy(&c.row[i / 16][4 * (i % 16)], &start, 4);
          Load<0>(c.row, 64);
          Load<1>(a.row, 64);
          Load<2>(b.row, 64);
          form.code();
          ReferenceDotProduct(form.signed1, form.signed2, 16, 16, 16, a, b, &c);
          TileBytes stored;
          Store<0>(stored.row, 64);
          ASSERT_TRUE(stored == c) << which << " " << +left << " " << +right << " " << start;
        }
      }
    }
  }
  Release();
}

// Every thread works with a shape of its own, in lockstep with the others, and finds its tiles as
// it left them.
TEST(Threads, HaveTilesOfTheirOwn) {
  constexpr int kThreads = 4, kRounds = 50;
  std::barrier<> in_step(kThreads);
  bool equal[kThreads] = {};
  const auto work = [&](int id) {
    std::mt19937 random(static_cast<unsigned>(100 + id));
    const int m = 16 - id, n = 3 + 4 * id, k = 16 - 5 * id;
    const Config config = Config().Set(0, m, 4 * n).Set(1, m, 4 * k).Set(2, k, 4 * n);
    bool ok = StoredConfig().palette == 0;  // a new thread is not configured
    LoadConfig(config);
    TileBytes c;
    for (int round = 0; round < kRounds; ++round) {
      const TileBytes a = RandomTile(&random), b = RandomTile(&random);
      in_step.arrive_and_wait();
      Load<1>(a.row, 64);
      Load<2>(b.row, 64);
      in_step.arrive_and_wait();
      octavo_test_dot_forms[0].code();
      ReferenceDotProduct(true, true, m, n, k, a, b, &c);
      in_step.arrive_and_wait();
      if (id == 0 && round == kRounds / 2) LoadConfig(config), c = {};
      TileBytes stored;
      Store<0>(stored.row, 64);
      ok = ok && stored == c && StoredConfig() == config;
    }
    Release();
    equal[id] = ok;
  };
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) threads.emplace_back(work, id);
  for (std::thread& thread : threads) thread.join();
  for (int id = 0; id < kThreads; ++id) EXPECT_TRUE(equal[id]) << "thread " << id;
}

TEST(Context, VectorRegistersFlagsAndErrnoSurvive) {
  LoadConfig(Config::AllFull());
  errno = 1234;
  alignas(32) uint8_t before[32], after[32];
  for (int i = 0; i < 32; ++i) before[i] = static_cast<uint8_t>(7 * i + 1);
  uint8_t carry = 0, zero = 0;
  if (__builtin_cpu_supports("avx")) {
    __asm__ volatile(
        "vmovdqa %4, %%ymm7\n\t"
        "xor %%eax, %%eax\n\t"
        "stc\n\t"
        "tilezero %%tmm1\n\t"
        "setc %1\n\t"
        "setz %2\n\t"
        "tdpbssd %%tmm3, %%tmm2, %%tmm1\n\t"
        "vmovdqa %%ymm7, %0\n\t"
        "vzeroupper"
        : "=m"(after), "=r"(carry), "=r"(zero), "+m"(errno)
        : "m"(before)
        : "eax", "cc", "memory", "xmm7");
    EXPECT_EQ(memcmp(before, after, 32), 0);
    EXPECT_EQ(carry, 1);
    EXPECT_EQ(zero, 1);
  }
  EXPECT_EQ(errno, 1234);
  Release();
}

TEST(Context, CountsInstructions) {
  if (!Emulated())
    GTEST_SKIP() << "needs the AMX instruction emulator, and this CPU has amx_int8 itself";
  const uint64_t before = octavo_emulated_instruction_count();
  LoadConfig(Config::AllFull());
  __asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilerelease" : : : "memory");
  EXPECT_EQ(octavo_emulated_instruction_count() - before, 4u);
}

}  // namespace
}  // namespace octavo::amx_test

// Under sanitizers too, the tests expect what the kernel does with a SIGSEGV.
extern "C" const char* __asan_default_options() { return "handle_segv=0"; }
extern "C" const char* __tsan_default_options() { return "handle_segv=0"; }

// Linux lets a process use tiles after it asked for them.
static bool AskForTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (octavo::amx_test::Emulated()) {
    printf("AMX instructions are emulated\n");
  } else if (AskForTiles()) {
    printf("AMX instructions run on the CPU\n");
  } else {
    fprintf(stderr, "AMX is neither emulated nor available; is OCTAVO_AMX_EMULATOR=off set?\n");
    return 1;
  }
  return RUN_ALL_TESTS();
}
