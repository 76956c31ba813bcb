// The program's own SIGILL action beside the emulator: it is called for what is not AMX, and
// displaces nothing.
#include <errno.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <thread>

#include "test_amx.h"

namespace octavo::amx_test {
namespace {

using testing::KilledBySignal;

volatile int g_calls;
siginfo_t g_info;
volatile greg_t g_rip;
sigset_t g_mask_inside;

void Count(int) { g_calls = g_calls + 1; }

// Records its circumstances and steps over the instruction, which is two or five bytes long.
template <int kLength>
void StepOver(int, siginfo_t* info, void* context) {
  greg_t& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  g_calls = g_calls + 1;
  g_info = *info;
  g_rip = rip;
  pthread_sigmask(SIG_BLOCK, nullptr, &g_mask_inside);
  rip += kLength;
}

void Ud2() { __asm__ volatile("ud2" : : : "memory"); }

void ExpectAmxWorks() {
  const Config config = Config().Set(2, 3, 4);
  LoadConfig(config);
  EXPECT_TRUE(StoredConfig() == config);
  Release();
}

class Sigill : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(sigaction(SIGILL, nullptr, &original_), 0);
    g_calls = 0;
  }
  void TearDown() override { sigaction(SIGILL, &original_, nullptr); }

  static void Install(void (*handler)(int, siginfo_t*, void*), int flags, int also_blocked = 0) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    if (also_blocked != 0) sigaddset(&action.sa_mask, also_blocked);
    ASSERT_EQ(sigaction(SIGILL, &action, nullptr), 0);
  }

  struct sigaction original_;
};

TEST_F(Sigill, ProgramSeesItsOwnAction) {
  EXPECT_EQ(original_.sa_handler, SIG_DFL);
  Install(StepOver<2>, SA_NODEFER);
  struct sigaction now;
  ASSERT_EQ(sigaction(SIGILL, nullptr, &now), 0);
  EXPECT_EQ(now.sa_sigaction, StepOver<2>);
  EXPECT_TRUE(now.sa_flags & SA_NODEFER);
  EXPECT_EQ(reinterpret_cast<void*>(signal(SIGILL, Count)), reinterpret_cast<void*>(StepOver<2>));
  EXPECT_EQ(signal(SIGILL, SIG_IGN), Count);
  EXPECT_EQ(signal(SIGILL, SIG_DFL), SIG_IGN);
  EXPECT_EQ(signal(SIGILL, SIG_ERR), SIG_ERR);
  ExpectAmxWorks();
}

TEST_F(Sigill, IllegalInstructionReachesTheProgram) {
  Install(StepOver<2>, 0, SIGUSR1);
  ExpectAmxWorks();
  EXPECT_EQ(g_calls, 0);
  Ud2();
  EXPECT_EQ(g_calls, 1);
  EXPECT_EQ(g_info.si_signo, SIGILL);
  EXPECT_EQ(reinterpret_cast<greg_t>(g_info.si_addr), g_rip);
  EXPECT_TRUE(sigismember(&g_mask_inside, SIGILL));
  EXPECT_TRUE(sigismember(&g_mask_inside, SIGUSR1));
  sigset_t after;
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  EXPECT_FALSE(sigismember(&after, SIGILL));
  EXPECT_FALSE(sigismember(&after, SIGUSR1));
  ExpectAmxWorks();
  Install(StepOver<2>, SA_NODEFER);
  Ud2();
  EXPECT_EQ(g_calls, 2);
  EXPECT_FALSE(sigismember(&g_mask_inside, SIGILL));
}

// tilezero %tmm1 is fine, tilezero %tmm2 (left out) is not.
TEST_F(Sigill, InvalidAmxInstructionReachesTheProgram) {
  Install(StepOver<5>, 0);
  LoadConfig(Config().Set(1, 2, 4));
  greg_t second = 0;
  __asm__ volatile(
      "lea 1f(%%rip), %%rax\n\t"
      "mov %%rax, %0\n\t"
      "tilezero %%tmm1\n"
      "1:\ttilezero %%tmm2\n\t"
      "tilezero %%tmm1"
      : "=m"(second)
      :
      : "rax", "memory");
  EXPECT_EQ(g_calls, 1);
  EXPECT_EQ(g_rip, second);
  EXPECT_EQ(reinterpret_cast<greg_t>(g_info.si_addr), second);
  Release();
}

TEST_F(Sigill, SentSignalsReachTheProgram) {
  ASSERT_EQ(signal(SIGILL, Count), SIG_DFL);
  raise(SIGILL);
  EXPECT_EQ(g_calls, 1);
  pthread_kill(pthread_self(), SIGILL);
  EXPECT_EQ(g_calls, 2);
  ExpectAmxWorks();
  signal(SIGILL, SIG_IGN);
  raise(SIGILL);
  ExpectAmxWorks();
}

sigjmp_buf g_jump;

TEST_F(Sigill, HandlerMayJumpOut) {
  Install([](int, siginfo_t*, void*) { siglongjmp(g_jump, 1); }, 0);
  for (int round = 0; round < 3; ++round) {
    const bool jumped = [] {
      if (sigsetjmp(g_jump, 1) != 0) return true;
      Ud2();
      return false;
    }();
    EXPECT_TRUE(jumped) << round;
  }
  ExpectAmxWorks();
}

using SigillDeathTest = Sigill;

TEST_F(SigillDeathTest, DefaultAction) {
  EXPECT_EXIT(Ud2(), KilledBySignal(SIGILL), "");
  EXPECT_EXIT(raise(SIGILL), KilledBySignal(SIGILL), "");
  const auto ignored = [] {
    signal(SIGILL, SIG_IGN);
    Ud2();
  };
  EXPECT_EXIT(ignored(), KilledBySignal(SIGILL), "");
}

TEST_F(SigillDeathTest, ResetHandler) {
  Install(StepOver<2>, SA_RESETHAND);
  Ud2();
  EXPECT_EQ(g_calls, 1);
  ExpectAmxWorks();
  EXPECT_EXIT(Ud2(), KilledBySignal(SIGILL), "");
}

// As faulthandler does: its handler puts the previous action back and raises again.
TEST_F(SigillDeathTest, HandlerThatRestoresAndRaises) {
  static struct sigaction previous;
  struct sigaction action = {};
  action.sa_handler = [](int number) {
    sigaction(number, &previous, nullptr);
    fprintf(stderr, "restored");
    raise(number);
  };
  action.sa_flags = SA_NODEFER | SA_ONSTACK;
  ASSERT_EQ(sigaction(SIGILL, &action, &previous), 0);
  ExpectAmxWorks();
  EXPECT_EXIT(Ud2(), KilledBySignal(SIGILL), "restored");
}

TEST_F(Sigill, ActionsChangeWhileOtherThreadsUseTiles) {
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    while (!stop) ExpectAmxWorks();
  });
  for (int round = 0; round < 2000; ++round) {
    signal(SIGILL, round % 2 ? Count : SIG_DFL);
  }
  stop = true;
  worker.join();
  EXPECT_EQ(g_calls, 0);
}

}  // namespace
}  // namespace octavo::amx_test
