// AVX2 without any dot-product extension: Haswell to Coffee Lake, Zen 1 to Zen 3.
#if !defined(__AVX2__) || defined(__AVX512F__)
#error "isa/avx2 must be built with the flags of its isa.cmake"
#endif

#include "isa/x86_shared/elementwise_avx2-inl.h"
#include "isa/x86_shared/gemm_inner_product-inl.h"
#include "isa/x86_shared/gemm_split_bits-inl.h"
#include "isa/x86_shared/lanes_avx2-inl.h"
#include "isa/x86_shared/lines-inl.h"
#include "isa/x86_shared/read_avx2-inl.h"
#include "isa/x86_shared/windows-inl.h"

namespace octavo {
namespace {

constexpr PackFormat kFormat = {16, 4, 8};
constexpr GemmKernel kGemm[] = {
    inner_product_row<Lanes256, 4, 3, 2, 1>("u8s8_gemm_128x16c4__avx2", kFormat, 7),
    split_bits_row<Lanes256, 2, 1>("u8s8_gemm_4x16c4__avx2", kFormat),
};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x32__avx2"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x32__avx2"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x32__avx2"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x32__avx2"),
    depthwise_any_row("u8s8_depthwise_any_x32__avx2"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__avx2"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__avx2"),
    grouped_any_row("u8s8_grouped_any_x16__avx2"),
};
constexpr LineKernel kLines = line_row<Lanes256, 6, 4, 2, 1>("u8s8_lines_x16__avx2", kFormat);
constexpr KernelSet kTable = {"avx2",    kGemm,   2,
                              kWindow,   8,       elementwise_avx2(),
                              nullptr,   nullptr, peak_inner_product<Lanes256>,
                              read_avx2, &kLines};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
