"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo import ops
from octavo.library._register import operator
from octavo.ops._common import dense
from octavo.ops.concatenate import joined_like

__all__: list[str] = []

_INPUT = "Tensor q, float scale, int zero_point"
_RANGE = "int? quant_min=None, int? quant_max=None"


def _integers(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(dense(x), dtype=dtype)


operator(
    f"quantize(Tensor x, float scale, int zero_point, ScalarType dtype, {_RANGE}) -> Tensor",
    ops.quantize,
    _integers,
)


def _floats(q: Tensor) -> Tensor:
    return torch.empty_like(dense(q), dtype=torch.float32)


operator(f"dequantize({_INPUT}) -> Tensor", ops.dequantize, _floats)


def _contiguous_integers(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


operator(
    "quantize_channels(Tensor x, Tensor scales, Tensor zero_points, int axis, ScalarType dtype, "
    f"{_RANGE}) -> Tensor",
    ops.quantize_per_channel,
    _contiguous_integers,
)


def _contiguous_floats(q: Tensor) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


operator(
    "dequantize_channels(Tensor q, Tensor scales, Tensor zero_points, int axis) -> Tensor",
    ops.dequantize_per_channel,
    _contiguous_floats,
)


def _in_place(q: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A result in the input's layout; by default in its dtype."""
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    f"requantize({_INPUT}, float out_scale, int out_zero_point, ScalarType dtype, int? lo=None, "
    "int? hi=None) -> Tensor",
    ops.requantize,
    _in_place,
)


def _broadcast(a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(dense(a.expand(shape)))


for _name, _kernel in (("add", ops.add), ("mul", ops.mul)):
    operator(
        f"{_name}(Tensor a, float a_scale, int a_zero_point, Tensor b, float b_scale, "
        "int b_zero_point, float scale, int zero_point, bool relu=False) -> Tensor",
        _kernel,
        _broadcast,
    )

operator("clamp(Tensor q, int lo, int hi) -> Tensor", ops.clamp, _in_place)


def _cat(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    zero_points: Sequence[int],
    dim: int,
    scale: float,
    zero_point: int,
) -> Tensor:
    qparams = list(zip(scales, zero_points, strict=True))
    return ops.cat(tensors, qparams, dim, scale, zero_point)


operator(
    "cat(Tensor[] tensors, float[] scales, int[] zero_points, int dim, float scale, "
    "int zero_point) -> Tensor",
    _cat,
    joined_like,
)
