#include "cpu/features.h"

#include <cstring>
#include <string_view>

#if defined(__x86_64__) || defined(_M_X64)
#define OCTAVO_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace octavo::cpu {
namespace {

constexpr FeatureInfo kInfo[] = {
#define OCTAVO_CPU_FEATURE(name, description) {#name, description},
#include "cpu/features.inc"
#undef OCTAVO_CPU_FEATURE
};

#if defined(OCTAVO_X86)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
       static_cast<uint32_t>(out[3])};
#else
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

// Which register states the operating system saves; only valid where CPUID reports OSXSAVE.
uint64_t xcr0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t{hi} << 32) | lo;
#endif
}

// Linux gives the 8 KiB tile data state only to processes that ask (since 5.16); its answer is
// final.
bool kernel_permits_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kArchGetXcompPerm = 0x1022;
  constexpr int kArchReqXcompPerm = 0x1023;
  constexpr unsigned long kXfeatureTileData = 18;
  if (syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) != 0) return false;
  unsigned long granted = 0;
  if (syscall(SYS_arch_prctl, kArchGetXcompPerm, &granted) != 0) return false;
  return (granted >> kXfeatureTileData) & 1;
#else
  return true;
#endif
}

uint64_t detect() {
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
  const bool os_avx512 = (saved & 0xe6) == 0xe6;
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
  const bool amx = os_amx && has(leaf7.edx, 24) && kernel_permits_amx();
  add(Feature::amx_tile, amx);
  add(Feature::amx_int8, amx && has(leaf7.edx, 25));
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

}  // namespace
}  // namespace octavo::cpu
#include <sys/auxv.h>
namespace octavo::cpu {
namespace {

uint64_t detect() {
  constexpr unsigned long kHwcapAsimdDp = 1ul << 20;
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;
  uint64_t found = bit(Feature::neon);
  if (getauxval(AT_HWCAP) & kHwcapAsimdDp) found |= bit(Feature::dotprod);
  if (getauxval(AT_HWCAP2) & kHwcap2I8mm) found |= bit(Feature::i8mm);
  return found;
}

#else

uint64_t detect() { return 0; }

#endif

uint64_t parse_features(std::string_view names) {
  uint64_t found = 0;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    const std::string_view name = names.substr(0, comma);
    for (int i = 0; i < static_cast<int>(Feature::count); ++i) {
      if (name == kInfo[i].name) found |= bit(static_cast<Feature>(i));
    }
    names = comma == std::string_view::npos ? std::string_view{} : names.substr(comma + 1);
  }
  return found;
}

uint64_t ask_emulator() {
#if defined(_WIN32)
  return 0;
#else
  using EmulatedFeatures = const char* (*)();
  const auto ask =
      reinterpret_cast<EmulatedFeatures>(dlsym(RTLD_DEFAULT, "octavo_emulated_cpu_features"));
  return ask ? parse_features(ask()) : 0;
#endif
}

struct Detected {
  uint64_t native = detect();
  uint64_t emulated = ask_emulator() & ~native;
};

const Detected& detected() {
  static const Detected once;
  return once;
}

}  // namespace

const FeatureInfo& feature_info(Feature f) { return kInfo[static_cast<int>(f)]; }
uint64_t features() { return detected().native | detected().emulated; }
uint64_t emulated_features() { return detected().emulated; }

}  // namespace octavo::cpu
