// AMX-INT8: Sapphire Rapids and later. Packed weights are shared with avx512_vnni.
#if !defined(__AMX_INT8__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "isa/amx_int8 must be built with the flags of its isa.cmake"
#endif

#include "isa/amx_int8/gemm-inl.h"
#include "isa/amx_int8/peak-inl.h"
#include "isa/x86_shared/depthwise_avx512-inl.h"
#include "isa/x86_shared/elementwise_avx512-inl.h"
#include "isa/x86_shared/read_avx512-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {gemm_row("u8s8_gemm_32x32c4__amx_int8")};
constexpr DepthwiseKernel kDepthwise = depthwise_avx512_row("u8s8_depthwise_4x16__amx_int8");
constexpr KernelSet kTable = {
    "amx_int8",      kGemm,         1,    &kDepthwise, elementwise_avx512(),
    configure_tiles, release_tiles, peak, read_avx512};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
