#include "amx_emulator.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "instruction.h"
#include "tile_state.h"

#define OCTAVO_EXPORT __attribute__((visibility("default")))

// SIGILL from an AMX instruction is synchronous and comes from compiled kernels, never from inside
// libc, so the handler is not confined to async-signal-safe functions. It still takes no lock that
// other code holds, and allocates nothing.
namespace octavo::amx {
namespace {

using SigactionFn = int (*)(int, const struct sigaction*, struct sigaction*);
using SignalFn = sighandler_t (*)(int, sighandler_t);

SigactionFn g_sigaction;  // libc's
SignalFn g_signal;        // libc's
bool g_active;
std::atomic<uint64_t> g_instructions{0};

// Initial-exec: reading it in a signal handler must not allocate. The library is therefore loaded
// with the program (linked or LD_PRELOAD), not by dlopen.
constinit thread_local TileState t_tiles __attribute__((tls_model("initial-exec")));

// What the program believes to be the action of SIGILL. Signals are blocked while the lock is held,
// so that no handler can wait for its own thread.
class NextAction {
 public:
  // Returns the action; and replaces it unless `replacement` is null.
  struct sigaction Exchange(const struct sigaction* replacement) {
    sigset_t all, old_mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old_mask);
    while (lock_.test_and_set(std::memory_order_acquire)) {
    }
    const struct sigaction previous = action_;
    if (replacement != nullptr) action_ = *replacement;
    lock_.clear(std::memory_order_release);
    pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
    return previous;
  }

 private:
  std::atomic_flag lock_ = ATOMIC_FLAG_INIT;
  struct sigaction action_ = {};  // SIG_DFL
};
NextAction g_next;

uint64_t ReadRegister(const ucontext_t& context, int number) {
  constexpr int kByNumber[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(context.uc_mcontext.gregs[kByNumber[number]]);
}

uint64_t SegmentBase(Segment segment) {
  uint64_t base = 0;
  if (segment == Segment::kFs) syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
  if (segment == Segment::kGs) syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  return base;
}

// Base and displacement make `begin`; the scaled index is the stride of a tile, and a plain address
// part elsewhere.
TileMemory Resolve(const ucontext_t& context, const Instruction& instruction) {
  const MemoryOperand& operand = instruction.memory;
  TileMemory memory = {SegmentBase(operand.segment), static_cast<uint64_t>(operand.displacement), 0,
                       operand.address32 ? 0xffffffff : ~uint64_t{0}};
  if (operand.base == kInstructionPointer) {
    memory.begin += static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RIP]) + instruction.length;
  } else if (operand.base != kNoRegister) {
    memory.begin += ReadRegister(context, operand.base);
  }
  if (operand.index != kNoRegister) {
    memory.stride = ReadRegister(context, operand.index) << operand.scale_log2;
  }
  return memory;
}

Outcome Execute(const Instruction& instruction, const ucontext_t& context, TileState* tiles) {
  const uint8_t* const tile = instruction.tile;
  switch (instruction.opcode) {
    case Opcode::kLdTileCfg:
      return tiles->LoadConfig(Resolve(context, instruction).Row(1));
    case Opcode::kStTileCfg:
      tiles->StoreConfig(Resolve(context, instruction).Row(1));
      return {};
    case Opcode::kTileRelease:
      tiles->Release();
      return {};
    case Opcode::kTileZero:
      return tiles->Zero(tile[0]);
    case Opcode::kTileLoadD:
    case Opcode::kTileLoadDT1:
      return tiles->Load(tile[0], Resolve(context, instruction));
    case Opcode::kTileStoreD:
      return tiles->Store(tile[0], Resolve(context, instruction));
    case Opcode::kTdpbssd:
      return tiles->DotProduct(true, true, tile[0], tile[1], tile[2]);
    case Opcode::kTdpbsud:
      return tiles->DotProduct(true, false, tile[0], tile[1], tile[2]);
    case Opcode::kTdpbusd:
      return tiles->DotProduct(false, true, tile[0], tile[1], tile[2]);
    case Opcode::kTdpbuud:
      return tiles->DotProduct(false, false, tile[0], tile[1], tile[2]);
  }
  return {};
}

int TileOperands(Opcode opcode) {
  if (opcode >= Opcode::kTdpbssd) return 3;
  return opcode >= Opcode::kTileZero ? 1 : 0;
}

// One line such as "octavo amx emulator: #UD at 0x55d0: tdpbusd tmm0 16x64, tmm4 15x64, tmm6 16x64:
// rows of ... differ".
void Report(const Instruction& instruction, const ucontext_t& context, const Outcome& outcome) {
  char line[400];
  size_t length = 0;
  const auto append = [&](const char* format, auto... values) {
    const int written = snprintf(line + length, sizeof(line) - length, format, values...);
    if (written > 0) length += static_cast<size_t>(written);
    if (length >= sizeof(line)) length = sizeof(line) - 1;
  };
  append("octavo amx emulator: %s at 0x%llx: %s",
         outcome.exception == Exception::kInvalidOpcode ? "#UD" : "#GP",
         static_cast<unsigned long long>(context.uc_mcontext.gregs[REG_RIP]),
         Name(instruction.opcode));
  for (int i = 0; i < TileOperands(instruction.opcode); ++i) {
    const int tile = instruction.tile[i];
    append("%s tmm%d %dx%d", i == 0 ? "" : ",", tile, t_tiles.shape(tile).rows,
           t_tiles.shape(tile).row_bytes);
  }
  append(": %s\n", outcome.reason);
  const ssize_t written = write(STDERR_FILENO, line, length);
  static_cast<void>(written);
}

enum class Emulated { kNothing, kSome, kInvalidOpcode, kGeneralProtection };

// Emulates the AMX instructions at RIP, as many as follow one another (a trap costs more than an
// instruction), and leaves RIP behind them, or at the one that raised an exception.
Emulated EmulateAtInstructionPointer(ucontext_t* context) {
  uint64_t done = 0;
  Outcome outcome;
  Instruction instruction;
  greg_t& rip = context->uc_mcontext.gregs[REG_RIP];
  while (Decode(reinterpret_cast<const uint8_t*>(rip), &instruction)) {
    outcome = Execute(instruction, *context, &t_tiles);
    if (outcome.exception != Exception::kNone) break;
    rip += instruction.length;
    ++done;
  }
  g_instructions.fetch_add(done, std::memory_order_relaxed);
  if (outcome.exception == Exception::kNone) return done ? Emulated::kSome : Emulated::kNothing;
  Report(instruction, *context, outcome);
  return outcome.exception == Exception::kInvalidOpcode ? Emulated::kInvalidOpcode
                                                        : Emulated::kGeneralProtection;
}

// Leaves a SIGSEGV pending that arrives at the interrupted instruction when the handler returns, as
// #GP's does. Like the kernel, it does not let a blocked or ignored signal stop that.
void DeliverGeneralProtection(ucontext_t* context) {
  struct sigaction current;
  g_sigaction(SIGSEGV, nullptr, &current);
  const bool ignored = !(current.sa_flags & SA_SIGINFO) && current.sa_handler == SIG_IGN;
  if (ignored || sigismember(&context->uc_sigmask, SIGSEGV)) {
    struct sigaction fatal = {};
    g_sigaction(SIGSEGV, &fatal, nullptr);
  }
  sigset_t segv;
  sigemptyset(&segv);
  sigaddset(&segv, SIGSEGV);
  pthread_sigmask(SIG_BLOCK, &segv, nullptr);
  sigdelset(&context->uc_sigmask, SIGSEGV);
  siginfo_t info = {};
  info.si_signo = SIGSEGV;
  info.si_code = SI_KERNEL;
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGSEGV, &info);
}

// The default action, now: a fault repeats at its own instruction, so that a core file shows it; a
// sent signal is sent again.
void DieOfSigill(bool is_fault) {
  struct sigaction fatal = {};
  g_sigaction(SIGILL, &fatal, nullptr);
  if (!is_fault) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGILL);
}

// Does what the kernel would do with this SIGILL if the program's own action were installed.
void DeliverToProgram(siginfo_t* info, ucontext_t* context, bool is_fault) {
  const struct sigaction action = g_next.Exchange(nullptr);
  const bool with_info = action.sa_flags & SA_SIGINFO;
  if (!with_info && action.sa_handler == SIG_IGN && !is_fault) return;
  if (!with_info && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)) {
    DieOfSigill(is_fault);
    return;
  }
  if (action.sa_flags & SA_RESETHAND) {
    struct sigaction reset = {};
    g_next.Exchange(&reset);
  }
  sigset_t mask = action.sa_mask;
  if (!(action.sa_flags & SA_NODEFER)) sigaddset(&mask, SIGILL);
  pthread_sigmask(SIG_BLOCK, &mask, nullptr);  // until the return from the emulator's handler
  if (with_info) {
    action.sa_sigaction(SIGILL, info, context);
  } else {
    action.sa_handler(SIGILL);
  }
}

void OnSigill(int, siginfo_t* info, void* raw_context) {
  const int saved_errno = errno;
  auto* const context = static_cast<ucontext_t*>(raw_context);
  const bool is_fault = info->si_code > 0;  // what kill() and raise() send has a code <= 0
  const Emulated emulated = is_fault ? EmulateAtInstructionPointer(context) : Emulated::kNothing;
  if (emulated == Emulated::kGeneralProtection) {
    DeliverGeneralProtection(context);
  } else if (emulated != Emulated::kSome) {
    siginfo_t at_fault = *info;
    if (is_fault) {
      at_fault.si_addr = reinterpret_cast<void*>(context->uc_mcontext.gregs[REG_RIP]);
    }
    DeliverToProgram(&at_fault, context, is_fault);
  }
  errno = saved_errno;
}

// Whether AMX-INT8 instructions run on this CPU under this operating system; process permission is
// not looked at.
bool CpuHasAmx() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kTileBit = 1u << 24, kInt8Bit = 1u << 25;
  if ((edx & (kTileBit | kInt8Bit)) != (kTileBit | kInt8Bit)) return false;
  unsigned xcr0_low, xcr0_high;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (xcr0_low & kTileState) == kTileState;
}

bool Wanted() {
  const char* const mode = getenv("OCTAVO_AMX_EMULATOR");
  if (mode == nullptr || *mode == '\0' || strcmp(mode, "auto") == 0) return !CpuHasAmx();
  if (strcmp(mode, "always") == 0) return true;
  if (strcmp(mode, "off") == 0) return false;
  fprintf(stderr,
          "octavo amx emulator: OCTAVO_AMX_EMULATOR is '%s'; it can be auto, always or off\n",
          mode);
  abort();
}

template <typename Fn>
Fn FromLibc(const char* name) {
  void* const found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) {
    fprintf(stderr, "octavo amx emulator: libc has no %s\n", name);
    abort();
  }
  return reinterpret_cast<Fn>(found);
}

// Runs when the library is loaded, or earlier if the constructor of another library asks for a
// signal action; one thread exists then.
__attribute__((constructor)) void Start() {
  if (g_sigaction != nullptr) return;
  g_signal = FromLibc<SignalFn>("signal");
  g_sigaction = FromLibc<SigactionFn>("sigaction");
  g_active = Wanted();
  if (!g_active) return;
  // The handler runs on the stack of the interrupted code, not on an alternate one (no SA_ONSTACK):
  // those are sized for small handlers, and their owners do not expect a frame of ours there.
  struct sigaction ours = {};
  ours.sa_sigaction = OnSigill;
  ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
  struct sigaction previous = {};
  g_sigaction(SIGILL, &ours, &previous);
  g_next.Exchange(&previous);
}

int ExchangeAction(int number, const struct sigaction* action, struct sigaction* old) {
  Start();
  if (!g_active || number != SIGILL) return g_sigaction(number, action, old);
  const struct sigaction previous = g_next.Exchange(action);
  if (old != nullptr) *old = previous;
  return 0;
}

}  // namespace
}  // namespace octavo::amx

extern "C" {

OCTAVO_EXPORT const char* octavo_emulated_cpu_features(void) {
  octavo::amx::Start();
  return octavo::amx::g_active ? "amx_tile,amx_int8" : "";
}

OCTAVO_EXPORT uint64_t octavo_emulated_instruction_count(void) {
  return octavo::amx::g_instructions.load(std::memory_order_relaxed);
}

// These stand before libc's. For SIGILL they change only what the emulator hands on to, so that no
// library (faulthandler, torch, a test framework) can displace the emulator; all other signals go
// to libc.
OCTAVO_EXPORT int sigaction(int number, const struct sigaction* action,
                            struct sigaction* old) noexcept {
  return octavo::amx::ExchangeAction(number, action, old);
}

OCTAVO_EXPORT int __sigaction(int number, const struct sigaction* action,
                              struct sigaction* old) noexcept {
  return octavo::amx::ExchangeAction(number, action, old);
}

OCTAVO_EXPORT sighandler_t signal(int number, sighandler_t handler) noexcept {
  octavo::amx::Start();
  if (!octavo::amx::g_active || number != SIGILL || handler == SIG_ERR) {
    return octavo::amx::g_signal(number, handler);
  }
  struct sigaction action = {}, old = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  octavo::amx::ExchangeAction(number, &action, &old);
  return old.sa_handler;
}

}  // extern "C"
