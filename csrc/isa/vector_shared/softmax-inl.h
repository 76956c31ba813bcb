// Softmax along rows on vectors of any width: `L` is a SoftmaxBytes (softmax_<vectors>-inl.h).
#pragma once

#include "abi/unroll.h"
#include "isa/shared/normalize-inl.h"

namespace octavo {
namespace {

// The largest byte of a row, xor-ed with the input's flip.
template <typename L>
static inline OCTAVO_INLINE uint8_t largest_of(const uint8_t* in, int64_t size,
                                               typename L::Vec flip) {
  using Vec = typename L::Vec;
  if (size < L::kBytes) {
    const int count = static_cast<int>(size);
    return L::largest(L::both(L::flip(L::load_part(in, count), flip), L::first_bytes(count)));
  }
  Vec largest = L::flip(L::load(in + size - L::kBytes), flip);
  for (int64_t i = 0; i + L::kBytes < size; i += L::kBytes) {
    largest = L::max_u8(largest, L::flip(L::load(in + i), flip));
  }
  return L::largest(largest);
}

// The exponentials of a row, and their sum. Four of one lane fit 32 bits, of which 64 take the
// sum. Registers: 4 exponentials, 2 to 4 of the factors, 3 constants, 3 for the sum.
template <typename L>
class RowExponentials {
  using Vec = typename L::Vec;

 public:
  RowExponentials(const L& factors, uint8_t largest, Vec flip)
      : factors_(factors), top_(L::flip(L::set8(largest), flip)), sum_(L::zero()) {}

  inline OCTAVO_INLINE Vec distances(Vec bytes) const { return L::sub8(top_, bytes); }
  // Each in a dword, in the order that pack32 and pack16 undo. What is not among the first `count`
  // is as if its distance were 255.
  inline OCTAVO_INLINE void take(Vec distance, int count, Vec (&exps)[4]) {
    if (count < L::kBytes) {
      distance = L::either(distance, L::flip(L::first_bytes(count), L::set8(255)));
    }
    factors_.exponentials(distance, exps);
    const Vec four = L::add32(L::add32(exps[0], exps[1]), L::add32(exps[2], exps[3]));
    sum_ = L::accumulate(sum_, four);
  }
  int64_t sum() const { return L::total64(sum_); }

 private:
  const L& factors_;
  Vec top_, sum_;
};

// to_byte(exps[i] * factor) of 4 vectors of exponentials.
template <typename L>
struct SoftmaxResults {
  using Vec = typename L::Vec;
  using Floats = typename L::Floats;

  SoftmaxResults(float factor, int32_t out_zero, int32_t out_signed)
      : factor(L::set_float(factor)), zero(L::set16(out_zero)), is_signed(out_signed != 0) {}
  inline OCTAVO_INLINE Vec operator()(const int32_t* exps) const {
    const Floats limit = L::set_float(kAffineLimit);
    Vec q[4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      const Floats x = L::to_float(L::load(exps + j * (L::kBytes / 4)));
      q[j] = L::round_up_to(L::mul(x, factor), limit);
    });
    const Vec low = L::adds16(L::pack32(q[0], q[1]), zero);
    const Vec high = L::adds16(L::pack32(q[2], q[3]), zero);
    return is_signed ? L::pack16_s8(low, high) : L::pack16_u8(low, high);
  }
  Floats factor;
  Vec zero;
  bool is_signed;
};

// A row that is shorter than a table of all results.
template <typename L>
static inline OCTAVO_INLINE void softmax_short(const SoftmaxArgs& p, const L& factors,
                                               const uint8_t* in, uint8_t* out) {
  using Vec = typename L::Vec;
  const Vec flip = L::set8(p.in_flip);
  RowExponentials<L> row(factors, largest_of<L>(in, p.size, flip), flip);
  alignas(64) int32_t exps[kSoftmaxTable];
  int64_t missing = 0;
  for (int64_t i = 0; i < p.size; i += L::kBytes) {
    const int count = static_cast<int>(p.size - i < L::kBytes ? p.size - i : L::kBytes);
    Vec e[4];
    const Vec bytes = count < L::kBytes ? L::load_part(in + i, count) : L::load(in + i);
    row.take(row.distances(bytes), count, e);
    unroll<4>([&](auto j) OCTAVO_INLINE { L::store(exps + i + j * (L::kBytes / 4), e[j]); });
    missing = L::kBytes - count;
  }
  const double sum = static_cast<double>(row.sum() - missing * p.exps[255]);
  const SoftmaxResults<L> results(static_cast<float>(p.inv_scale / sum), p.out_zero, p.out_signed);
  for (int64_t i = 0; i < p.size; i += L::kBytes) {
    const int count = static_cast<int>(p.size - i < L::kBytes ? p.size - i : L::kBytes);
    if (count < L::kBytes) {
      L::store_part(out + i, results(exps + i), count);
    } else {
      L::store(out + i, results(exps + i));
    }
  }
}

// Results by look-up, by distance from the largest. `ordered` are the exponentials in the order of
// take().
template <typename L>
static inline void softmax_long(const SoftmaxArgs& p, const L& factors, const int32_t* ordered,
                                const uint8_t* in, uint8_t* out) {
  using Vec = typename L::Vec;
  const Vec flip = L::set8(p.in_flip);
  RowExponentials<L> row(factors, largest_of<L>(in, p.size, flip), flip);
  Vec unused[4];
  int64_t i = 0, missing = 0;
  for (; i + L::kBytes <= p.size; i += L::kBytes) {
    const Vec distances = row.distances(L::load(in + i));
    L::store(out + i, distances);
    row.take(distances, L::kBytes, unused);
  }
  if (i < p.size) {
    const int count = static_cast<int>(p.size - i);
    const Vec distances = row.distances(L::load_part(in + i, count));
    L::store_part(out + i, distances, count);
    row.take(distances, count, unused);
    missing = L::kBytes - count;
  }
  const double sum = static_cast<double>(row.sum() - missing * p.exps[255]);
  const SoftmaxResults<L> results(static_cast<float>(p.inv_scale / sum), p.out_zero, p.out_signed);
  uint8_t table[256];
  for (int j = 0; j < 256; j += L::kBytes) L::store(table + j, results(ordered + j));
  p.lookup(table, out, p.size, out);
}

template <typename L>
void softmax_vectors(const SoftmaxArgs* args) {
  const SoftmaxArgs p = *args;
  const L factors(p.high, p.low);
  alignas(64) int32_t ordered[256];
  if (p.size >= kSoftmaxTable) {
    alignas(64) uint8_t bytes[L::kBytes];
    for (int i = 0; i < 256; i += L::kBytes) {
      for (int j = 0; j < L::kBytes; ++j) bytes[j] = static_cast<uint8_t>(i + j);
      typename L::Vec e[4];
      factors.exponentials(L::load(bytes), e);
      unroll<4>([&](auto j) OCTAVO_INLINE { L::store(ordered + i + j * (L::kBytes / 4), e[j]); });
    }
  }
  for (int64_t r = 0; r < p.rows; ++r) {
    const uint8_t* in = static_cast<const uint8_t*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    if (p.size < kSoftmaxTable) {
      softmax_short(p, factors, in, out);
    } else {
      softmax_long(p, factors, ordered, in, out);
    }
  }
}

}  // namespace
}  // namespace octavo
