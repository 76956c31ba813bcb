// AVX-VNNI, the dot product in 256-bit vectors without AVX-512: Alder Lake, Sierra Forest, Zen 5.
#if !defined(__AVX2__) || !(defined(__AVXVNNI__) || defined(OCTAVO_AVX_VNNI_AS_EVEX))
#error "isa/avx_vnni must be built with the flags of its isa.cmake"
#endif

#include "isa/avx_vnni/gemm-inl.h"
#include "isa/avx_vnni/peak-inl.h"
#include "isa/x86_shared/depthwise_avx2-inl.h"
#include "isa/x86_shared/elementwise_avx2-inl.h"
#include "isa/x86_shared/read_avx2-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<false>("u8s8_gemm_12x8c4__avx_vnni"),
    gemm_row<true>("u8s8_gemm_6x16c4__avx_vnni"),
};
constexpr DepthwiseKernel kDepthwise = depthwise_avx2_row("u8s8_depthwise_4x8__avx_vnni");
constexpr KernelSet kTable = {"avx_vnni", kGemm,   2,    &kDepthwise, elementwise_avx2(),
                              nullptr,    nullptr, peak, read_avx2};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
