"""Packed weights that several layers share.

Layers whose weights are tied, and copies of a model, have equal packed weights, however they came
to be: converted, loaded from a state dict, unpickled. Packed weights never change, so one will do.
"""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

__all__ = ["shared_weight"]

_W = TypeVar("_W")

# By all that a weight is made of but the integers, which are compared: scales alone tell almost all
# weights apart, so the comparison seldom happens and seldom fails.
_LIVING: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def shared_weight(
    cls: type[_W],
    weight: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    bias: Tensor | None,
    *geometry: Any,
) -> _W:
    """``cls(weight, scales, zero_points, bias, *geometry)``, or an equal one that exists already.

    Raises: as ``cls`` does.
    """
    key = (
        cls,
        tuple(weight.shape),
        _values(scales, torch.float32),
        _values(zero_points, torch.int64),
        None if bias is None else _values(bias, torch.float32),
        repr(geometry),
    )
    known = _LIVING.get(key)
    if known is not None and weight.dtype == torch.int8 and torch.equal(known.unpack(), weight):
        found: _W = known
        return found
    made: Any = cls(weight, scales, zero_points, bias, *geometry)  # type: ignore[call-arg]
    _LIVING[key] = made
    return made  # type: ignore[no-any-return]


def _values(tensor: Tensor, dtype: torch.dtype) -> bytes:
    return tensor.detach().to("cpu", dtype).contiguous().numpy().tobytes()
