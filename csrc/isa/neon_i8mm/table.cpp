// NEON with matrix products of bytes: Cortex-A510, A710 and later, Neoverse N2, V1 and later, Apple
// M2 and later.
#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "isa/neon_i8mm must be built with the flags of its isa.cmake"
#endif

#include "isa/arm_shared/elementwise_neon-inl.h"
#include "isa/arm_shared/read_neon-inl.h"
#include "isa/arm_shared/windows_neon-inl.h"
#include "isa/neon_i8mm/gemm-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_8x8c8__neon_i8mm"),
    gemm_row<true>("u8s8_gemm_6x16c8__neon_i8mm"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x16__neon_i8mm"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x16__neon_i8mm"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x16__neon_i8mm"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x16__neon_i8mm"),
    depthwise_any_row("u8s8_depthwise_any_x16__neon_i8mm"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__neon_i8mm"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__neon_i8mm"),
    grouped_any_row("u8s8_grouped_any_x16__neon_i8mm"),
};
constexpr KernelSet kTable = {"neon_i8mm",        kGemm,   2,       kWindow, 8,
                              elementwise_neon(), nullptr, nullptr, peak,    read_neon};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
