// Linear functions by column and moments on vectors of any width: `L` is one of the FloatBytes
// vectors (normalize_<vectors>-inl.h).
#pragma once

#include "abi/unroll.h"
#include "isa/shared/normalize-inl.h"

namespace octavo {
namespace {

// Row by row, as memory wants to be read; parameters come from the L1 cache. kBounded:
// AffineArgs::stays_int32. Registers: 4 of values, 4 of packed ones, up to 5 constants.
template <typename L, AffineKind kKind, bool kSigned, bool kBounded>
void affine_rows(const AffineArgs& args) {
  const AffineArgs p = args;  // which stores of bytes cannot change
  using Floats = typename L::Floats;
  const Floats center = L::set_float(p.center), factor = L::set_float(p.factor);
  const Floats limit = L::set_float(kAffineLimit), none = L::set_float(0.0f);
  const typename L::Vec zero = L::set16(p.out_zero), lo = L::set8(p.lo);
  const ptrdiff_t next = p.rows * p.in_stride;  // what comes after a call's rows, most likely
  for (int64_t r = 0; r < p.rows; ++r) {
    Floats row_scale = none, row_shift = none;
    if constexpr (kKind == AffineKind::kNormalize) {
      row_scale = L::set_float(p.row_scale[r]);
      row_shift = L::set_float(p.row_shift[r]);
    }
    const auto block = [&](const uint8_t* from, int64_t at) OCTAVO_INLINE {
      const float* const scales = p.scale + at;
      const float* const shifts = kKind == AffineKind::kPrelu ? nullptr : p.shift + at;
      typename L::Vec q[4];
      const typename L::template Quarters<kSigned> quarters(from);
      unroll<4>([&](auto j) OCTAVO_INLINE {
        const Floats x = quarters[j];
        const Floats scale = L::load_floats(scales + j * (L::kBytes / 4));
        Floats t;
        if constexpr (kKind == AffineKind::kPrelu) {  // one of the two summands is 0
          const Floats y = L::sub(x, center);
          t = L::add(L::mul(L::max(y, none), factor), L::mul(L::min(y, none), scale));
        } else {
          const Floats shift = L::load_floats(shifts + j * (L::kBytes / 4));
          const Floats y = kKind == AffineKind::kNormalize ? L::fma(x, row_scale, row_shift) : x;
          t = L::fma(y, scale, shift);
        }
        q[j] = kBounded ? L::round(t) : L::round_up_to(t, limit);
      });
      const typename L::Vec low = L::adds16(L::pack32(q[0], q[1]), zero);
      const typename L::Vec high = L::adds16(L::pack32(q[2], q[3]), zero);
      return L::in_order(p.out_signed ? L::max_s8(L::pack16_s8(low, high), lo)
                                      : L::max_u8(L::pack16_u8(low, high), lo));
    };
    const uint8_t* in = static_cast<const uint8_t*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    int64_t c = 0;
    for (; c + L::kBytes <= p.columns; c += L::kBytes) {
      if constexpr (kKind == AffineKind::kNormalize) L::prefetch(in + c + next);
      L::store(out + c, block(in + c, p.uniform ? 0 : c));
    }
    if (c < p.columns) {
      const int count = static_cast<int>(p.columns - c);
      alignas(64) uint8_t part[L::kBytes];
      L::store(part, L::load_part(in + c, count));
      L::store_part(out + c, block(part, p.uniform ? 0 : c), count);
    }
  }
}

template <typename L, AffineKind kKind, bool kSigned>
void affine_vectors(const AffineArgs* args) {
  if (kKind != AffineKind::kPrelu && args->stays_int32) {
    affine_rows<L, kKind, kSigned, kKind != AffineKind::kPrelu>(*args);
  } else {
    affine_rows<L, kKind, kSigned, false>(*args);
  }
}

// Sums of bytes x and of their squares. With VNNI, of x and of x (x - 128), 4 of at most 32385 to
// a lane and vector; else bytes are summed in 64 bits by vpsadbw, and squares in int32, 4 of at
// most 255^2. Either way `kLong` vectors fit.
template <typename L>
struct RunMoments {
  using Vec = typename L::Vec;
  static constexpr int64_t kLong = 4096;

  inline OCTAVO_INLINE void take(Vec v) {
    if constexpr (L::kDot) {
      sum = L::dot(sum, v, L::set8(1));
      square = L::dot(square, v, L::flip(v, L::set8(128)));
    } else {
      const Vec even = L::both(v, L::set16(0x00ff)), odd = L::high_bytes(v);
      sum = L::add64(sum, L::sum_bytes(v));
      square = L::add32(square, L::add32(L::madd16(even, even), L::madd16(odd, odd)));
    }
  }
  // Of at most kLong vectors.
  void finish(int64_t* sums) const {
    const int64_t total = L::kDot ? L::total32(sum) : L::total64(sum);
    sums[0] += total;
    sums[1] += L::total32(square) + (L::kDot ? 128 * total : 0);
  }
  Vec sum = L::zero(), square = L::zero();
};

template <typename L, typename Run = RunMoments<L>>
void moments_vectors(const void* q, int64_t size, int32_t flip, int64_t* sums) {
  using Vec = typename L::Vec;
  constexpr int64_t kLong = Run::kLong;
  const uint8_t* x = static_cast<const uint8_t*>(q);
  const Vec mask = L::set8(flip);
  int64_t i = 0;
  while (i < size) {
    Run moments;
    const int64_t stop = size - i > kLong * L::kBytes ? i + kLong * L::kBytes : size;
    for (; i + L::kBytes <= stop; i += L::kBytes) moments.take(L::flip(L::load(x + i), mask));
    if (i < stop) {  // only at the end: what is missing is 0
      const int count = static_cast<int>(stop - i);
      moments.take(L::both(L::flip(L::load_part(x + i, count), mask), L::first_bytes(count)));
      i = stop;
    }
    moments.finish(sums);
  }
}

// Four rows at a time, interleaved so that the four bytes of a column make a dword. Registers: 8
// sums, 8 for the bytes, 3 constants.
template <typename L>
void column_moments_vectors(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns,
                            int32_t flip, int32_t* sums, int32_t* squares) {
  using Vec = typename L::Vec;
  const Vec mask = L::set8(flip), low = L::set16(0x00ff), none = L::zero();
  const Vec ones8 = L::set8(1), ones16 = L::set16(1);
  for (int64_t c = 0; c < columns; c += L::kBytes) {
    const int count = static_cast<int>(columns - c < L::kBytes ? columns - c : L::kBytes);
    const uint8_t* x = static_cast<const uint8_t*>(q) + c;
    Vec sum[4] = {none, none, none, none}, square[4] = {none, none, none, none};
    for (int64_t r = 0; r < rows; r += 4) {
      Vec row[4];
      unroll<4>([&](auto j) OCTAVO_INLINE {
        const uint8_t* at = x + (r + j) * stride;
        row[j] = r + j >= rows
                     ? none
                     : L::flip(count == L::kBytes ? L::load(at) : L::load_part(at, count), mask);
      });
      const Vec ab[2] = {L::unpack_lo8(row[0], row[1]), L::unpack_hi8(row[0], row[1])};
      const Vec cd[2] = {L::unpack_lo8(row[2], row[3]), L::unpack_hi8(row[2], row[3])};
      unroll<4>([&](auto j) OCTAVO_INLINE {
        const Vec v =
            j % 2 ? L::unpack_hi16(ab[j / 2], cd[j / 2]) : L::unpack_lo16(ab[j / 2], cd[j / 2]);
        if constexpr (L::kDot) {  // squares less 128 x
          sum[j] = L::dot(sum[j], v, ones8);
          square[j] = L::dot(square[j], v, L::flip(v, L::set8(128)));
        } else {
          const Vec even = L::both(v, low), odd = L::high_bytes(v);
          sum[j] = L::add32(sum[j], L::madd16(L::maddu8s8(v, ones8), ones16));
          square[j] = L::add32(square[j], L::add32(L::madd16(even, even), L::madd16(odd, odd)));
        }
      });
    }
    // Columns 16 l + 4 j to 16 l + 4 j + 3 lie in 128-bit lane l of vector j.
    alignas(64) int32_t tile[2][4][L::kBytes / 4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      L::store(tile[0][j], sum[j]);
      L::store(tile[1][j], square[j]);
    });
    for (int i = 0; i < count; ++i) {
      sums[c + i] = tile[0][i % 16 / 4][i / 16 * 4 + i % 4];
      squares[c + i] = tile[1][i % 16 / 4][i / 16 * 4 + i % 4] + (L::kDot ? 128 * sums[c + i] : 0);
    }
  }
}

template <typename L>
constexpr void add_affine(ElementwiseFns& fns) {
  fns.affine[0][0] = affine_vectors<L, AffineKind::kScaleShift, false>;
  fns.affine[0][1] = affine_vectors<L, AffineKind::kScaleShift, true>;
  fns.affine[1][0] = affine_vectors<L, AffineKind::kNormalize, false>;
  fns.affine[1][1] = affine_vectors<L, AffineKind::kNormalize, true>;
  fns.affine[2][0] = affine_vectors<L, AffineKind::kPrelu, false>;
  fns.affine[2][1] = affine_vectors<L, AffineKind::kPrelu, true>;
}

template <typename L>
constexpr void add_normalize(ElementwiseFns& fns) {
  add_affine<L>(fns);
  fns.moments = moments_vectors<L>;
  fns.column_moments = column_moments_vectors<L>;
}

}  // namespace
}  // namespace octavo
