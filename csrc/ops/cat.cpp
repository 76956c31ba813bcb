#include "ops/cat.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "ops/copy_short.h"
#include "ops/row_runs.h"
#include "ops/unary_table.h"
#include "parallel/parallel.h"
#include "util/aligned_buffer.h"

namespace octavo {
namespace {

constexpr int64_t kBlockBytes = 1 << 15;  // of the output, for each task

void copy_rows(const uint8_t* from, ptrdiff_t from_stride, int64_t rows, int64_t size, uint8_t* to,
               ptrdiff_t to_stride) {
  if (from_stride == size && to_stride == size) {
    std::memcpy(to, from, rows * size);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) copy_short(from + r * from_stride, size, to + r * to_stride);
}

struct Rows {
  int64_t begin, count;
};
struct Columns {
  int64_t begin, end;
};

class Concatenation {
 public:
  Concatenation(const CatPart* parts, int64_t count, bool is_signed, QParams output, void* out,
                ptrdiff_t out_stride)
      : parts_(parts),
        count_(count),
        is_signed_(is_signed),
        output_(output),
        out_(static_cast<uint8_t*>(out)),
        out_stride_(out_stride),
        requantize_(cpu::kernels().elementwise.requantize[is_signed][is_signed]) {
    check_qparams("output", output, is_signed);
    for (int64_t i = 0; i < count; ++i) check_part(i);
  }

  int64_t row_bytes() const { return row_bytes_; }

  // Writes a block of the output.
  void run(Rows rows, Columns columns) const {
    int64_t place = 0;
    for (int64_t i = 0; i < count_; place += parts_[i++].row_bytes) {
      const CatPart& part = parts_[i];
      const int64_t begin = std::max(columns.begin, place);
      const int64_t end = std::min(columns.end, place + part.row_bytes);
      if (begin >= end) continue;
      const uint8_t* whole = static_cast<const uint8_t*>(part.data);
      if (whole == out_ + place && part.stride == out_stride_) continue;
      write(part, whole + (begin - place) + rows.begin * part.stride, rows.count, end - begin,
            out_ + begin + rows.begin * out_stride_);
    }
  }

 private:
  bool keeps_values(const CatPart& part) const {
    return part.qparams.scale == output_.scale && part.qparams.zero_point == output_.zero_point;
  }

  void check_part(int64_t i) {
    const CatPart& part = parts_[i];
    const std::string name = "tensor " + std::to_string(i);
    check_qparams(name.c_str(), part.qparams, is_signed_);
    if (!std::isfinite(part.qparams.scale / output_.scale)) {
      throw std::invalid_argument("cat: the ratio of the scales of " + name +
                                  " and the output is not a finite float32");
    }
    if (part.data == out_ + row_bytes_ && part.row_bytes > 0 && !keeps_values(part)) {
      throw std::invalid_argument("cat: " + name +
                                  " lies in the output, but with other qparams than it has");
    }
    row_bytes_ += part.row_bytes;
  }

  void write(const CatPart& part, const uint8_t* from, int64_t rows, int64_t size,
             uint8_t* to) const {
    if (keeps_values(part)) return copy_rows(from, part.stride, rows, size, to, out_stride_);
    UnaryArgs args{};
    args.in = from;
    args.out = to;
    args.size = size;
    args.rows = rows;
    args.in_stride = part.stride;
    args.out_stride = out_stride_;
    args.scale = part.qparams.scale / output_.scale;
    args.in_zero = part.qparams.zero_point;
    args.out_zero = output_.zero_point;
    args.lo = static_cast<float>((is_signed_ ? -128 : 0) - output_.zero_point);
    args.hi = static_cast<float>((is_signed_ ? 127 : 255) - output_.zero_point);
    const Lookup find = active_lookup();
    if (size < find.worth) return requantize_(&args);
    uint8_t table[256];
    args.in = kAllBytes.data();
    args.out = table;
    args.size = 256;
    args.rows = 1;
    requantize_(&args);
    for (int64_t r = 0; r < rows; ++r) {
      find.run(table, from + r * part.stride, size, to + r * out_stride_);
    }
  }

  const CatPart* parts_;
  int64_t count_;
  bool is_signed_;
  QParams output_;
  uint8_t* out_;
  ptrdiff_t out_stride_;
  void (*requantize_)(const UnaryArgs*);
  int64_t row_bytes_ = 0;
};

}  // namespace

void cat(const CatPart* parts, int64_t count, int64_t rows, bool is_signed, QParams output,
         void* out, ptrdiff_t out_stride) {
  const Concatenation all(parts, count, is_signed, output, out, out_stride);
  const int64_t row_bytes = all.row_bytes();
  if (row_bytes == 0 || rows == 0) return;
  const int64_t across = ceil_div(row_bytes, kBlockBytes);
  const int64_t block = std::max<int64_t>(1, kBlockBytes / row_bytes);
  parallel_for(ceil_div(rows, block) * across, rows * row_bytes, [&](int64_t task) {
    const int64_t row = task / across * block, column = task % across * kBlockBytes;
    all.run({row, std::min(block, rows - row)},
            {column, std::min(column + kBlockBytes, row_bytes)});
  });
}

}  // namespace octavo
