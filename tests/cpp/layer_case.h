// Random layers and inputs for driver tests: the driver's structures beside the reference's.
#pragma once

#include <vector>

#include "ops/conv.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {

struct LayerCase {
  enum class Zeros { kNone, kSome };  // weight zero points
  // Scales are powers of two half of the time, so that exact ties occur.
  LayerCase(Random& random, int32_t groups, int32_t n, int32_t taps, int32_t k, Zeros zeros,
            bool with_bias, float input_scale);

  ref::Layer reference() const;
  // An output scale under which results spread over the type's range and pass both ends of it.
  float output_scale(Random& random, float input_scale) const;

  int32_t groups, n, taps, k;
  bool binary_scales;
  std::vector<int8_t> weights;
  WeightParams params;
};

struct QuantizedBytes {
  QuantizedBytes(Random& random, int64_t size, bool is_signed);
  ref::Bytes reference() const { return {data.data(), is_signed}; }
  std::vector<uint8_t> data;
  bool is_signed;
  QParams qparams;
  ref::Affine affine() const { return {qparams.scale, qparams.zero_point}; }
};

// Output type and qparams; kI32 and kF32 leave the qparams alone.
OutputSpec random_output(Random& random, OutKind kind, float scale);
ref::Output reference_output(const OutputSpec& output);

// nullptr for the ISA's own choice, then each of its kernels by name, test-only ones included.
std::vector<const char*> kernel_choices(const KernelSet& set);

// Forces a kernel for a scope; nullptr leaves the choice to the ISA.
class ForcedKernel {
 public:
  explicit ForcedKernel(const char* name) { cpu::force_gemm_kernel(name); }
  ~ForcedKernel() { cpu::force_gemm_kernel(nullptr); }
  ForcedKernel(const ForcedKernel&) = delete;
  ForcedKernel& operator=(const ForcedKernel&) = delete;
};

// What went wrong where two outputs differ; float outputs are compared bit by bit.
std::string output_difference(OutKind kind, const std::vector<uint8_t>& got,
                              const std::vector<uint8_t>& expected);

}  // namespace octavo::testing
