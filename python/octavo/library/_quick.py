"""The direct entry points for plain tensors: a QTensor around the integers costs less than the way
that converts and checks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from octavo.ops._common import EIGHT_BIT
from octavo.tensor import QTensor

__all__ = ["integers", "quantized"]


def quantized(x: Tensor, scale: float, zero_point: int) -> QTensor | None:
    """``x`` as the direct entry points take it; None, which they refuse, for other dtypes."""
    qdtype = EIGHT_BIT.get(x.dtype)
    return None if qdtype is None else QTensor._wrap(x, scale, zero_point, qdtype)


def integers(q: Any) -> Tensor:
    """The plain tensor in a result."""
    plain: Tensor = q._int
    return plain
