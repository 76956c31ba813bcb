// AVX2 without any dot-product extension: Haswell to Coffee Lake, Zen 1 to Zen 3.
#if !defined(__AVX2__)
#error "isa/avx2 must be built with the flags of its isa.cmake"
#endif

#include "isa/avx2/depthwise-inl.h"
#include "isa/avx2/gemm-inl.h"
#include "isa/avx2/peak-inl.h"
#include "isa/x86_shared/elementwise_avx2-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {gemm_row("u8s8_gemm_6x16c2__avx2")};
constexpr DepthwiseKernel kDepthwise = depthwise_row("u8s8_depthwise_4x8__avx2");
constexpr KernelSet kTable = {"avx2",  kGemm,   1,   &kDepthwise, elementwise_avx2(),
                              nullptr, nullptr, peak};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
