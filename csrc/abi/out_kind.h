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
  }
}

// Bytes of an output element.
constexpr ptrdiff_t kind_bytes(OutKind kind) {
  return kind == OutKind::kU8 || kind == OutKind::kS8 ? 1 : 4;
}

}  // namespace
}  // namespace octavo
