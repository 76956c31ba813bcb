#include <cmath>

#include "ref/reference.h"

namespace octavo::ref {

void affine_kernel(const AffineArgs& args, AffineKind kind, bool is_signed) {
  const Bytes in{args.in, is_signed};
  const int32_t hi = args.out_signed ? 127 : 255;
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t c = 0; c < args.columns; ++c) {
      const float q = static_cast<float>(in.at(r * args.in_stride + c));
      const float scale = args.scale[args.uniform ? 0 : c];
      float t = 0.0f;
      if (kind == AffineKind::kPrelu) {
        t = q - args.center;
        t = t >= 0.0f ? t * args.factor : t * scale;
      } else {
        t = q;
        if (kind == AffineKind::kNormalize) t = std::fma(t, args.row_scale[r], args.row_shift[r]);
        t = std::fma(t, scale, args.shift[args.uniform ? 0 : c]);
      }
      store_byte(args.out, r * args.out_stride + c, args.out_signed != 0,
                 args.out_zero + round_and_clamp(t, args.lo - args.out_zero, hi - args.out_zero));
    }
  }
}

void column_moments(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns, int32_t flip,
                    int64_t* sums, int64_t* squares) {
  for (int64_t c = 0; c < columns; ++c) {
    sums[c] = squares[c] = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t v = static_cast<const uint8_t*>(q)[r * stride + c] ^ flip;
      sums[c] += v;
      squares[c] += v * v;
    }
  }
}

void softmax_kernel(const SoftmaxArgs& args) {
  const int32_t lo = args.out_signed ? -128 : 0;
  for (int64_t r = 0; r < args.rows; ++r) {
    const uint8_t* in = static_cast<const uint8_t*>(args.in) + r * args.in_stride;
    int32_t largest = 0;
    for (int64_t i = 0; i < args.size; ++i) {
      if ((in[i] ^ args.in_flip) > largest) largest = in[i] ^ args.in_flip;
    }
    int64_t sum = 0;
    for (int64_t i = 0; i < args.size; ++i) sum += args.exps[largest - (in[i] ^ args.in_flip)];
    const float factor = static_cast<float>(args.inv_scale / static_cast<double>(sum));
    for (int64_t i = 0; i < args.size; ++i) {
      const float t = static_cast<float>(args.exps[largest - (in[i] ^ args.in_flip)]) * factor;
      store_byte(args.out, r * args.out_stride + i, args.out_signed != 0,
                 args.out_zero + round_and_clamp(t, lo - args.out_zero, lo + 255 - args.out_zero));
    }
  }
}

}  // namespace octavo::ref
