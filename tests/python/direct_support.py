"""Comparing direct entry points with the ordinary way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo import _C, QTensor

DEFAULT = _C.tensor_access()
READING = ["attributes"] + (["exchange"] if DEFAULT == "exchange" else [])


def ordinary(call: Callable[[], Any]) -> Any:
    """What `call` gives without direct entry points."""
    before = _C.tensor_access()
    _C.set_tensor_access("none")
    try:
        return call()
    finally:
        _C.set_tensor_access(before)


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, QTensor):
        assert (a._scale, a._zero_point, a._qdtype) == (b._scale, b._zero_point, b._qdtype)
        assert (a._axis, a._qscheme) == (b._axis, b._qscheme)
        assert a.is_leaf
        assert not a.requires_grad
        a, b = a._int, b._int
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert torch.equal(a, b)
