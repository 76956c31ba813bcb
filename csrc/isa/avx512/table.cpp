// AVX-512 without VNNI: Skylake-SP, Skylake-X, Cannon Lake.
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    defined(__AVX512VNNI__)
#error "isa/avx512 must be built with the flags of its isa.cmake"
#endif

#include "isa/avx512/gemm-inl.h"
#include "isa/x86_shared/elementwise_avx512-inl.h"
#include "isa/x86_shared/gemm_inner_product-inl.h"
#include "isa/x86_shared/gemm_split_bits-inl.h"
#include "isa/x86_shared/lanes_avx512-inl.h"
#include "isa/x86_shared/lines-inl.h"
#include "isa/x86_shared/read_avx512-inl.h"
#include "isa/x86_shared/windows-inl.h"

namespace octavo {
namespace {

constexpr PackFormat kFormat = {32, 4, 16};
constexpr GemmKernel kGemm[] = {
    inner_product_row<Lanes512, 8, 4, 2, 1>("u8s8_gemm_128x32c4__avx512", kFormat, 40),
    inner_product_tall_row("u8s8_gemm_128x16c4__avx512", kFormat, 4),
    split_bits_row<Lanes512, 4, 2, 1>("u8s8_gemm_4x32c4__avx512", kFormat),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x64__avx512"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x64__avx512"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x64__avx512"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x64__avx512"),
    depthwise_any_row("u8s8_depthwise_any_x64__avx512"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__avx512"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__avx512"),
    grouped_any_row("u8s8_grouped_any_x16__avx512"),
};
constexpr LineKernel kLines = line_row<Lanes512, 12, 8, 4, 2, 1>("u8s8_lines_x32__avx512", kFormat);
constexpr KernelSet kTable = {"avx512",    kGemm,   3,
                              kWindow,     8,       elementwise_avx512(),
                              nullptr,     nullptr, peak_inner_product<Lanes512>,
                              read_avx512, &kLines};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
