// Portable kernels, for CPUs that no other ISA folder serves.
#include "isa/scalar/gemm-inl.h"
#include "isa/scalar/peak-inl.h"
#include "isa/shared/elementwise-inl.h"
#include "isa/shared/read-inl.h"
#include "isa/shared/window-inl.h"

namespace octavo {
namespace {

constexpr GemmKernel kGemm[] = {
    gemm_row<4, 16, 4>("u8s8_gemm_4x16c4__scalar", 0),
    gemm_row<3, 5, 2>("u8s8_gemm_3x5c2__scalar", kTestOnly),
    gemm_row<1, 7, 3>("u8s8_gemm_1x7c3__scalar", kTestOnly),
};
constexpr WindowKernel kWindow[] = {
    depthwise_portable_row("u8s8_depthwise_any_x1__scalar"),
    grouped_portable_row("u8s8_grouped_any_x1__scalar"),
};
constexpr KernelSet kTable = {"scalar", kGemm,   3,    kWindow,      2, portable_elementwise(),
                              nullptr,  nullptr, peak, read_portable};

}  // namespace
}  // namespace octavo

extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(OCTAVO_ISA_NAME)() { return &octavo::kTable; }
