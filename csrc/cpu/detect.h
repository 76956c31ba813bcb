// How features() asks each processor family; other code asks features(). A file of another family
// than the target's compiles to nothing.
#pragma once

#include <cstdint>

namespace octavo::cpu {

// Bits of Feature that the CPU has and the operating system has enabled.
uint64_t detect_x86();
uint64_t detect_arm();

}  // namespace octavo::cpu
