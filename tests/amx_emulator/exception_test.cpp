// #UD, #GP and page faults of AMX instructions.
#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "test_amx.h"

namespace octavo::amx_test {
namespace {

using testing::KilledBySignal;

TEST(InvalidOpcodeDeathTest, NotConfigured) {
  Release();
  TileBytes bytes;
  const char* const text = Message("octavo amx emulator: #UD at 0x.*no tiles are configured");
  EXPECT_EXIT(Zero<3>(), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Load<3>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Store<3>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(__asm__ volatile("tdpbusd %tmm2, %tmm1, %tmm0"), KilledBySignal(SIGILL), text);
  LoadConfig(Config::AllFull());
  Release();
  EXPECT_EXIT(Zero<3>(), KilledBySignal(SIGILL), text);
}

TEST(InvalidOpcodeDeathTest, TileLeftOut) {
  LoadConfig(Config::AllFull().Set(3, 0, 0));
  TileBytes bytes;
  const char* const text = Message("tmm3 0x0.*leaves this tile out");
  EXPECT_EXIT(Zero<3>(), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Load<3>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Store<3>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(__asm__ volatile("tdpbusd %tmm2, %tmm3, %tmm0"), KilledBySignal(SIGILL), text);
  Release();
}

TEST(InvalidOpcodeDeathTest, RowBytesNotAMultipleOfFour) {
  LoadConfig(Config::AllFull().Set(0, 4, 6));
  TileBytes bytes;
  Zero<0>();
  const char* const text = Message("tmm0 4x6.*not a multiple of 4");
  EXPECT_EXIT(Load<0>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Store<0>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(__asm__ volatile("tdpbuud %tmm2, %tmm1, %tmm0"), KilledBySignal(SIGILL), text);
  Release();
}

TEST(InvalidOpcodeDeathTest, StartRowNotBelowRows) {
  Config config = Config::AllFull().Set(0, 4, 64);
  config.start_row = 4;
  LoadConfig(config);
  TileBytes bytes;
  const char* const text = Message("start_row is not below rows");
  EXPECT_EXIT(Load<0>(bytes.row, 64), KilledBySignal(SIGILL), text);
  EXPECT_EXIT(Store<0>(bytes.row, 64), KilledBySignal(SIGILL), text);
  Load<1>(bytes.row, 64);
  Load<0>(bytes.row, 64);
  Release();
}

TEST(InvalidOpcodeDeathTest, ShapesThatDoNotFit) {
  LoadConfig(Config::AllFull().Set(1, 15, 64));
  EXPECT_EXIT(__asm__ volatile("tdpbusd %tmm2, %tmm1, %tmm0"), KilledBySignal(SIGILL),
              Message("tdpbusd tmm0 16x64, tmm1 15x64, tmm2 16x64: rows of destination"));
  LoadConfig(Config::AllFull().Set(2, 16, 60));
  EXPECT_EXIT(__asm__ volatile("tdpbssd %tmm2, %tmm1, %tmm0"), KilledBySignal(SIGILL),
              Message("tdpbssd.*colsb of destination and second source differ"));
  LoadConfig(Config::AllFull().Set(2, 15, 64));
  EXPECT_EXIT(__asm__ volatile("tdpbsud %tmm2, %tmm1, %tmm0"), KilledBySignal(SIGILL),
              Message("tdpbsud.*is not rows of the second"));
  Release();
}

TEST(InvalidOpcodeDeathTest, BadOperands) {
  LoadConfig(Config::AllFull());
  const char* const twice = Message("a tile is named twice");
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x73,0x5e,0xca"), KilledBySignal(SIGILL), twice);
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x6b,0x5e,0xca"), KilledBySignal(SIGILL), twice);
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x63,0x5e,0xc9"), KilledBySignal(SIGILL), twice);
  const char* const many = Message("palette 1 has 8 tiles");
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0x62,0x7b,0x49,0xc0"), KilledBySignal(SIGILL), many);
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x23,0x5e,0xca"), KilledBySignal(SIGILL), many);
  // VEX.W, VEX.L, VEX.vvvv, and a tile load without SIB.
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0xf8,0x49,0xc0"), KilledBySignal(SIGILL), "");
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x7c,0x49,0xc0"), KilledBySignal(SIGILL), "");
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x70,0x49,0xc0"), KilledBySignal(SIGILL), "");
  EXPECT_EXIT(__asm__ volatile(".byte 0xc4,0xe2,0x7b,0x4b,0x08"
                               :
                               : "a"(twice)),
              KilledBySignal(SIGILL), "");
  Release();
}

struct BadConfig {
  std::string name;
  Config config;
};

std::vector<BadConfig> BadConfigs() {
  std::vector<BadConfig> bad;
  const auto add = [&](const std::string& name, auto change) {
    Config config = Config::AllFull();
    change(&config);
    bad.push_back({name, config});
  };
  add("palette", [](Config* c) { c->palette = 2; });
  add("palette", [](Config* c) { c->palette = 255; });
  for (int i = 0; i < 14; ++i) add("reserved", [&](Config* c) { c->reserved[i] = 1; });
  for (int i = 8; i < 16; ++i) {
    add("reserved", [&](Config* c) { c->row_bytes[i] = 4; });
    add("reserved", [&](Config* c) { c->rows[i] = 1; });
  }
  for (int i = 0; i < 8; ++i) {
    add("colsb is more", [&](Config* c) { c->row_bytes[i] = 65; });
    add("colsb is more", [&](Config* c) { c->row_bytes[i] = 256; });
    add("rows is more", [&](Config* c) { c->rows[i] = 17; });
    add("one of rows and colsb", [&](Config* c) { c->rows[i] = 0; });
    add("one of rows and colsb", [&](Config* c) { c->row_bytes[i] = 0; });
  }
  return bad;
}

sigjmp_buf g_jump;
volatile greg_t g_fault_rip;
volatile int g_fault_code;

// False if JumpOut cut `code` short.
template <typename Code>
bool RunsToTheEnd(const Code& code) {
  if (sigsetjmp(g_jump, 1) != 0) return false;
  code();
  return true;
}

greg_t g_expected_rip;

void LoadConfigNotingRip(const Config& config) {
  __asm__ volatile(
      "lea 1f(%%rip), %%rax\n\t"
      "mov %%rax, %0\n"
      "1:\tldtilecfg %1"
      : "=m"(g_expected_rip)
      : "m"(config)
      : "rax", "memory");
}

void JumpOut(int, siginfo_t* info, void* context) {
  g_fault_rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  g_fault_code = info->si_code;
  siglongjmp(g_jump, 1);
}

// Installs a handler for the time of a scope.
class WithHandler {
 public:
  WithHandler(int number, void (*handler)(int, siginfo_t*, void*)) : number_(number) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(number, &action, &old_);
  }
  ~WithHandler() { sigaction(number_, &old_, nullptr); }

 private:
  int number_;
  struct sigaction old_;
};

TEST(GeneralProtection, BadConfigurations) {
  const Config good = Config().Set(1, 5, 8);
  LoadConfig(good);
  const WithHandler handler(SIGSEGV, JumpOut);
  for (const BadConfig& bad : BadConfigs()) {
    testing::internal::CaptureStderr();
    const bool loaded = RunsToTheEnd([&] { LoadConfigNotingRip(bad.config); });
    const std::string message = testing::internal::GetCapturedStderr();
    EXPECT_NE(message.find(Message(bad.name.c_str())), std::string::npos) << message;
    EXPECT_FALSE(loaded) << bad.name;
    EXPECT_EQ(g_fault_rip, g_expected_rip) << bad.name;
    EXPECT_EQ(g_fault_code, SI_KERNEL) << bad.name;
    EXPECT_TRUE(StoredConfig() == good) << bad.name;
  }
  Release();
}

TEST(GeneralProtectionDeathTest, EndsTheProgram) {
  Config bad = Config::AllFull();
  bad.palette = 2;
  EXPECT_EXIT(LoadConfig(bad), KilledBySignal(SIGSEGV),
              Message("octavo amx emulator: #GP at 0x.*: ldtilecfg: the palette is neither"));
  const auto ignored = [&] {
    signal(SIGSEGV, SIG_IGN);
    LoadConfig(bad);
  };
  EXPECT_EXIT(ignored(), KilledBySignal(SIGSEGV), "");
  const auto blocked = [&] {
    const WithHandler handler(SIGSEGV, [](int, siginfo_t*, void*) { _exit(3); });
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    sigprocmask(SIG_BLOCK, &segv, nullptr);
    LoadConfig(bad);
  };
  EXPECT_EXIT(blocked(), KilledBySignal(SIGSEGV), "");
}

constexpr size_t kPage = 4096;
uint8_t* g_closed_page;

void OpenPage(int, siginfo_t* info, void*) {
  if (info->si_addr != g_closed_page) _exit(3);
  mprotect(g_closed_page, kPage, PROT_READ | PROT_WRITE);
}

// Two pages of random bytes, the second one closed; six rows of 64 bytes lie on the first, from
// Rows() on.
class PageFault : public testing::Test {
 protected:
  void SetUp() override {
    pages_ = static_cast<uint8_t*>(
        mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(pages_, MAP_FAILED);
    std::mt19937 random(11);
    for (size_t i = 0; i < 2 * kPage; ++i) pages_[i] = static_cast<uint8_t>(random());
    memcpy(expected_.row, Rows(), sizeof(expected_.row));
    g_closed_page = pages_ + kPage;
    Close();
    LoadConfig(Config::AllFull());
  }
  void TearDown() override {
    Release();
    munmap(pages_, 2 * kPage);
  }
  void Close() { ASSERT_EQ(mprotect(g_closed_page, kPage, PROT_NONE), 0); }
  uint8_t* Rows() { return pages_ + kPage - 6 * 64; }

  uint8_t* pages_;
  TileBytes expected_;
};

TEST_F(PageFault, HandlerThatMendsIt) {
  const WithHandler handler(SIGSEGV, OpenPage);
  Load<4>(Rows(), 64);
  TileBytes stored;
  Store<4>(stored.row, 64);
  EXPECT_TRUE(stored == expected_);
  Zero<4>();
  Close();
  Store<4>(Rows(), 64);
  EXPECT_EQ(memcmp(Rows(), TileBytes().row, sizeof(TileBytes::row)), 0);
}

TEST_F(PageFault, InstructionRestartsAtItsRow) {
  {
    const WithHandler handler(SIGSEGV, JumpOut);
    EXPECT_FALSE(RunsToTheEnd([&] { Load<4>(Rows(), 64); }));
  }
  EXPECT_EQ(StoredConfig().start_row, 6);
  ASSERT_EQ(mprotect(g_closed_page, kPage, PROT_READ | PROT_WRITE), 0);
  memset(Rows(), 0, 6 * 64);  // not read again
  Load<4>(Rows(), 64);
  EXPECT_EQ(StoredConfig().start_row, 0);
  TileBytes stored;
  Store<4>(stored.row, 64);
  EXPECT_TRUE(stored == expected_);
}

using PageFaultDeathTest = PageFault;

TEST_F(PageFaultDeathTest, EndsTheProgram) {
  EXPECT_EXIT(Load<4>(Rows(), 64), KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(Store<4>(Rows(), 64), KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(LoadConfig(*reinterpret_cast<const Config*>(g_closed_page - 32)),
              KilledBySignal(SIGSEGV), "");
}

}  // namespace
}  // namespace octavo::amx_test
