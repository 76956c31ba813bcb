#include "ops/unary_table.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/features.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

using Parameters = double[3];

// exp(x) = 2^k exp(r), |r| <= ln(2) / 2, with the Taylor polynomial of degree 13: within 2 units in
// the last place.
double exp_of(double x) {
  x = std::clamp(x, -745.0, 709.0);
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  const double k = std::nearbyint(x * kLog2e);
  const double r = (x - k * kLn2High) - k * kLn2Low;
  double sum = 1.0;
  for (int n = 13; n > 0; --n) sum = 1.0 + sum * r / n;
  return std::ldexp(sum, static_cast<int>(k));
}

double expm1_of(double x) {
  if (std::fabs(x) > 0.25) return exp_of(x) - 1.0;
  double sum = 1.0;
  for (int n = 13; n > 1; --n) sum = 1.0 + sum * x / n;
  return x * sum;
}

double sigmoid(double x) {
  const double e = exp_of(-std::fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

double tanh_of(double x) {
  const double e = expm1_of(-2.0 * std::fabs(x));  // in (-1, 0]
  const double y = -e / (2.0 + e);
  return x < 0.0 ? -y : y;
}

// erf(z) = 2 / sqrt(pi) exp(-z^2) sum of 2^n z^(2n+1) / (2n+1)!!, whose terms have one sign.
double erf_of(double z) {
  if (std::fabs(z) > 6.0) return z < 0.0 ? -1.0 : 1.0;
  double term = z, sum = z;
  for (int n = 1; n < 160; ++n) {
    term = term * (2.0 * z * z) / (2 * n + 1);
    sum += term;
  }
  return 0x1.20dd750429b6dp+0 * exp_of(-z * z) * sum;
}

double relu6(double x) { return std::clamp(x, 0.0, 6.0); }

struct Function {
  std::string_view name;
  double (*value)(double x, const Parameters& p);
};

constexpr Function kFunctions[] = {
    {"celu", [](double x, const Parameters& p) { return x > 0.0 ? x : p[0] * expm1_of(x / p[0]); }},
    {"elu", [](double x,
               const Parameters& p) { return p[1] * (x > 0.0 ? x : p[0] * expm1_of(x * p[2])); }},
    {"gelu", [](double x,
                const Parameters&) { return 0.5 * x * (1.0 + erf_of(x * 0x1.6a09e667f3bcdp-1)); }},
    {"gelu_tanh",
     [](double x, const Parameters&) {
       return 0.5 * x * (1.0 + tanh_of(0x1.9884533d43651p-1 * (x + 0.044715 * x * x * x)));
     }},
    {"hardsigmoid", [](double x, const Parameters&) { return relu6(x + 3.0) / 6.0; }},
    {"hardswish", [](double x, const Parameters&) { return x * relu6(x + 3.0) / 6.0; }},
    {"leaky_relu", [](double x, const Parameters& p) { return x > 0.0 ? x : x * p[0]; }},
    // tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2), e = exp(x)
    {"mish",
     [](double x, const Parameters&) {
       const double e = exp_of(std::min(x, 40.0)), n = e * (e + 2.0);
       return x * (n / (n + 2.0));
     }},
    {"sigmoid", [](double x, const Parameters&) { return sigmoid(x); }},
    {"silu", [](double x, const Parameters&) { return x * sigmoid(x); }},
    {"tanh", [](double x, const Parameters&) { return tanh_of(x); }},
    {"threshold",
     [](double x, const Parameters& p) {
       return x > static_cast<double>(static_cast<float>(p[0])) ? x : p[1];
     }},
};

}  // namespace

void unary_table(std::string_view name, const double (&parameters)[3], QParams input,
                 bool input_signed, QParams output, bool output_signed, uint8_t* table) {
  check_qparams("input", input, input_signed);
  check_qparams("output", output, output_signed);
  const auto* const function = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                            [&](const Function& f) { return f.name == name; });
  if (function == std::end(kFunctions)) {
    throw std::invalid_argument("there is no unary function of the name " + std::string(name));
  }
  const float inverse = 1.0f / output.scale;
  const float lo = static_cast<float>((output_signed ? -128 : 0) - output.zero_point);
  for (int i = 0; i < 256; ++i) {
    const int32_t q = input_signed && i > 127 ? i - 256 : i;
    const float x = static_cast<float>(q - input.zero_point) * input.scale;
    const float y = static_cast<float>(function->value(static_cast<double>(x), parameters));
    const float steps = y != y ? 0.0f : std::clamp(y * inverse, lo, lo + 255.0f);
    table[i] =
        static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(steps)) + output.zero_point);
  }
}

void softmax_table(float scale, SoftmaxTable& table) {
  const double step = -static_cast<double>(scale);
  for (int i = 0; i < 16; ++i) {
    table.high[i] = static_cast<float>(exp_of(step * (16 * i)) * (0x1p30 - 64.0));
    table.low[i] = static_cast<float>(exp_of(step * i));
  }
  for (int d = 0; d < 256; ++d) {
    table.exps[d] = static_cast<int32_t>(std::nearbyint(table.high[d / 16] * table.low[d % 16]));
  }
}

Lookup active_lookup() {
  const ElementwiseFns& fns = cpu::kernels().elementwise;
  if (!fns.lookup_vbmi) return {fns.lookup, std::numeric_limits<int64_t>::max()};
  const bool vbmi = cpu::features() & cpu::bit(cpu::Feature::avx512_vbmi);
  return vbmi ? Lookup{fns.lookup_vbmi, 1024} : Lookup{fns.lookup, 4096};
}

void lookup(const uint8_t* table, const void* in, int64_t size, void* out) {
  constexpr int64_t kChunk = 1 << 15;
  const LookupFn fn = active_lookup().run;
  parallel_for(ceil_div(size, kChunk), size, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    fn(table, static_cast<const uint8_t*>(in) + begin, std::min(kChunk, size - begin),
       static_cast<uint8_t*>(out) + begin);
  });
}

}  // namespace octavo
