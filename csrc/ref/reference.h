// What every kernel and driver must equal, to the bit: plain loops over plain data.
//
// Nothing here knows about tiles, packing, ISAs or threads; of the project it includes only abi/,
// whose requantize.h is the normative arithmetic of the epilogue. Sums are int64, so they are exact
// whatever the input.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "abi/kernel_abi.h"

namespace octavo::ref {

// value = (q - zero_point) * scale
struct Affine {
  float scale = 1.0f;
  int32_t zero_point = 0;
};

// Dense 8-bit storage.
struct Bytes {
  const void* data = nullptr;
  bool is_signed = false;

  int32_t at(int64_t i) const {
    return is_signed ? static_cast<int32_t>(static_cast<const int8_t*>(data)[i])
                     : static_cast<int32_t>(static_cast<const uint8_t*>(data)[i]);
  }
};

// Writes `value` as element i of dense 8-bit storage.
void store_byte(void* data, int64_t i, bool is_signed, int32_t value);

// Rounds half to even, then clamps; NaN gives lo. What clamping first gives too, as lo and hi are
// integers.
int32_t round_and_clamp(float x, int32_t lo, int32_t hi);

// ---- one GEMM tile
// ------------------------------------------------------------------------------------------------

// acc[r * n + c] = sum over taps and k of a * w, without zero points. Row r of tap t is the k bytes
// at a + r * a_stride + tap[t]; w is plain, [n][taps][k].
struct Tile {
  const uint8_t* a;
  bool a_signed;
  ptrdiff_t a_stride;
  const ptrdiff_t* tap;
  int32_t taps, k;
  const int8_t* w;
  int32_t m, n;
};
void accumulate(const Tile& tile, int64_t* acc);

// The epilogue of an m x n tile at (m0, n0) of the epilogue's arrays. acc holds raw sums; acc_init
// is added here.
void store_tile(OutKind kind, const int64_t* acc, int32_t m, int32_t n, const Epilogue& epilogue,
                int32_t m0, int32_t n0, void* out, ptrdiff_t out_stride);

// ---- layers
// -------------------------------------------------------------------------------------------------------

// Plain weights [groups][n][taps][k] with a scale, zero point and bias for each of groups * n
// output channels.
struct Layer {
  const int8_t* weights;
  int32_t groups = 1, n = 1, taps = 1, k = 1;
  const float* scale;
  const int32_t* zero_point;
  const float* bias = nullptr;  // or null

  int32_t channels() const { return groups * n; }
};

// Added to an 8-bit output before the clamp: dense, of the output's shape; data null: none.
struct Residual {
  Bytes bytes;
  Affine qparams;
};

struct Output {
  OutKind kind = OutKind::kU8;
  Affine qparams;  // kU8 and kS8 only
  bool relu = false;
  float clamp_lo = -INFINITY, clamp_hi = INFINITY;  // real values, after relu
  bool gelu = false;                                // float kinds only; before relu
};

// x is dense [rows][groups * k]; out is dense [rows][groups * n].
void linear(const Layer& layer, Bytes x, int64_t rows, Affine input, const Output& output,
            const Residual& residual, void* out);

// Float rows, quantized on the way. x and out are dense; `type` is 0 for float32, 1 for bfloat16, 2
// for float16.
struct Dynamic {
  int type = 0;
  bool per_tensor = false, reduce_range = false, relu = false, gelu = false;
};
Affine dynamic_qparams(float lo, float hi, bool reduce_range, bool limit_scale);
void dynamic_linear(const Layer& layer, const void* x, int64_t rows, const Dynamic& how, void* out);

// One layer and direction of a recurrent net: two dynamic linear layers and the cell (abi/cell.h),
// time step by time step. `project` (LSTM only) takes the cell's output to the hidden state.
struct Recurrent {
  CellKind kind;
  Layer input, hidden;
  const Layer* project = nullptr;
  bool reverse = false;
};
// x holds, step by step, the first batch_sizes[t] sequences' rows; h [batch][hidden.k] and
// c [batch][hidden.n / gates] are read and written; out is dense, a row for each of x.
void recurrent(const Recurrent& net, const void* x, const std::vector<int64_t>& batch_sizes,
               const Dynamic& how, float* h, float* c, float* out);
// What one call of a cell kernel writes.
void cell_kernel(CellKind kind, const CellArgs& args);

// Channels-last convolution over (depth, height, width).
struct Window {
  std::array<int32_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, padding_end{0, 0, 0},
      dilation{1, 1, 1};

  // Positions the kernel can take; <= 0 where it does not fit.
  int64_t output_size(int dim, int64_t input) const;
};

struct Image {
  Bytes bytes;  // dense [batch][depth][height][width][channels]
  int64_t batch;
  std::array<int64_t, 3> size;
  int32_t channels;

  int64_t index(int64_t b, int64_t d, int64_t h, int64_t w) const {
    return (((b * size[0] + d) * size[1] + h) * size[2] + w) * channels;
  }
};

// out is dense [batch][sizes...][groups * n].
void conv(const Layer& layer, const Image& x, const Window& window, Affine input,
          const Output& output, const Residual& residual, void* out);

// Transposed convolution. Plain weights are [groups][k][n][taps]; Layer's other fields as always.
struct TransposedWindow {
  std::array<int32_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0},
      output_padding{0, 0, 0}, dilation{1, 1, 1};

  int64_t output_size(int dim, int64_t input) const;  // <= 0: no output
};
void conv_transpose(const Layer& layer, const Image& x, const TransposedWindow& window,
                    Affine input, const Output& output, void* out);

// Float images, `shape` without its bytes, dense [batch][sizes...][channels] or
// [batch][channels][sizes...], quantized one by one; out is dense, channels last.
void dynamic_conv(const Layer& layer, const Image& shape, const void* x, bool channels_last,
                  const Window& window, const Dynamic& how, void* out);

// ---- element-wise
// -------------------------------------------------------------------------------------------------

// q = clamp(zero + rne(x * (1 / scale))); NaN gives the clamped zero point.
int32_t quantize(float x, Affine qparams, int32_t lo, int32_t hi);
float dequantize(int32_t q, Affine qparams);

// Integer results of one element; the clamp is absolute.
int32_t requantize(int32_t q, Affine input, Affine output, int32_t lo, int32_t hi);
int32_t add(int32_t a, Affine a_params, int32_t b, Affine b_params, Affine output, int32_t lo,
            int32_t hi);
int32_t mul(int32_t a, Affine a_params, int32_t b, Affine b_params, Affine output, int32_t lo,
            int32_t hi);

// The same as the kernels take them: multipliers instead of scales.
int32_t scaled(float x, int32_t out_zero, float lo, float hi);
void quantize_kernel(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                     int32_t hi, bool is_signed, void* q);
void add_kernel(const BinaryArgs& args, bool is_signed);
void mul_kernel(const BinaryArgs& args, bool is_signed);
void requantize_kernel(const UnaryArgs& args, bool in_signed, bool out_signed);
void fake_quantize_kernel(const FakeQuantizeArgs& args);

// How a step's extremes enter the statistics and become scale and zero point.
struct FakeQuantizeRule {
  bool averages = false;  // otherwise the smallest and largest ever
  float constant = 1.0f;
  float eps = 0.0f;
  int32_t lo = 0, hi = 0;
  bool symmetric = false;
  int32_t zero_point = 0;  // where symmetric
};
// Shows `values` to the statistics, which begin with +inf and -inf. Returns how many were not
// finite.
int64_t observe(const std::vector<float>& values, const FakeQuantizeRule& rule, float& min,
                float& max, Affine& qparams);

// ---- embedding tables

// What one call of a kernel writes and returns.
int64_t embedding_kernel(const EmbeddingArgs& args, bool nibbles);

// ---- normalization: what one call of a kernel writes

void affine_kernel(const AffineArgs& args, AffineKind kind, bool is_signed);
void column_moments(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns, int32_t flip,
                    int64_t* sums, int64_t* squares);
void softmax_kernel(const SoftmaxArgs& args);

// ---- attention: what one call of a kernel writes and returns, and the whole

int32_t attention_weights(const int32_t* scores, int64_t size, float factor, uint8_t* high,
                          uint8_t* low);
void attention_output(const AttentionOutputArgs& args);

// q [groups][queries][size], k [groups][keys][size], v [groups][keys][value_size]: dense.
struct Attention {
  int64_t groups, queries, keys, size, value_size;
  float scale;
};
void attention(const Attention& shape, const Bytes& q, Affine q_params, const Bytes& k,
               Affine k_params, const Bytes& v, Affine v_params, bool out_signed, Affine output,
               void* out);

// ---- pooling
// ------------------------------------------------------------------------------------------------------

// What one call of a kernel writes. The average saturates to the storage type.
void max_pool_kernel(const PoolArgs& args, bool is_signed);
void avg_pool_kernel(const PoolArgs& args, bool is_signed);

struct Pool {
  std::array<int32_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};
  bool ceil_mode = false;
  bool count_include_pad = true;
  int32_t divisor_override = 0;

  int64_t output_size(int dim, int64_t input) const;
};
void max_pool(const Image& x, const Pool& pool, void* out);
void avg_pool(const Image& x, int32_t zero_point, const Pool& pool, void* out);
void adaptive_max_pool(const Image& x, const std::array<int64_t, 3>& output_size, void* out);
void adaptive_avg_pool(const Image& x, int32_t zero_point,
                       const std::array<int64_t, 3>& output_size, void* out);

// ---- upsampling
// ---------------------------------------------------------------------------------------------------

void interpolate_kernel(const InterpolateArgs& args, bool is_signed);

struct Resize {
  std::array<int64_t, 3> size{1, 1, 1};  // of the output
  std::array<double, 3> scale{0, 0, 0};  // 0: input size / output size
};
void upsample_nearest(const Image& x, const Resize& resize, bool exact, void* out);
void upsample_linear(const Image& x, int32_t zero_point, const Resize& resize, bool align_corners,
                     void* out);

}  // namespace octavo::ref
