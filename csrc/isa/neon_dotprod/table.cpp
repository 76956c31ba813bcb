// NEON with dot products of four bytes: Cortex-A55, A75 to A78, Neoverse N1, Apple A13 to M1.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "isa/neon_dotprod must be built with the flags of its isa.cmake"
#endif

#include "isa/arm_shared/elementwise_neon-inl.h"
#include "isa/arm_shared/read_neon-inl.h"
#include "isa/neon_dotprod/gemm-inl.h"
#include "isa/shared/window-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_8x8c4__neon_dotprod"),
    gemm_row<true>("u8s8_gemm_6x16c4__neon_dotprod"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_portable_row("u8s8_depthwise_any_x1__neon_dotprod"),
    grouped_portable_row("u8s8_grouped_any_x1__neon_dotprod"),
};
constexpr KernelSet kTable = {"neon_dotprod",     kGemm,   2,       kWindow, 2,
                              elementwise_neon(), nullptr, nullptr, peak,    read_neon};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
