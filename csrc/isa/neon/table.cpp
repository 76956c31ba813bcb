// NEON alone: every ARMv8 CPU, Cortex-A53 to A73.
#if !defined(__ARM_NEON)
#error "isa/neon must be built with the flags of its isa.cmake"
#endif

#include "isa/arm_shared/elementwise_neon-inl.h"
#include "isa/arm_shared/read_neon-inl.h"
#include "isa/neon/gemm-inl.h"
#include "isa/shared/window-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_4x4c8__neon"),
    gemm_row<true>("u8s8_gemm_4x8c8__neon"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_portable_row("u8s8_depthwise_any_x1__neon"),
    grouped_portable_row("u8s8_grouped_any_x1__neon"),
};
constexpr KernelSet kTable = {"neon",  kGemm,   2,    kWindow,  2, elementwise_neon(),
                              nullptr, nullptr, peak, read_neon};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
