// Loops over accumulators, unrolled by templates: indices are constants from the start, so that
// compilers keep arrays of vectors in registers (gcc's own unrolling comes after the pass that
// would do so).
#pragma once

namespace octavo {
namespace {

template <int I>
struct Index {
  constexpr operator int() const { return I; }
};

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
