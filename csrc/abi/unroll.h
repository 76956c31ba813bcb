// Loops over accumulators, unrolled by templates: indices are constants from the start, so that
// compilers keep arrays of vectors in registers (gcc's own unrolling comes after the pass that
// would do so).
#pragma once

#include <type_traits>

namespace octavo {
namespace {

template <int I>
struct Index {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};

// The constant in an Index that a lambda has captured: kIndex<decltype(i)>.
template <typename T>
constexpr int kIndex = std::remove_reference_t<T>::value;

// body(Index<0>()) ... body(Index<N - 1>())
template <int N, int I = 0, typename Body>
static inline __attribute__((always_inline)) void unroll(const Body& body) {
  if constexpr (I < N) {
    body(Index<I>());
    unroll<N, I + 1>(body);
  }
}

}  // namespace
}  // namespace octavo

// For the lambdas given to unroll().
#define OCTAVO_INLINE __attribute__((always_inline))
