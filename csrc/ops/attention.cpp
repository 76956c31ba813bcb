#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// What a task keeps for its rows: near the L2 cache's size, and under thread_scratch()'s bound.
constexpr int64_t kBlockBytes = 256 * 1024;
constexpr int64_t kMostBytes = 800 * 1024;

const uint8_t* token(const HeadInput& x, const AttentionShape& shape, int64_t group, int64_t at) {
  const HeadStrides& s = x.strides;
  return static_cast<const uint8_t*>(x.data) + group / shape.heads * s.batch +
         group % shape.heads * s.head + at * s.token;
}

// The xor that makes int8 of a tensor's bytes.
uint8_t flip_of(const HeadInput& x) { return x.is_signed ? 0 : 0x80; }

// A panel of keys, which are columns; and the sum of each.
void fill_keys(const AttentionShape& shape, const HeadInput& k, const PanelTap& tap, int32_t group,
               int32_t column, int8_t* packed, int32_t* sums) {
  const int32_t size = shape.size;
  uint8_t* const plain = thread_scratch(static_cast<size_t>(tap.columns) * size);
  const uint8_t flip = flip_of(k);
  for (int32_t c = 0; c < tap.columns; ++c) {
    const uint8_t* from = token(k, shape, group, column + c);
    for (int32_t i = 0; i < size; ++i) plain[c * size + i] = from[i] ^ flip;
  }
  const PanelTap dense{tap.columns, tap.width, tap.k, tap.kr, size};
  pack_tap(dense, reinterpret_cast<const int8_t*>(plain), packed, sums);
}

// to[4 i + j] = from[j * pitch + i] ^ flip, in a loop that compilers vectorize.
void interleave(const uint8_t* __restrict from, ptrdiff_t pitch, int32_t count, uint8_t flip,
                uint8_t* __restrict to) {
  const uint8_t *a = from, *b = a + pitch, *c = b + pitch, *d = c + pitch;
  const uint32_t flips = flip * 0x01010101u;
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t four = static_cast<uint32_t>(a[i]) | static_cast<uint32_t>(b[i]) << 8 |
                          static_cast<uint32_t>(c[i]) << 16 | static_cast<uint32_t>(d[i]) << 24;
    const uint32_t flipped = four ^ flips;  // little-endian, as the kernels are
    std::memcpy(to + 4 * i, &flipped, 4);
  }
}

// The same for eight rows: to[8 i + j] = from[j * pitch + i] ^ flip.
void interleave8(const uint8_t* __restrict from, ptrdiff_t pitch, int32_t count, uint8_t flip,
                 uint8_t* __restrict to) {
  const uint64_t flips = flip * 0x0101010101010101u;
  for (int32_t i = 0; i < count; ++i) {
    uint64_t eight = 0;
    for (int j = 0; j < 8; ++j) eight |= uint64_t{from[j * pitch + i]} << (8 * j);
    const uint64_t flipped = eight ^ flips;
    std::memcpy(to + 8 * i, &flipped, 8);
  }
}

// Takes `offset` times each column of a packed panel from `start`: what kernels that add an offset
// to activations begin a product with.
void subtract_offset(const PanelTap& tap, const int8_t* packed, int32_t offset, int32_t* start) {
  for (int64_t k = 0; k < tap.k; k += tap.kr, packed += ptrdiff_t{tap.width} * tap.kr) {
    for (int32_t i = 0; i < tap.columns; ++i) {
      for (int32_t j = 0; j < tap.kr; ++j) start[i] -= offset * packed[i * tap.kr + j];
    }
  }
}

// A panel of values, whose rows are keys: kr rows at a time, byte by byte.
void fill_values(const AttentionShape& shape, const HeadInput& v, const PanelTap& tap,
                 int32_t group, int32_t column, int8_t* packed) {
  const uint8_t flip = flip_of(v);
  const ptrdiff_t pitch = v.strides.token;
  uint8_t* to = reinterpret_cast<uint8_t*>(packed);
  for (int64_t key = 0; key < shape.keys; key += tap.kr, to += ptrdiff_t{tap.width} * tap.kr) {
    const uint8_t* from = token(v, shape, group, key) + column;
    if (tap.kr == 4 && key + 4 <= shape.keys) {
      interleave(from, pitch, tap.columns, flip, to);
    } else if (tap.kr == 8 && key + 8 <= shape.keys) {
      interleave8(from, pitch, tap.columns, flip, to);
    } else {
      for (int32_t i = 0; i < tap.columns; ++i) {
        for (int32_t j = 0; j < tap.kr; ++j)
          to[i * tap.kr + j] = key + j < shape.keys ? from[j * pitch + i] ^ flip : 0;
      }
    }
    std::fill(to + tap.columns * tap.kr, to + tap.width * tap.kr, uint8_t{0});
  }
}

void check(const AttentionShape& shape, const HeadInput& q, const HeadInput& k, const HeadInput& v,
           float scale, const HeadOutput& out) {
  check_qparams("query", q.qparams, q.is_signed);
  check_qparams("key", k.qparams, k.is_signed);
  check_qparams("value", v.qparams, v.is_signed);
  check_qparams("output", out.qparams, out.is_signed);
  if (!(scale > 0.0f) || !std::isfinite(scale)) {
    throw std::invalid_argument("scale is " + std::to_string(scale) +
                                "; it must be positive and finite");
  }
  if (shape.keys < 1 || shape.keys > kAttentionKeys) {
    throw std::invalid_argument("key has " + std::to_string(shape.keys) + " tokens; 1 to " +
                                std::to_string(kAttentionKeys) + " are supported");
  }
  if (shape.size < 1 || shape.size > kAttentionSize) {
    throw std::invalid_argument("query and key have " + std::to_string(shape.size) +
                                " elements for each head; 1 to " + std::to_string(kAttentionSize) +
                                " are supported");
  }
  if (shape.batch * shape.heads > std::numeric_limits<int32_t>::max() / kAttentionKeys) {
    throw std::invalid_argument(std::to_string(shape.batch * shape.heads) +
                                " heads of all batches are too many for one call");
  }
}

// Both matrices of all heads, as kernels read them, and numbers that all tasks need.
class Attention {
 public:
  Attention(const AttentionShape& shape, const HeadInput& q, const HeadInput& k, const HeadInput& v,
            float scale, const HeadOutput& out)
      : shape_(shape),
        q_(q),
        out_(out),
        set_(cpu::kernels()),
        factor_(static_cast<float>(static_cast<double>(q.qparams.scale) *
                                   static_cast<double>(k.qparams.scale) *
                                   static_cast<double>(scale))),
        ratio_(static_cast<double>(v.qparams.scale) / static_cast<double>(out.qparams.scale)) {
    const int32_t value_zero = v.qparams.zero_point - (v.is_signed ? 0 : 128);
    shift_ = static_cast<float>(-ratio_ * value_zero);
    if (!std::isfinite(factor_) || !(factor_ > 0.0f) ||
        !std::isfinite(static_cast<float>(ratio_)) || !std::isfinite(shift_)) {
      throw std::invalid_argument(
          "attention: the scales of query, key, value and output are too far apart");
    }
    pack(k, v);
    plan();
  }

  void run() const {
    parallel_for(groups() * blocks_, cost_, [&](int64_t task) {
      const int64_t first = task % blocks_ * rows_;
      run_block(static_cast<int32_t>(task / blocks_), first,
                static_cast<int32_t>(std::min<int64_t>(rows_, shape_.queries - first)));
    });
  }

 private:
  int32_t groups() const { return static_cast<int32_t>(shape_.batch * shape_.heads); }
  int32_t keys() const { return static_cast<int32_t>(shape_.keys); }
  const int32_t* value_start(int32_t group) const {
    return value_start_.as<int32_t>() + group * shape_.value_size;
  }

  void pack(const HeadInput& k, const HeadInput& v) {
    const PackFormat format = cpu::active_format(set_);
    const int64_t columns = groups() * shape_.keys;
    const int64_t value_columns = groups() * shape_.value_size;
    start_ = AlignedBuffer::zeroed((columns + kChannelPad) * sizeof(int32_t));
    value_start_ = AlignedBuffer::zeroed((value_columns + kChannelPad) * sizeof(int32_t));
    zeros_ = AlignedBuffer::zeroed(
        (std::max<int64_t>(shape_.keys, shape_.value_size) + kChannelPad) * sizeof(float));
    int32_t* const sums = start_.as<int32_t>();
    const int32_t weight_offset = set_.gemm[0].a_offset[false];
    keys_ = std::make_unique<QuantizedWeight>(PackedWeight::pack(
        {groups(), keys(), 1, shape_.size}, format,
        [&](const PanelTap& tap, int32_t group, int32_t column, int8_t* to) {
          fill_keys(shape_, k, tap, group, column, to, sums + group * shape_.keys + column);
        }));
    values_ = std::make_unique<QuantizedWeight>(PackedWeight::pack(
        {groups(), shape_.value_size, 1, keys()}, format,
        [&](const PanelTap& tap, int32_t group, int32_t column, int8_t* to) {
          fill_values(shape_, v, tap, group, column, to);
          if (weight_offset != 0)
            subtract_offset(tap, to, weight_offset,
                            value_start_.as<int32_t>() + group * shape_.value_size + column);
        }));
    const int32_t offset = set_.gemm[0].a_offset[q_.is_signed];
    for (int64_t i = 0; i < columns; ++i) sums[i] *= -(q_.qparams.zero_point + offset);
  }

  // Equal blocks of rows that the caches hold.
  void plan() {
    scores_pitch_ = round_up(shape_.keys * sizeof(int32_t), kAlignment);
    weights_pitch_ = round_up(shape_.keys, kAlignment);
    sums_pitch_ = round_up(shape_.value_size * sizeof(int32_t), kAlignment);
    const GemmCall scores = call(*keys_, q_.is_signed, shape_.queries);
    const GemmCall sums = call(*values_, false, 2 * shape_.queries);
    const int64_t own = scores_pitch_ + 2 * weights_pitch_ + 2 * sums_pitch_;
    const int64_t row = own + prepared_bytes(scores, 1) + 2 * prepared_bytes(sums, 1);
    const int64_t step = scores.kernel->m_step;
    const int64_t wanted = std::max<int64_t>(kBlockBytes / row, std::min(step, kMostBytes / row));
    const int64_t most = std::max<int64_t>(1, std::min(wanted, shape_.queries));
    rows_ =
        std::min(most, round_up(ceil_div(shape_.queries, ceil_div(shape_.queries, most)), step));
    blocks_ = ceil_div(shape_.queries, rows_);
    cost_ = groups() * shape_.queries * shape_.keys * (shape_.size + 2 * shape_.value_size + 16);
    cpu::set_last_kernel(scores.kernel->name);
  }

  // A product whose sums are kept as they are.
  GemmCall call(const QuantizedWeight& weight, bool a_signed, int64_t rows) const {
    GemmCall c{};
    c.set = &set_;
    c.weight = &weight;
    c.packed = &weight.packed(cpu::active_format(set_));
    c.kernel = cpu::select_gemm(set_, c.packed->format(), rows, c.packed->panel_columns(0));
    if (!c.kernel)
      throw std::logic_error("no kernel of the active ISA reads the format that it packs");
    c.kind = OutKind::kI32;
    c.a_signed = a_signed;
    return c;
  }

  // All columns of one group, for `rows` rows of A; `start` is what their sums begin with.
  void multiply(GemmCall& c, int32_t group, const uint8_t* a, ptrdiff_t a_stride, int32_t rows,
                const int32_t* start, uint8_t* out, ptrdiff_t out_stride, uint8_t* scratch) const {
    const WeightShape& shape = c.weight->shape();
    const ptrdiff_t first = ptrdiff_t{group} * shape.n;  // where kernels index from
    c.epilogue.acc_init = start - first;
    c.epilogue.mult = c.epilogue.bias = zeros_.as<float>() - first;
    c.out = reinterpret_cast<int32_t*>(out) - first;
    c.out_stride = out_stride;
    const ptrdiff_t origin = 0;
    const RowRun run{a, a_stride, &origin, 1, shape.k, rows, 0};
    const KernelScope scope(set_);
    run_rows(c, {group, 0, c.packed->panels()}, &run, 1, nullptr, scratch);
  }

  void run_block(int32_t group, int64_t first, int32_t rows) const {
    GemmCall products = call(*keys_, q_.is_signed, rows);
    GemmCall sums = call(*values_, false, 2 * rows);
    const size_t own = rows * (scores_pitch_ + 2 * weights_pitch_ + 2 * sums_pitch_);
    uint8_t* const scores =
        thread_scratch(own + std::max(run_scratch_bytes(products, rows),
                                      run_scratch_bytes(sums, 2 * int64_t{rows})));
    uint8_t* const weights = scores + rows * scores_pitch_;  // upper bytes, then lower ones
    uint8_t* const totals = weights + 2 * rows * weights_pitch_;
    uint8_t* const scratch = scores + own;
    multiply(products, group, token(q_, shape_, group, first), q_.strides.token, rows,
             start_.as<int32_t>() + group * shape_.keys, scores, scores_pitch_, scratch);
    // The row's sum takes the place of its first score.
    for (int32_t r = 0; r < rows; ++r) {
      int32_t* const row = reinterpret_cast<int32_t*>(scores + r * scores_pitch_);
      uint8_t* const high = weights + r * weights_pitch_;
      row[0] = set_.elementwise.attention_weights(row, shape_.keys, factor_, high,
                                                  high + rows * weights_pitch_);
    }
    multiply(sums, group, weights, weights_pitch_, 2 * rows, value_start(group), totals,
             sums_pitch_, scratch);
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t weight = *reinterpret_cast<int32_t*>(scores + r * scores_pitch_);
      write_row(group, first + r, totals + r * sums_pitch_, totals + (rows + r) * sums_pitch_,
                weight);
    }
  }

  void write_row(int32_t group, int64_t row, const uint8_t* high, const uint8_t* low,
                 int32_t weight) const {
    const HeadStrides& s = out_.strides;
    AttentionOutputArgs args{};
    args.high = reinterpret_cast<const int32_t*>(high);
    args.low = reinterpret_cast<const int32_t*>(low);
    args.size = shape_.value_size;
    args.factor = static_cast<float>(ratio_ / weight);
    args.shift = shift_;
    args.out_zero = out_.qparams.zero_point;
    args.out_signed = out_.is_signed;
    args.out = static_cast<uint8_t*>(out_.data) + group / shape_.heads * s.batch +
               group % shape_.heads * s.head + row * s.token;
    set_.elementwise.attention_output(&args);
  }

  const AttentionShape shape_;
  const HeadInput q_;
  const HeadOutput out_;
  const KernelSet& set_;
  const float factor_;         // of scores
  const double ratio_;         // of the scales of values and output
  float shift_;                // what the values' zero point comes to
  AlignedBuffer start_;        // [groups][keys] what sums of products begin with
  AlignedBuffer value_start_;  // [groups][value_size] the same for sums of values
  AlignedBuffer zeros_;
  std::unique_ptr<QuantizedWeight> keys_, values_;
  int64_t scores_pitch_, weights_pitch_, sums_pitch_, rows_, blocks_, cost_;
};

}  // namespace

void attention(const AttentionShape& shape, const HeadInput& q, const HeadInput& k,
               const HeadInput& v, float scale, const HeadOutput& out) {
  check(shape, q, k, v, scale, out);
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0 || shape.value_size == 0) return;
  Attention(shape, q, k, v, scale, out).run();
}

}  // namespace octavo
