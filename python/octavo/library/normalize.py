"""Operators of activation functions, softmax and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import QDType
from octavo.library._packed import Packed
from octavo.library._register import operator
from octavo.ops._common import dense

__all__: list[str] = []

_INPUT = "Tensor q, float scale, int zero_point"
_OUTPUT = "float out_scale, int out_zero_point, ScalarType dtype"
_AFFINE = "Tensor? weight, Tensor? bias, float eps"


def _in_place(q: Tensor, dtype: torch.dtype) -> Tensor:
    """A result in the input's layout."""
    return torch.empty_like(dense(q), dtype=dtype)


def _unary(
    name: str,
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    dtype: QDType,
    parameters: Sequence[float],
) -> Tensor:
    output = (out_scale, out_zero_point, dtype)
    return ops.unary(name, q, scale, zero_point, *output, tuple(parameters))


operator(f"unary(str name, {_INPUT}, {_OUTPUT}, float[] parameters) -> Tensor", _unary, _in_place)


def _along(q: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    if q.dim() == 0:
        return torch.empty_like(q, dtype=dtype)
    return torch.empty_like(q.movedim(dim, -1).contiguous(), dtype=dtype).movedim(-1, dim)


operator(f"softmax({_INPUT}, int dim, {_OUTPUT}) -> Tensor", ops.softmax, _along)

operator(
    f"channel_affine({_INPUT}, Tensor factor, Tensor offset, {_OUTPUT}, bool relu=False) -> Tensor",
    ops.channel_affine,
    _in_place,
)

_CONSTANTS = Packed(f"Tensor mean, Tensor variance, {_AFFINE}", ops.batch_norm_constants)


def _batch_norm(
    constants: Sequence[Tensor], q: Tensor, scale: float, zero_point: int, *output: Any
) -> Tensor:
    return ops.channel_affine(q, scale, zero_point, constants[0], constants[1], *output)


operator(
    f"batch_norm({_INPUT}, {_CONSTANTS.schema}, {_OUTPUT}, bool relu=False) -> Tensor",
    _batch_norm,
    _in_place,
    packed=_CONSTANTS,
)

operator(f"prelu({_INPUT}, Tensor slope, {_OUTPUT}) -> Tensor", ops.prelu, _in_place)


def _contiguous(q: Tensor, dtype: torch.dtype) -> Tensor:
    return q.new_empty(q.shape, dtype=dtype)


operator(
    f"layer_norm({_INPUT}, int[] normalized_shape, {_AFFINE}, {_OUTPUT}) -> Tensor",
    ops.layer_norm,
    _contiguous,
)

operator(
    f"group_norm({_INPUT}, int groups, {_AFFINE}, {_OUTPUT}) -> Tensor", ops.group_norm, _in_place
)
