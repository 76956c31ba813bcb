// NEON with dot products of four bytes: Cortex-A55, A75 to A78, Neoverse N1, Apple A13 to M1.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "isa/neon_dotprod must be built with the flags of its isa.cmake"
#endif

#include "isa/arm_shared/elementwise_neon-inl.h"
#include "isa/arm_shared/read_neon-inl.h"
#include "isa/arm_shared/windows_neon-inl.h"
#include "isa/neon_dotprod/gemm-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_8x8c4__neon_dotprod"),
    gemm_row<true>("u8s8_gemm_4x16c4__neon_dotprod"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x16__neon_dotprod"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x16__neon_dotprod"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x16__neon_dotprod"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x16__neon_dotprod"),
    depthwise_any_row("u8s8_depthwise_any_x16__neon_dotprod"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__neon_dotprod"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__neon_dotprod"),
    grouped_any_row("u8s8_grouped_any_x16__neon_dotprod"),
};
constexpr KernelSet kTable = {"neon_dotprod",     kGemm,   2,       kWindow, 8,
                              elementwise_neon(), nullptr, nullptr, peak,    read_neon};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
