// Element-wise kernels with NEON; what is not here is isa/shared/elementwise-inl.h compiled for
// ARM.
#pragma once

#include "isa/shared/elementwise-inl.h"

namespace octavo {
namespace {

constexpr ElementwiseFns elementwise_neon() {
  ElementwiseFns fns = portable_elementwise();
  return fns;
}

}  // namespace
}  // namespace octavo
