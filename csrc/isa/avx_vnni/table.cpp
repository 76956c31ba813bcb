// AVX-VNNI, the dot product in 256-bit vectors without AVX-512: Alder Lake, Sierra Forest, Zen 5.
#if !defined(__AVX2__) || !(defined(__AVXVNNI__) || defined(OCTAVO_AVX_VNNI_AS_EVEX))
#error "isa/avx_vnni must be built with the flags of its isa.cmake"
#endif

#include "isa/avx_vnni/gemm-inl.h"
#include "isa/avx_vnni/peak-inl.h"
#include "isa/x86_shared/elementwise_avx2-inl.h"
#include "isa/x86_shared/read_avx2-inl.h"
#include "isa/x86_shared/windows-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_12x8c4__avx_vnni"),
    gemm_row<true>("u8s8_gemm_6x16c4__avx_vnni"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x32__avx_vnni"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x32__avx_vnni"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x32__avx_vnni"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x32__avx_vnni"),
    depthwise_any_row("u8s8_depthwise_any_x32__avx_vnni"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__avx_vnni"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__avx_vnni"),
    grouped_any_row("u8s8_grouped_any_x16__avx_vnni"),
};
constexpr KernelSet kTable = {"avx_vnni",         kGemm,   2,       kWindow, 8,
                              elementwise_avx2(), nullptr, nullptr, peak,    read_avx2};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
