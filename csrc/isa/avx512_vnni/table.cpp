// AVX-512 with VNNI: Ice Lake, Sapphire Rapids, Zen 4 and later.
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    !defined(__AVX512VNNI__)
#error "isa/avx512_vnni must be built with the flags of its isa.cmake"
#endif

#include "isa/avx512_vnni/gemm-inl.h"
#include "isa/avx512_vnni/peak-inl.h"
#include "isa/x86_shared/elementwise_avx512-inl.h"
#include "isa/x86_shared/read_avx512-inl.h"
#include "isa/x86_shared/windows-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<24, 1>("u8s8_gemm_24x16c4__avx512_vnni"),
    gemm_row<12, 2>("u8s8_gemm_12x32c4__avx512_vnni"),
    gemm_row<6, 4>("u8s8_gemm_6x64c4__avx512_vnni"),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x64__avx512_vnni"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x64__avx512_vnni"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x64__avx512_vnni"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x64__avx512_vnni"),
    depthwise_any_row("u8s8_depthwise_any_x64__avx512_vnni"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__avx512_vnni"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__avx512_vnni"),
    grouped_any_row("u8s8_grouped_any_x16__avx512_vnni"),
};
constexpr KernelSet kTable = {"avx512_vnni",        kGemm,   3,       kWindow, 8,
                              elementwise_avx512(), nullptr, nullptr, peak,    read_avx512};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
