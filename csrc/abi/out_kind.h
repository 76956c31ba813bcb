// From the run-time kind of an output to code that is compiled for it.
#pragma once

#include "abi/kernel_abi.h"

namespace octavo {
namespace {

template <OutKind kValue>
struct KindConstant {
  static constexpr OutKind value = kValue;
};

// Calls f(KindConstant<kind>{}).
template <typename F>
static inline void with_kind(OutKind kind, F f) {
  switch (kind) {
    case OutKind::kI32:
      return f(KindConstant<OutKind::kI32>{});
    case OutKind::kU8:
      return f(KindConstant<OutKind::kU8>{});
    case OutKind::kS8:
      return f(KindConstant<OutKind::kS8>{});
    case OutKind::kF32:
      return f(KindConstant<OutKind::kF32>{});
    case OutKind::kBF16:
      return f(KindConstant<OutKind::kBF16>{});
    case OutKind::kF16:
      return f(KindConstant<OutKind::kF16>{});
  }
}

// Bytes of an output element.
constexpr ptrdiff_t kind_bytes(OutKind kind) {
  if (kind == OutKind::kU8 || kind == OutKind::kS8) return 1;
  return kind == OutKind::kBF16 || kind == OutKind::kF16 ? 2 : 4;
}

constexpr bool is_float(OutKind kind) { return kind >= OutKind::kF32; }

}  // namespace
}  // namespace octavo
