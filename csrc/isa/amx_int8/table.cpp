// AMX-INT8: Sapphire Rapids and later. Packed weights are shared with avx512_vnni.
#if !defined(__AMX_INT8__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "isa/amx_int8 must be built with the flags of its isa.cmake"
#endif

#include "isa/amx_int8/gemm-inl.h"
#include "isa/amx_int8/peak-inl.h"
#include "isa/x86_shared/elementwise_avx512-inl.h"
#include "isa/x86_shared/read_avx512-inl.h"
#include "isa/x86_shared/windows-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {gemm_row("u8s8_gemm_32x32c4__amx_int8")};
constexpr WindowKernel kWindow[] = {
    depthwise_rows_row<3, 1>("u8s8_depthwise_3x3s1_x64__amx_int8"),
    depthwise_rows_row<3, 2>("u8s8_depthwise_3x3s2_x64__amx_int8"),
    depthwise_rows_row<5, 1>("u8s8_depthwise_5x5s1_x64__amx_int8"),
    depthwise_rows_row<5, 2>("u8s8_depthwise_5x5s2_x64__amx_int8"),
    depthwise_any_row("u8s8_depthwise_any_x64__amx_int8"),
    grouped_rows_row<3, 1>("u8s8_grouped_3x3s1_x16__amx_int8"),
    grouped_rows_row<3, 2>("u8s8_grouped_3x3s2_x16__amx_int8"),
    grouped_any_row("u8s8_grouped_any_x16__amx_int8"),
};
constexpr KernelSet kTable = {
    "amx_int8",      kGemm,         1,    kWindow,    8, elementwise_avx512(),
    configure_tiles, release_tiles, peak, read_avx512};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
