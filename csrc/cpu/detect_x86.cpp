// x86: CPUID says what the processor has, XCR0 which registers the operating system saves.
#if defined(__x86_64__) || defined(_M_X64)

#include <cpuid.h>

#include "cpu/detect.h"
#include "cpu/features.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstdlib>
#endif

namespace octavo::cpu {
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

// Which register states the operating system saves; only valid where CPUID reports OSXSAVE.
uint64_t xcr0() {
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t{hi} << 32) | lo;
}

#if defined(__APPLE__)

// macOS saves the upper registers and the masks of a thread from its first AVX-512 instruction on,
// so that XCR0 does not show them before; sysctl says whether it will. It restored masks wrongly
// until 12.1 (golang/go#49233); Darwin 22 is macOS 13.
bool system_saves_avx512(uint64_t) {
  int present = 0;
  size_t size = sizeof(present);
  if (sysctlbyname("hw.optional.avx512f", &present, &size, nullptr, 0) != 0 || !present)
    return false;
  char release[32] = {};
  size = sizeof(release) - 1;
  return sysctlbyname("kern.osrelease", release, &size, nullptr, 0) == 0 &&
         std::atoi(release) >= 22;
}

#else

bool system_saves_avx512(uint64_t saved) { return (saved & 0xe6) == 0xe6; }

#endif

// Linux gives the 8 KiB tile data state only to processes that ask (since 5.16); its answer is
// final. Other systems want to be asked in ways of their own, which this does not know: no AMX.
bool system_permits_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kArchGetXcompPerm = 0x1022;
  constexpr int kArchReqXcompPerm = 0x1023;
  constexpr unsigned long kXfeatureTileData = 18;
  if (syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) != 0) return false;
  unsigned long granted = 0;
  if (syscall(SYS_arch_prctl, kArchGetXcompPerm, &granted) != 0) return false;
  return (granted >> kXfeatureTileData) & 1;
#else
  return false;
#endif
}

}  // namespace

uint64_t detect_x86() {
  uint64_t found = 0;
  const uint32_t max_leaf = cpuid(0, 0).eax;
  if (max_leaf < 7) return found;
  const Registers leaf1 = cpuid(1, 0);
  const Registers leaf7 = cpuid(7, 0);
  const Registers leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Registers{};
  const auto has = [](uint32_t reg, int b) { return ((reg >> b) & 1) != 0; };
  if (!has(leaf1.ecx, 27)) return found;  // OSXSAVE

  const uint64_t saved = xcr0();
  const bool os_avx = (saved & 0x6) == 0x6;
  const bool os_avx512 = os_avx && system_saves_avx512(saved);
  const bool os_amx = (saved & 0x60000) == 0x60000;
  const auto add = [&found](Feature f, bool present) {
    if (present) found |= bit(f);
  };
  add(Feature::avx2, os_avx && has(leaf1.ecx, 28) && has(leaf7.ebx, 5));
  add(Feature::fma, os_avx && has(leaf1.ecx, 12));
  add(Feature::f16c, os_avx && has(leaf1.ecx, 29));
  add(Feature::avx_vnni, os_avx && has(leaf7_1.eax, 4));
  const bool avx512 = os_avx512 && has(leaf7.ebx, 16) && has(leaf7.ebx, 17) && has(leaf7.ebx, 30) &&
                      has(leaf7.ebx, 31);
  add(Feature::avx512, avx512);
  add(Feature::avx512_vnni, avx512 && has(leaf7.ecx, 11));
  add(Feature::avx512_vbmi, avx512 && has(leaf7.ecx, 1));
  const bool amx = os_amx && has(leaf7.edx, 24) && system_permits_amx();
  add(Feature::amx_tile, amx);
  add(Feature::amx_int8, amx && has(leaf7.edx, 25));
  return found;
}

}  // namespace octavo::cpu

#endif
