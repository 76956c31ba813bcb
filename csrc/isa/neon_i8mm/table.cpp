// NEON with matrix products of bytes: Cortex-A510, A710 and later, Neoverse N2, V1 and later, Apple
// M2 and later.
#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "isa/neon_i8mm must be built with the flags of its isa.cmake"
#endif

#include "isa/arm_shared/elementwise_neon-inl.h"
#include "isa/arm_shared/read_neon-inl.h"
#include "isa/neon_i8mm/gemm-inl.h"
#include "isa/shared/window-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_8x8c8__neon_i8mm"),
    gemm_row<true>("u8s8_gemm_6x16c8__neon_i8mm"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_portable_row("u8s8_depthwise_any_x1__neon_i8mm"),
    grouped_portable_row("u8s8_grouped_any_x1__neon_i8mm"),
};
constexpr KernelSet kTable = {"neon_i8mm",        kGemm,   2,       kWindow, 2,
                              elementwise_neon(), nullptr, nullptr, peak,    read_neon};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
