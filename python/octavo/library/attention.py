"""The operator of scaled dot-product attention."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.library._register import operator
from octavo.ops.attention import attention_shape

__all__: list[str] = []


def _in_tokens(q: Tensor, k: Tensor, v: Tensor, heads: int | None, dtype: torch.dtype) -> Tensor:
    """A result laid out as :func:`octavo.ops.attention` lays it out."""
    shape = attention_shape(q, k, v, heads)
    if len(shape) != 4:
        return q.new_empty(shape, dtype=dtype)
    batch, count, rows, size = shape
    return q.new_empty((batch, rows, count, size), dtype=dtype).transpose(1, 2)


_TENSORS = ", ".join(f"Tensor {x}, float {x}_scale, int {x}_zero_point" for x in "qkv")

operator(
    f"attention({_TENSORS}, float out_scale, int out_zero_point, ScalarType dtype, "
    "float? scale=None, int? heads=None) -> Tensor",
    ops.attention,
    _in_tokens,
)
