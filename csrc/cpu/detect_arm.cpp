// ARM: the operating system's own answer on each system, as the identification registers cannot be
// read everywhere and /proc/cpuinfo is text for people (under emulation, of another machine).
#if defined(__aarch64__) || defined(_M_ARM64)

#include "cpu/detect.h"
#include "cpu/features.h"

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#endif

namespace octavo::cpu {
namespace {

struct Answers {
  bool dotprod = false;
  bool i8mm = false;
};

#if defined(__linux__)

// Bits of the kernel's interface (asm/hwcap.h), given here so that old headers do.
Answers ask() {
  constexpr unsigned long kHwcapAsimdDp = 1ul << 20;
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;
  return {(getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0, (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0};
}

#elif defined(__APPLE__)

bool sysctl_flag(const char* name) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

Answers ask() {
  return {sysctl_flag("hw.optional.arm.FEAT_DotProd"), sysctl_flag("hw.optional.arm.FEAT_I8MM")};
}

#elif defined(_WIN32)

// Values of winnt.h, given here because the second came late (Windows SDK 26100). A Windows that
// does not know it answers no, which leaves the dot products.
Answers ask() {
  constexpr DWORD kArmV82DpInstructions = 43;    // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  constexpr DWORD kArmV82I8mmInstructions = 66;  // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
  return {IsProcessorFeaturePresent(kArmV82DpInstructions) != 0,
          IsProcessorFeaturePresent(kArmV82I8mmInstructions) != 0};
}

#else

Answers ask() { return {}; }

#endif

}  // namespace

uint64_t detect_arm() {
  const Answers answers = ask();
  uint64_t found = bit(Feature::neon);  // part of every 64-bit ARM that these systems run on
  if (answers.dotprod) found |= bit(Feature::dotprod);
  if (answers.i8mm) found |= bit(Feature::i8mm);
  return found;
}

}  // namespace octavo::cpu

#endif
