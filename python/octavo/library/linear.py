"""Operators of fully connected layers.

``weight`` is int8 [out, in]; ``weight_scales`` float32 and ``weight_zero_points`` int64, [1] or
[out]; ``bias`` float32 [out].
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from octavo.dtypes import QDType
from octavo.library._packed import Packed
from octavo.library._quick import integers, quantized
from octavo.library._register import operator
from octavo.ops.shared import shared_weight
from octavo.ops.weights import LinearWeight

__all__ = ["WEIGHT"]

WEIGHT = Packed(
    "Tensor weight, Tensor weight_scales, Tensor weight_zero_points, Tensor? bias",
    partial(shared_weight, LinearWeight),
)

_QUANTIZED = "Tensor x, float x_scale, int x_zero_point"


def _rows(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The output; by default in x's dtype."""
    torch._check(x.shape[-1] == weight.shape[1])  # type: ignore[no-untyped-call]
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


def _linear(
    weight: LinearWeight,
    x: Tensor,
    x_scale: float,
    x_zero: int,
    scale: float,
    zero_point: int,
    dtype: QDType,
    relu: bool = False,
    function: str | None = None,
    slope: float = 0.0,
) -> Tensor:
    if function is None:
        quick = weight.direct(quantized(x, x_scale, x_zero), scale, zero_point, dtype, relu)
        if quick is not None:
            return integers(quick)
    return weight(x, x_scale, x_zero, scale, zero_point, dtype, relu, function, slope)


operator(
    f"linear({_QUANTIZED}, {WEIGHT.schema}, float scale, int zero_point, ScalarType dtype, "
    "bool relu=False, str? function=None, float slope=0.0) -> Tensor",
    _linear,
    _rows,
    packed=WEIGHT,
)

operator(
    f"linear_float({_QUANTIZED}, {WEIGHT.schema}, bool relu=False) -> Tensor",
    LinearWeight.dequantized_output,
    partial(_rows, dtype=torch.float32),
    packed=WEIGHT,
)


def _linear_dynamic(
    weight: LinearWeight,
    x: Tensor,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
    gelu: bool = False,
) -> Tensor:
    quick: Tensor | None = weight.dynamic_direct(x, per_tensor, reduce_range, relu, gelu)
    return weight.dynamic(x, per_tensor, reduce_range, relu, gelu) if quick is None else quick


operator(
    f"linear_dynamic(Tensor x, {WEIGHT.schema}, bool per_tensor=False, bool reduce_range=False, "
    "bool relu=False, bool gelu=False) -> Tensor",
    _linear_dynamic,
    _rows,
    packed=WEIGHT,
)
