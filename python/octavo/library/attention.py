"""The operator of scaled dot-product attention."""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.library._register import operator
from octavo.ops.attention import attention_shape

__all__: list[str] = []


def _attention(
    q: Tensor,
    q_scale: float,
    q_zero: int,
    k: Tensor,
    k_scale: float,
    k_zero: int,
    v: Tensor,
    v_scale: float,
    v_zero: int,
    out_scale: float,
    out_zero: int,
    dtype: torch.dtype,
    scale: float | None = None,
    heads: int | None = None,
) -> Tensor:
    inputs = (q, q_scale, q_zero, k, k_scale, k_zero, v, v_scale, v_zero)
    return ops.attention(*inputs, out_scale, out_zero, as_qdtype(dtype), scale, heads)


def _fake_attention(
    q: Tensor,
    q_scale: float,
    q_zero: int,
    k: Tensor,
    k_scale: float,
    k_zero: int,
    v: Tensor,
    v_scale: float,
    v_zero: int,
    out_scale: float,
    out_zero: int,
    dtype: torch.dtype,
    scale: float | None = None,
    heads: int | None = None,
) -> Tensor:
    shape = attention_shape(q, k, v, heads)
    if len(shape) != 4:
        return q.new_empty(shape, dtype=dtype)
    batch, count, rows, size = shape
    return q.new_empty((batch, rows, count, size), dtype=dtype).transpose(1, 2)


_TENSORS = ", ".join(f"Tensor {x}, float {x}_scale, int {x}_zero_point" for x in "qkv")

operator(
    f"attention({_TENSORS}, float out_scale, int out_zero_point, ScalarType dtype, "
    "float? scale=None, int? heads=None) -> Tensor",
    _attention,
    _fake_attention,
)
