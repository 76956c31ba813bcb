// The contract between the ISA-blind code and the kernels: plain data only.
//
// The folders under isa/ include this file (and the other files of abi/) and nothing else of the
// project, so that an object compiled with, say, -mavx512f can never hand its copy of a shared
// function to code that runs on older CPUs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// What a kernel stores.
enum class OutKind : uint8_t { kI32 = 0, kU8 = 1, kS8 = 2, kF32 = 3, kBF16 = 4, kF16 = 5 };
constexpr int kOutKinds = 6;

// Arrays indexed by output channel are padded to this many elements, so that vector code may read
// whole vectors.
constexpr int kChannelPad = 64;

// Everything that happens between the int32 accumulator and the stored value. One per operator
// call; pure data. abi/requantize.h holds the normative arithmetic.
//
// Per-channel arrays are indexed by n0 + column and padded to a multiple of kChannelPad; per-row
// arrays are indexed by m0 + row. "Or null" marks what may be absent; everything else is always
// present.
struct Epilogue {
  const int32_t*
      acc_init;  // [n] start value of the accumulator: -za * sum_k(w), activation offset included
  const float* mult;  // [n] integer outputs: sa * sw / sy. Floats: sa * sw
  const float* bias;  // [n] integer outputs: bias / (sa * sw), added before mult. Floats: bias,
                      // added after mult

  // Activations quantized per row (dynamic quantization): scale and zero point of each row; or
  // null. Then acc_init holds the activation offset alone, and mult leaves sa out.
  const float* row_scale;   // [m] or null
  const int32_t* row_zero;  // [m] or null
  const int32_t* col_sum;   // [n] sum_k(w); read only where row_zero is not null

  // Weights with a zero point; or null, both together.
  const int32_t* w_zero;   // [n] or null
  const int32_t* row_sum;  // [m] or null: sum_k(a - za)

  // Residual input of the shape of the output, 8 bits, added in float before the clamp; or null.
  // Integer outputs only.
  const void* add;
  ptrdiff_t add_stride;  // bytes between rows
  float add_scale;       // s_add / sy
  int32_t add_zero;
  int32_t add_signed;  // 0: uint8, 1: int8

  // Clamp, lo <= hi. Integer outputs: in units of output steps and relative to out_zero (ReLU is lo
  // = 0). Floats: in real values.
  float lo, hi;
  int32_t out_zero;

  int32_t gelu;  // float outputs: 1 applies GELU (abi/gelu.h) before the clamp

  // Integer outputs without row_scale: 1 says that no value before the clamp, the residual
  // included, can leave int32, so that the clamp may come after the conversion; 0 that one might.
  int32_t stays_int32;
};

// One m x n tile of output, summed over the whole K = taps * k (the batch-reduce form: a GEMM and a
// 1x1 convolution have one tap, a kh x kw convolution has kh * kw).
//
// A kernel reads no byte of A outside the k bytes of each row and tap, writes nothing but the m x n
// outputs, allocates nothing and keeps no state.
struct GemmArgs {
  const uint8_t* a;    // row r of tap t is the k bytes at a + r * a_stride + tap[t]; uint8 or int8,
                       // see GemmKernel::fn
  ptrdiff_t a_stride;  // bytes
  const ptrdiff_t* tap;  // [taps] bytes
  int32_t taps;
  int32_t k;  // bytes per tap, >= 1, not padded
  const int8_t*
      b;  // packed panel (pack/packed_weight.h): [tap][ceil(k / kr)][panel width][kr], zero padded
  ptrdiff_t b_stride;    // bytes between successive k groups = panel width * kr
  int32_t m;             // valid rows, 1 .. mr
  int32_t n;             // valid columns, 1 .. nr
  void* out;             // element (0, 0) of the tile
  ptrdiff_t out_stride;  // bytes between output rows
  OutKind kind;
  const Epilogue* epilogue;
  int32_t m0, n0;  // where the tile sits in the per-row and per-channel arrays and in Epilogue::add
  void* scratch;   // GemmKernel::scratch_bytes, 64-byte aligned, private to the task

  // Kernels with GemmKernel::prepare read A from here and not from `a`: row r at prepared + r *
  // prepared_stride, 64-byte aligned.
  uint8_t* prepared;
  ptrdiff_t prepared_stride;  // bytes, prepared_row_bytes()
};

using GemmFn = void (*)(const GemmArgs*);

// Layout of packed weights. Kernels whose formats are equal read the same bytes.
struct PackFormat {
  uint16_t nr;      // columns of a full panel
  uint8_t kr;       // successive k of one column that lie together
  uint8_t nr_tail;  // the last panel's width is rounded up to a multiple of this
};

// A row of a KernelSet: declaration, selection, tests and benchmarks all walk these rows.
struct GemmKernel {
  const char* name;  // u8s8_gemm_<mr>x<nr>c<kr>__<isa>; the s8 entry points share it
  GemmFn fn[2];      // [activations are int8]
  // Kernels that read A in a form of their own: writes `m` rows of `a`, all taps, to `prepared`,
  // once for all panels. Null for kernels that read `a` as it lies.
  GemmFn prepare[2];                  // [activations are int8]
  uint16_t prepared_bytes_per_group;  // of a row, for each group of kr k
  PackFormat format;
  uint16_t mr, nr;        // largest call; nr <= format.nr
  uint16_t m_step;        // rows that are computed together: a call of whole steps wastes nothing
  uint16_t k_step;        // a tap whose k is a multiple of this has no tail to handle apart
  uint16_t min_m, max_n;  // chosen from this many rows, up to this many columns, by benchmark
  // What the kernel adds to activations, for dot products that take only the other type: 128 to
  // int8, -128 to uint8, or 0; acc_init includes it. The same for all kernels of an ISA.
  int32_t a_offset[2];     // [activations are int8]
  uint32_t scratch_bytes;  // per task
  uint32_t flags;          // GemmKernelFlags
};

// A prepared row starts with a header of the kernel's own.
constexpr ptrdiff_t kPreparedHeader = 64;

// Bytes of a prepared row of `groups` k groups, all taps together.
static inline ptrdiff_t prepared_row_bytes(const GemmKernel& kernel, ptrdiff_t groups) {
  return kPreparedHeader + (groups * kernel.prepared_bytes_per_group + 63) / 64 * 64;
}

enum GemmKernelFlags : uint32_t {
  kTestOnly = 1,  // exists to stress blocking and packing with an odd tile; never selected unless
                  // forced by name
};

// Dense convolution of images with few channels, whose lines the driver has widened to 16 bits: all
// windows that overlap read the same elements.
//
// fn takes GemmArgs with `a` and `tap` in widened lines: row r of tap t is round_up(k, 2) elements
// at a + r * a_stride + tap[t], all of which may be read; those past k count nothing. Any m; n up
// to nr; the pairs of elements of all taps together are at most kLinePairs.
struct LineKernel {
  const char* name;  // u8s8_lines_x<nr>__<isa>
  void (*fn)(const GemmArgs*);
  // Widens `count` activations. [they are int8]
  void (*widen[2])(const void* from, int64_t count, uint16_t* to);
  PackFormat format;       // that of KernelSet::gemm[0]
  uint16_t nr;             // columns of a call; format.nr is a multiple of it
  int32_t a_offset[2];     // as GemmKernel::a_offset, and the same
  uint32_t scratch_bytes;  // GemmArgs::scratch
};
constexpr int kLinePairs = 160;

// Window kernels: convolutions whose groups are too small for the columns of a GEMM tile. A call
// computes `out_rows` runs of `pixels` output pixels, some of the channels of each. Every address
// is that of channel 0, and arrays over channels are indexed by the channel itself.
struct WindowArgs {
  // Kernels for any window (WindowKernel::kernel is 0), which compute one run of at most
  // kWindowPixels: [pixels][taps], the input pixel under each tap. Kernels for one size of window:
  // [(out_rows - 1) * stride + kernel], the image rows under the runs, each at column 0; or
  // `padding` where a row lies outside the image.
  const uint8_t* const* rows;
  const uint8_t* padding;  // an input pixel that holds the zero point
  int32_t taps;
  int32_t out_rows, pixels;
  // Kernels for one size of window only. Image column x of a row lies at x * pixel_stride for 0 <=
  // x < columns and is `padding` elsewhere; the first window starts at column `first`.
  ptrdiff_t pixel_stride;
  int32_t columns, first;
  int32_t begin, end;  // depthwise: channels, `begin` a multiple of kWindowSplit; grouped: blocks
  const void* w;       // depthwise: int8 [channels / 16][taps][16], zero padded to a multiple of
                       // kWindowSplit channels; grouped: GroupedBlock records
  int32_t in_channels, chunks;           // grouped only; see GroupedBlock
  void* out;                             // first pixel of the first run
  ptrdiff_t out_stride, out_row_stride;  // bytes between pixels and between runs
  OutKind kind;
  const Epilogue* epilogue;
  int32_t m0;  // index in Epilogue::add of the first pixel, which run by run the others follow
};
constexpr int kDepthwiseBlock = 16;
constexpr int kWindowSplit = 64;
constexpr int kWindowPixels = 32;

// Up to 16 output channels of small groups whose inputs lie within 16 bytes, however k and n
// divide. The record goes on with uint8 [chunks][16][4] `pick` and int8 [taps][chunks][16][4]
// weights: lane i multiplies the four bytes pick[chunk][i] of the 16 that start at byte load[chunk]
// of the pixel by four weights. A pick above 127 means zero, and so does a weight where k ends.
//
// `load` leaves no byte behind the pixel's last unless a pixel has fewer than 16.
constexpr int kGroupedLanes = 16;
constexpr int kGroupedChunks = 4;
struct GroupedBlock {
  int32_t first, count;  // output channels
  int32_t load[kGroupedChunks];
  int32_t unused[10];  // to 64 bytes
};

// Bytes from one record to the next.
constexpr ptrdiff_t grouped_record_bytes(int32_t taps, int32_t chunks) {
  return 64 + (ptrdiff_t{taps} + 1) * chunks * kGroupedLanes * 4;
}

using WindowFn = void (*)(const WindowArgs*);

enum class WindowKind : uint8_t { kDepthwise, kGrouped };

// A row of a KernelSet. The first that a layer's kind, kernel and stride admit is chosen.
struct WindowKernel {
  const char* name;  // u8s8_<kind>_<kernel>x<kernel>s<stride>_x<channels>__<isa>; for any window
                     // u8s8_<kind>_any_x<channels>__<isa>
  WindowKind kind;
  // Of square windows of neighbouring pixels of a plane and, if grouped, pixels of at least 16
  // channels. 0: any window.
  uint8_t kernel, stride;
  WindowFn fn[2];       // [activations are int8]
  int32_t a_offset[2];  // as GemmKernel::a_offset; the same for all rows of an ISA
};

// Element types of the 8-bit element-wise functions: index 0 = uint8, 1 = int8.
struct BinaryArgs {  // out = clamp(rne(a' * a_scale + b' * b_scale)) + out_zero, a' = a - a_zero;
                     // mul: a' * b' * a_scale
  const void *a, *b;
  void* out;
  int64_t size;
  float a_scale, b_scale;
  int32_t a_zero, b_zero, out_zero;
  float lo, hi;  // relative to out_zero
};

struct UnaryArgs {  // out = clamp(rne((in - in_zero) * scale)) + out_zero
  const void* in;
  void* out;
  int64_t size;  // of a row
  float scale;
  int32_t in_zero, out_zero;
  float lo, hi;  // relative to out_zero
  int64_t rows = 1;
  ptrdiff_t in_stride = 0, out_stride = 0;  // bytes between rows
};

// A run of output pixels of pooling. Each covers a window of taps[0] x taps[1] x taps[2] input
// pixels (depth, height, width) of `channels` bytes; a window without taps has maximum qmin and
// mean 0.
struct PoolArgs {
  const void* in;  // first tap of the first window
  int32_t taps[3];
  ptrdiff_t tap_stride[3];  // bytes
  int64_t pixels;
  ptrdiff_t in_stride;  // bytes between the windows of neighbouring outputs
  int32_t channels;
  void* out;
  ptrdiff_t out_stride;  // bytes between output pixels
  float scale;           // average: 1 / divisor
  int32_t zero_point;    // average: out = zero_point + rne(sum(in - zero_point) * scale), saturated
};

// A run of output pixels of linear interpolation along one, two or three dimensions:
// out = zero_point + rne(sum(w * (in - zero_point)) / kInterpolationOne), the sum over the left and
// the right input pixel in each of 1, 2 or 4 rows.
struct InterpolateArgs {
  const void* const* rows;  // [row_count] addresses of input rows
  int32_t row_count;
  const ptrdiff_t *left, *right;  // [pixels] where in a row the two pixels lie, bytes
  // [pixels][row_count] left weight + 65536 * right weight; all >= 0, those of one pixel sum to
  // kInterpolationOne.
  const int32_t* weights;
  int32_t weight_bits;  // all of `weights`, or-ed
  int64_t pixels;
  int32_t channels;
  void* out;
  ptrdiff_t out_stride;  // bytes between output pixels
  int32_t zero_point;
};
constexpr int32_t kInterpolationOne = 1 << 14;

enum class EmbeddingMode : uint8_t { kSum = 0, kMean = 1, kMax = 2 };

// Bags of rows of an embedding table. Row i is columns of q, bytes or nibbles, that stand for
// q * scale + offset. A bag's rows are those of its indices, in order, without `padding`; they have
// weights w: `weights`, 1, or for the mean 1 / count. All in float32, each operation rounded:
//   sum, mean: kEmbeddingGroup rows at a time: x = q * (w * scale) + x, rounded once, for each row,
//              then x += the sum of the group's w * offset
//   max:       x = max(x, q * scale + offset)
// and 0 for a bag without rows. Columns of a bag do not depend on each other, nor do bags.
struct EmbeddingArgs {
  const uint8_t* table;  // [table_rows][row_bytes]; nibbles: column 2j is the lower half of byte j
  ptrdiff_t row_bytes;   // columns, or half of that, rounded up
  const float* qparams;  // [table_rows][2]: scale, offset
  int64_t table_rows;
  int64_t columns;
  const void* indices;  // [count], int32 or int64
  int64_t count;
  bool is_64_bit;        // indices and offsets
  const void* offsets;   // [offset_count] where each bag begins, which is where the one before ends
  int64_t offset_count;  // a last bag without a successor ends at `count`
  int64_t bag_length;    // of every bag where `offsets` is null
  const float* weights;  // [count], or null; sums only
  int64_t padding;       // an index, or -1
  EmbeddingMode mode;
  int64_t bag_begin, bag_end;  // the bags to compute
  float* out;                  // [bags][columns], from bag 0 on
};
constexpr int kEmbeddingGroup = 8;

// Returns -1, or the first position in `indices` of one that is not in the table, where it stops.
using EmbeddingFn = int64_t (*)(const EmbeddingArgs*);

// The smallest and largest of some values and 0; both NaN where one of the values is NaN.
struct FloatRange {
  float lo = 0.0f, hi = 0.0f;
};

// One row of a recurrent layer at one time step: `input` and `hidden` are the gates that come from
// the input and from the hidden state, [gates][size] each, in torch's order; units are independent
// of each other. sigmoid and tanh are those of abi/cell.h; products and sums are rounded one by
// one.
//
// LSTM (i, f, g, o): c = sigmoid(f) * c + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c), each gate
// being input + hidden.
// GRU (r, z, n): n' = tanh(n of input + sigmoid(r) * n of hidden), h = (h - n') * sigmoid(z) + n'.
// RNN: h = tanh(input + hidden), or max(0, input + hidden).
struct CellArgs {
  const float *input, *hidden;
  float* c;  // LSTM only: read and written
  float* h;  // written; GRU reads it, too; RNN: may be `input`
  int32_t size;
};

using CellFn = void (*)(const CellArgs*);

enum class CellKind : uint8_t { kLstm = 0, kGru = 1, kRnnTanh = 2, kRnnRelu = 3 };
constexpr int kCellKinds = 4;

// Rows of bytes through a linear function of their own for each column:
// out = saturate(rne(t) + out_zero), at least `lo`, where t is, in float32 with fma(a, b, c) =
// a * b + c rounded once,
//   kScaleShift: fma(q, scale[c], shift[c])
//   kNormalize:  fma(fma(q, row_scale[r], row_shift[r]), scale[c], shift[c])
//   kPrelu:      (q - center) * factor where q >= center, else (q - center) * scale[c]
// No product or sum is NaN; infinities saturate. (One rounding for two operations costs scalar code
// a detour, and saves vector code a quarter of its arithmetic.)
enum class AffineKind : uint8_t { kScaleShift, kNormalize, kPrelu };
constexpr int kAffineKinds = 3;
struct AffineArgs {
  const void* in;
  void* out;
  int64_t rows, columns;
  ptrdiff_t in_stride, out_stride;  // bytes between rows
  // [columns], or one value for all columns, kAffinePad times, where `uniform`. Padded to a
  // multiple of kAffinePad.
  const float *scale, *shift;
  const float *row_scale, *row_shift;  // [rows], kNormalize only
  int32_t uniform;
  float center, factor;  // kPrelu only
  int32_t out_zero, lo;
  int32_t out_signed;   // 0: uint8, 1: int8
  int32_t stays_int32;  // 1 says that |t| is below 2^30 for every element; 0 that it may not be
};
constexpr int kAffinePad = 64;

// What a column of column_moments() may have so that its sums are int32.
constexpr int64_t kMomentRows = 32768;

// So many attention weights have a sum within int32.
constexpr int64_t kAttentionKeys = 32768;

using LookupFn = void (*)(const uint8_t* table, const void* in, int64_t size, void* out);

// Softmax along rows: with d = (largest q of the row) - q and S = the exact sum of exps[d],
// out = saturate(rne(float(exps[d]) * float(inv_scale / S)) + out_zero); inv_scale / S in double.
struct SoftmaxArgs {
  const void* in;
  void* out;
  int64_t rows, size;
  ptrdiff_t in_stride, out_stride;  // bytes between rows
  // [256]: exps[d] = rne(high[d / 16] * low[d % 16]) in float32, at most 2^30 - 64, so that 4 of
  // them fit 32 bits; exps[0] > 0.
  const int32_t* exps;
  const float *high, *low;  // [16]
  LookupFn lookup;          // ElementwiseFns::lookup or lookup_vbmi
  double inv_scale;
  int32_t in_flip;  // xor-ed to the input's bytes: 0 for uint8, 128 for int8
  int32_t out_zero;
  int32_t out_signed;  // 0: uint8, 1: int8
};

// What the sums of one row of attention come to: with t = (float(high) * 256 + float(low)) * factor
// + shift, each operation rounded, out = saturate(rne(t) + out_zero).
struct AttentionOutputArgs {
  const int32_t *high, *low;  // sums of values times the upper and the lower byte of the weights
  int64_t size;
  float factor, shift;
  int32_t out_zero;
  int32_t out_signed;  // 0: uint8, 1: int8
  void* out;
};

// Values rounded to levels and back: with t = rne(x * inverse), in float32,
//   out = (min(max(t, lo), hi) + 0) * scale, and inside = 1 where lo <= t <= hi, else 0.
// NaN stays NaN and is not inside. Adding 0 leaves no negative zero.
struct FakeQuantizeArgs {
  const float* x;
  int64_t size;
  float inverse, scale;
  float lo, hi;  // lo <= hi, finite
  float* out;
  uint8_t* inside;  // or null
};

struct ElementwiseFns {
  // q = clamp(zero + rne(x * inv_scale), lo, hi); NaN gives clamp(zero). [output is int8]
  void (*quantize[2])(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                      int32_t hi, void* q);
  // x = float(q - zero) * scale. [input is int8]
  void (*dequantize[2])(const void* q, int64_t size, float scale, int32_t zero, float* x);
  void (*add[2])(const BinaryArgs*);           // [a, b and out are int8]
  void (*mul[2])(const BinaryArgs*);           // [a, b and out are int8]
  void (*requantize[2][2])(const UnaryArgs*);  // [input is int8][output is int8]
  void (*clamp[2])(const void* in, int64_t size, int32_t lo, int32_t hi, void* out);  // [int8]
  // Extends `range` by the values, and perhaps by 0 where size is no multiple of 16.
  void (*range)(const float* x, int64_t size, FloatRange* range);
  void (*to_float[2])(const void* halves, int64_t size, float* x);  // [0: bfloat16, 1: float16]
  void (*max_pool[2])(const PoolArgs*);                             // [int8]
  void (*avg_pool[2])(const PoolArgs*);                             // [int8]
  void (*interpolate[2])(const InterpolateArgs*);                   // [int8]
  CellFn cell[kCellKinds];                                          // [CellKind]
  EmbeddingFn embedding[2];                                         // [q are nibbles]
  // out[i] = table[in[i]], bytes; in place too.
  LookupFn lookup;
  // The same for CPUs that have AVX512_VBMI beside what the ISA requires; or null.
  LookupFn lookup_vbmi;
  void (*affine[kAffineKinds][2])(const AffineArgs*);  // [input is int8]
  // Adds the sum and the sum of squares of the bytes, xor-ed with `flip`, to sums[0] and sums[1].
  void (*moments)(const void* q, int64_t size, int32_t flip, int64_t* sums);
  // Sums and sums of squares of each column of up to kMomentRows rows.
  void (*column_moments)(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns,
                         int32_t flip, int32_t* sums, int32_t* squares);
  void (*softmax)(const SoftmaxArgs*);
  // A row of attention weights (abi/attention.h) of float(scores[i] - largest) * factor, as bytes:
  // weight = 256 * high + low. Returns their sum. size is 1 to kAttentionKeys, factor finite and
  // > 0, and the scores are less than 2^31 apart.
  int32_t (*attention_weights)(const int32_t* scores, int64_t size, float factor, uint8_t* high,
                               uint8_t* low);
  void (*attention_output)(const AttentionOutputArgs*);
  void (*fake_quantize)(const FakeQuantizeArgs*);
  // out[i] = gradient[i] * float(inside[i]), inside[i] 0 or 1.
  void (*masked_gradient)(const float* gradient, const uint8_t* inside, int64_t size, float* out);
};

// All that one ISA folder provides.
struct KernelSet {
  const char* isa;
  const GemmKernel* gemm;  // the first that a shape's min_m and max_n admit is chosen;
                           // gemm[0].format is the format that weights are packed in
  int32_t gemm_count;
  const WindowKernel* window;
  int32_t window_count;
  ElementwiseFns elementwise;
  // Called at the start and end of every task that runs GEMM kernels (AMX configures its tiles
  // here: other code on the same thread, torch's own matmul among it, releases them); or null.
  void (*task_begin)();
  void (*task_end)();
  // The arithmetic roof: runs `steps` rounds of the GEMM kernels' multiply-accumulate instructions
  // on registers alone, without loads, and returns how many multiply-accumulates those were.
  // Bracketed by the hooks above as kernels are.
  int64_t (*peak)(int64_t steps);
  // The bandwidth roof: reads `size` bytes (64-byte aligned, a multiple of 256) with the ISA's
  // widest loads and returns something that depends on all of them.
  int64_t (*read)(const void* data, int64_t size);
  const LineKernel* lines =
      nullptr;  // or null: the GEMM kernels take such layers as they do others
};

}  // namespace octavo

#define OCTAVO_CONCAT_(a, b) a##b
#define OCTAVO_CONCAT(a, b) OCTAVO_CONCAT_(a, b)
// The one global symbol of an ISA folder. OCTAVO_ISA_NAME is defined by the build from the folder's
// isa.cmake.
#define OCTAVO_ISA_TABLE(isa) OCTAVO_CONCAT(octavo_isa_table_, isa)
