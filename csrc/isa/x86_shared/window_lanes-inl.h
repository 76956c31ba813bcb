// What the window kernels need of vectors of 16, 32 and 64 bytes, under the same names
// (vector_shared/window_vector-inl.h).
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/window_vector-inl.h"
#if defined(__AVX512BW__)
#include "isa/x86_shared/epilogue_avx512-inl.h"
#else
#include "isa/x86_shared/epilogue_avx2-inl.h"
#endif

namespace octavo {
namespace {

// The first n (1 .. 16) bytes at p, and zeros.
#if defined(__AVX512BW__)
static inline __m128i load_first16(const void* p, int n) {
  return _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << n) - 1), p);
}

static inline void store_first16(void* p, __m128i v, int n) {
  _mm_mask_storeu_epi8(p, static_cast<__mmask16>((1u << n) - 1), v);
}
#else
static inline __m128i load_first16(const void* p, int n) {
  if (n >= 16) return _mm_loadu_si128(static_cast<const __m128i*>(p));
  const FirstBytes first = load_first_bytes(p, n);
  return _mm_set_epi64x(static_cast<int64_t>(first.high), static_cast<int64_t>(first.low));
}

static inline void store_first16(void* p, __m128i v, int n) {
  if (n >= 16) {
    _mm_storeu_si128(static_cast<__m128i*>(p), v);
    return;
  }
  alignas(16) char bytes[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), v);
  std::memcpy(p, bytes, n);
}
#endif

struct Window128 {
  using Vec = __m128i;
  using Floats = __m128;
  static constexpr int kBytes = 16;
  static constexpr bool kFreeMoves = true;  // from register to register
  using Part = Window128;

  static inline Vec zero() { return _mm_setzero_si128(); }
  static inline Vec set8(int x) { return _mm_set1_epi8(static_cast<char>(x)); }
  static inline Vec set16(int x) { return _mm_set1_epi16(static_cast<int16_t>(x)); }
  static inline Vec set32(int x) { return _mm_set1_epi32(x); }
  static inline Floats set_float(float x) { return _mm_set1_ps(x); }
  static inline Vec load(const void* p) { return _mm_loadu_si128(static_cast<const Vec*>(p)); }
  static inline Vec load_first(const void* p, int n) { return load_first16(p, n); }
  static inline void store(void* p, Vec v) { _mm_storeu_si128(static_cast<Vec*>(p), v); }
  static inline void store_first(void* p, Vec v, int n) { store_first16(p, v, n); }
  // Lane l from p + l * stride.
  static inline Vec load_lanes(const void* p, ptrdiff_t) { return load(p); }
  static inline void store_lanes(void* p, ptrdiff_t, Vec v) { store(p, v); }
  static inline Vec broadcast16(const void* p) { return load(p); }
  static inline Vec broadcast(__m128i v) { return v; }
  static inline Vec pick_bytes(Vec v, Vec pick) { return _mm_shuffle_epi8(v, pick); }
  static inline Vec bit_and(Vec a, Vec b) { return _mm_and_si128(a, b); }
  static inline Vec bit_xor(Vec a, Vec b) { return _mm_xor_si128(a, b); }
  // The bytes at even and at odd places of 16-bit elements, each widened.
  static inline Vec even_unsigned(Vec v) { return bit_and(v, set16(0xff)); }
  static inline Vec odd_unsigned(Vec v) { return _mm_srli_epi16(v, 8); }
  static inline Vec even_signed(Vec v) { return odd_signed(_mm_slli_epi16(v, 8)); }
  static inline Vec odd_signed(Vec v) { return _mm_srai_epi16(v, 8); }
  static inline Vec low8(Vec a, Vec b) { return _mm_unpacklo_epi8(a, b); }
  static inline Vec high8(Vec a, Vec b) { return _mm_unpackhi_epi8(a, b); }
  static inline Vec low16(Vec a, Vec b) { return _mm_unpacklo_epi16(a, b); }
  static inline Vec high16(Vec a, Vec b) { return _mm_unpackhi_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm_sub_epi32(a, b); }
  static inline Vec madd16(Vec a, Vec b) { return _mm_madd_epi16(a, b); }
  static inline Floats to_float(Vec v) { return _mm_cvtepi32_ps(v); }
  static inline Vec to_int(Floats x) { return _mm_cvtps_epi32(x); }
  // Too large and NaN become the smallest int32, as does too small.
  static inline Floats guard(float, float hi) { return set_float(hi); }
  static inline Floats guarded(Floats hi, Floats x) { return min(hi, x); }
  static inline Floats as_floats(Vec v) { return _mm_castsi128_ps(v); }
  static inline Vec as_ints(Floats x) { return _mm_castps_si128(x); }
  static inline Floats add(Floats a, Floats b) { return _mm_add_ps(a, b); }
  static inline Floats mul(Floats a, Floats b) { return _mm_mul_ps(a, b); }
  static inline Floats min(Floats a, Floats b) { return _mm_min_ps(a, b); }
  static inline Floats max(Floats a, Floats b) { return _mm_max_ps(a, b); }
  static inline Vec add_saturating16(Vec a, Vec b) { return _mm_adds_epi16(a, b); }
  static inline Vec pack32(Vec a, Vec b) { return _mm_packs_epi32(a, b); }
  static inline Vec pack16(Vec a, Vec b) { return _mm_packus_epi16(a, b); }
  static inline Vec max8(Vec a, Vec b) { return _mm_max_epu8(a, b); }
  static inline Vec min8(Vec a, Vec b) { return _mm_min_epu8(a, b); }
  static inline void order_lanes(Vec (&)[4]) {}
  static inline int nearest(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }
};

struct Window256 {
  using Vec = __m256i;
  using Floats = __m256;
  static constexpr int kBytes = 32;
  static constexpr bool kFreeMoves = true;  // from register to register
  using Part = Window128;

  using Half = Window128;
  static inline Vec join(Half::Vec low, Half::Vec high) { return _mm256_set_m128i(high, low); }
  static inline Half::Vec low_half(Vec v) { return _mm256_castsi256_si128(v); }
  static inline Half::Vec high_half(Vec v) { return _mm256_extracti128_si256(v, 1); }
  static inline Vec zero() { return _mm256_setzero_si256(); }
  static inline Vec set8(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static inline Vec set16(int x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
  static inline Vec set32(int x) { return _mm256_set1_epi32(x); }
  static inline Floats set_float(float x) { return _mm256_set1_ps(x); }
  static inline Vec load(const void* p) { return _mm256_loadu_si256(static_cast<const Vec*>(p)); }
#if defined(__AVX512BW__)
  static inline Vec load_first(const void* p, int n) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    return _mm256_maskz_loadu_epi8(mask, p);
  }
  static inline void store_first(void* p, Vec v, int n) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    _mm256_mask_storeu_epi8(p, mask, v);
  }
#else
  static inline void store_first(void* p, Vec v, int n) {
    store_first16(p, low_half(v), n < 16 ? n : 16);
    if (n > 16) store_first16(static_cast<char*>(p) + 16, high_half(v), n - 16);
  }
#endif
  static inline void store(void* p, Vec v) { _mm256_storeu_si256(static_cast<Vec*>(p), v); }
  static inline Vec load_lanes(const void* p, ptrdiff_t stride) {
    const char* from = static_cast<const char*>(p);
    return _mm256_set_m128i(Window128::load(from + stride), Window128::load(from));
  }
  static inline void store_lanes(void* p, ptrdiff_t stride, Vec v) {
    char* to = static_cast<char*>(p);
    Window128::store(to, _mm256_castsi256_si128(v));
    Window128::store(to + stride, _mm256_extracti128_si256(v, 1));
  }
  static inline Vec broadcast(__m128i v) { return _mm256_broadcastsi128_si256(v); }
  static inline Vec broadcast16(const void* p) { return broadcast(Window128::load(p)); }
  static inline Vec pick_bytes(Vec v, Vec pick) { return _mm256_shuffle_epi8(v, pick); }
  static inline Vec bit_and(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  static inline Vec bit_xor(Vec a, Vec b) { return _mm256_xor_si256(a, b); }
  // The bytes at even and at odd places of 16-bit elements, each widened.
  static inline Vec even_unsigned(Vec v) { return bit_and(v, set16(0xff)); }
  static inline Vec odd_unsigned(Vec v) { return _mm256_srli_epi16(v, 8); }
  static inline Vec even_signed(Vec v) { return odd_signed(_mm256_slli_epi16(v, 8)); }
  static inline Vec odd_signed(Vec v) { return _mm256_srai_epi16(v, 8); }
  static inline Vec low8(Vec a, Vec b) { return _mm256_unpacklo_epi8(a, b); }
  static inline Vec high8(Vec a, Vec b) { return _mm256_unpackhi_epi8(a, b); }
  static inline Vec low16(Vec a, Vec b) { return _mm256_unpacklo_epi16(a, b); }
  static inline Vec high16(Vec a, Vec b) { return _mm256_unpackhi_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  static inline Vec madd16(Vec a, Vec b) { return _mm256_madd_epi16(a, b); }
  static inline Floats to_float(Vec v) { return _mm256_cvtepi32_ps(v); }
  static inline Vec to_int(Floats x) { return _mm256_cvtps_epi32(x); }
  // Too large and NaN become the smallest int32, as does too small.
  static inline Floats guard(float, float hi) { return set_float(hi); }
  static inline Floats guarded(Floats hi, Floats x) { return min(hi, x); }
  static inline Floats as_floats(Vec v) { return _mm256_castsi256_ps(v); }
  static inline Vec as_ints(Floats x) { return _mm256_castps_si256(x); }
  static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static inline Vec add_saturating16(Vec a, Vec b) { return _mm256_adds_epi16(a, b); }
  static inline Vec pack32(Vec a, Vec b) { return _mm256_packs_epi32(a, b); }
  static inline Vec pack16(Vec a, Vec b) { return _mm256_packus_epi16(a, b); }
  static inline Vec max8(Vec a, Vec b) { return _mm256_max_epu8(a, b); }
  static inline Vec min8(Vec a, Vec b) { return _mm256_min_epu8(a, b); }
  // Lane l of vector q becomes lane l * 4 + q of all.
  static inline void order_lanes(Vec (&v)[4]) {
    const Vec a = _mm256_permute2x128_si256(v[0], v[1], 0x20);
    const Vec b = _mm256_permute2x128_si256(v[2], v[3], 0x20);
    v[3] = _mm256_permute2x128_si256(v[2], v[3], 0x31);
    v[2] = _mm256_permute2x128_si256(v[0], v[1], 0x31);
    v[0] = a;
    v[1] = b;
  }
  // Dword q of lane l becomes dword q * (lanes) + l of all, 16 bytes to an element.
  static inline void split_dwords(Vec v, __m128i (&out)[2]) {
    const Vec order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    v = _mm256_permutevar8x32_epi32(v, order);
    out[0] = low_half(v);
    out[1] = high_half(v);
  }
};

#if defined(__AVX512BW__)
struct Window512 {
  using Vec = __m512i;
  using Floats = __m512;
  static constexpr int kBytes = 64;
  static constexpr bool kFreeMoves = true;  // from register to register
  using Part = Window128;

  using Half = Window256;
  static inline Vec join(Half::Vec low, Half::Vec high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static inline Half::Vec low_half(Vec v) { return _mm512_castsi512_si256(v); }
  static inline Half::Vec high_half(Vec v) { return _mm512_extracti64x4_epi64(v, 1); }
  static inline __mmask64 first(int n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }
  static inline Vec zero() { return _mm512_setzero_si512(); }
  static inline Vec set8(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  static inline Vec set16(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
  static inline Vec set32(int x) { return _mm512_set1_epi32(x); }
  static inline Floats set_float(float x) { return _mm512_set1_ps(x); }
  static inline Vec load(const void* p) { return _mm512_loadu_si512(p); }
  static inline Vec load_first(const void* p, int n) {
    return _mm512_maskz_loadu_epi8(first(n), p);
  }
  static inline void store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  static inline void store_first(void* p, Vec v, int n) { _mm512_mask_storeu_epi8(p, first(n), v); }
  static inline Vec load_lanes(const void* p, ptrdiff_t stride) {
    const char* from = static_cast<const char*>(p);
    return join(Half::load_lanes(from, stride), Half::load_lanes(from + 2 * stride, stride));
  }
  static inline void store_lanes(void* p, ptrdiff_t stride, Vec v) {
    char* to = static_cast<char*>(p);
    Half::store_lanes(to, stride, low_half(v));
    Half::store_lanes(to + 2 * stride, stride, high_half(v));
  }
  static inline Vec broadcast(__m128i v) { return _mm512_broadcast_i32x4(v); }
  static inline Vec broadcast16(const void* p) { return broadcast(Window128::load(p)); }
  static inline Vec pick_bytes(Vec v, Vec pick) { return _mm512_shuffle_epi8(v, pick); }
  static inline Vec bit_and(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  static inline Vec bit_xor(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
  // The bytes at even and at odd places of 16-bit elements, each widened.
  static inline Vec even_unsigned(Vec v) { return bit_and(v, set16(0xff)); }
  static inline Vec odd_unsigned(Vec v) { return _mm512_srli_epi16(v, 8); }
  static inline Vec even_signed(Vec v) { return odd_signed(_mm512_slli_epi16(v, 8)); }
  static inline Vec odd_signed(Vec v) { return _mm512_srai_epi16(v, 8); }
  static inline Vec low8(Vec a, Vec b) { return _mm512_unpacklo_epi8(a, b); }
  static inline Vec high8(Vec a, Vec b) { return _mm512_unpackhi_epi8(a, b); }
  static inline Vec low16(Vec a, Vec b) { return _mm512_unpacklo_epi16(a, b); }
  static inline Vec high16(Vec a, Vec b) { return _mm512_unpackhi_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
  static inline Vec madd16(Vec a, Vec b) { return _mm512_madd_epi16(a, b); }
  static inline Floats to_float(Vec v) { return _mm512_cvtepi32_ps(v); }
  static inline Vec to_int(Floats x) { return _mm512_cvtps_epi32(x); }
  // Too large and NaN become the smallest int32, as does too small.
  static inline Floats guard(float, float hi) { return set_float(hi); }
  static inline Floats guarded(Floats hi, Floats x) { return min(hi, x); }
  static inline Floats as_floats(Vec v) { return _mm512_castsi512_ps(v); }
  static inline Vec as_ints(Floats x) { return _mm512_castps_si512(x); }
  static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static inline Vec add_saturating16(Vec a, Vec b) { return _mm512_adds_epi16(a, b); }
  static inline Vec pack32(Vec a, Vec b) { return _mm512_packs_epi32(a, b); }
  static inline Vec pack16(Vec a, Vec b) { return _mm512_packus_epi16(a, b); }
  static inline Vec max8(Vec a, Vec b) { return _mm512_max_epu8(a, b); }
  static inline Vec min8(Vec a, Vec b) { return _mm512_min_epu8(a, b); }
  static inline void order_lanes(Vec (&v)[4]) {
    const Vec a = _mm512_shuffle_i32x4(v[0], v[1], 0x44),
              b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
    const Vec c = _mm512_shuffle_i32x4(v[0], v[1], 0xee),
              d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    v[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    v[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  static inline void split_dwords(Vec v, __m128i (&out)[4]) {
    const Vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    v = _mm512_permutexvar_epi32(order, v);
    out[0] = _mm512_castsi512_si128(v);
    out[1] = _mm512_extracti32x4_epi32(v, 1);
    out[2] = _mm512_extracti32x4_epi32(v, 2);
    out[3] = _mm512_extracti32x4_epi32(v, 3);
  }
};
#endif

#if defined(__AVXVNNI__)
static inline __m128i dpbusd(__m128i acc, __m128i a, __m128i w) {
  return _mm_dpbusd_avx_epi32(acc, a, w);
}
static inline __m256i dpbusd(__m256i acc, __m256i a, __m256i w) {
  return _mm256_dpbusd_avx_epi32(acc, a, w);
}
#elif defined(__AVX512VNNI__)
static inline __m128i dpbusd(__m128i acc, __m128i a, __m128i w) {
  return _mm_dpbusd_epi32(acc, a, w);
}
static inline __m256i dpbusd(__m256i acc, __m256i a, __m256i w) {
  return _mm256_dpbusd_epi32(acc, a, w);
}
#if defined(__AVX512BW__)
static inline __m512i dpbusd(__m512i acc, __m512i a, __m512i w) {
  return _mm512_dpbusd_epi32(acc, a, w);
}
#endif
#endif

// uint8 activations, to which int8 ones are brought by adding 128.
template <class L, bool kSigned>
static inline OCTAVO_INLINE typename L::Vec as_unsigned(typename L::Vec v) {
  return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
}

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
template <class L, bool kSigned>
struct Dot : DwordOrder<L> {
  using Vec = typename L::Vec;
  using Bytes = Vec;    // four activations to a dword
  using Weights = Vec;  // four weights to a dword

  static inline OCTAVO_INLINE Vec activations(Vec v) { return as_unsigned<L, kSigned>(v); }
  static inline OCTAVO_INLINE Bytes bytes(Vec v) { return v; }
  static inline OCTAVO_INLINE Weights weights(Vec v) { return v; }
  static constexpr bool kPairs = false;
  template <int Q = 0>
  static inline OCTAVO_INLINE Vec dot(Vec acc, Bytes a, Weights w) {
    return dpbusd(acc, a, w);
  }
};
#else
// Bytes 0 and 2, and 1 and 3, widened to pairs of 16 bits for vpmaddwd, which cannot overflow.
template <class L>
struct WidenedBytes {
  typename L::Vec even, odd;
};

template <class L, bool kSigned>
struct Dot : DwordOrder<L> {
  using Vec = typename L::Vec;
  using Bytes = WidenedBytes<L>;
  using Weights = WidenedBytes<L>;

  static inline OCTAVO_INLINE Vec activations(Vec v) { return as_unsigned<L, kSigned>(v); }
  static inline OCTAVO_INLINE Bytes bytes(Vec v) {
    return {L::even_unsigned(v), L::odd_unsigned(v)};
  }
  static inline OCTAVO_INLINE Weights weights(Vec v) {
    return {L::even_signed(v), L::odd_signed(v)};
  }
  static constexpr bool kPairs = true;
  template <int Q = 0>
  static inline OCTAVO_INLINE Vec dot(Vec acc, Bytes a, Weights w) {
    return dot_odd<Q>(dot_even<Q>(acc, a, w), a, w);
  }
  template <int Q>
  static inline OCTAVO_INLINE Vec dot_even(Vec acc, Bytes a, Weights w) {
    return L::add32(acc, L::madd16(a.even, w.even));
  }
  template <int Q>
  static inline OCTAVO_INLINE Vec dot_odd(Vec acc, Bytes a, Weights w) {
    return L::add32(acc, L::madd16(a.odd, w.odd));
  }
};
#endif

template <class L, bool kSigned>
struct GroupDot : Dot<L, kSigned> {
  static constexpr bool kArranges = false;
};

static void store_window_rows(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                              int rows) {
#if defined(__AVX512BW__)
  store_rows(acc, acc_stride, g, 0, rows);
#else
  store_rows8(acc, acc_stride, g, 0, rows);
#endif
}

}  // namespace
}  // namespace octavo
