"""Operators of fully connected layers.

``weight`` is int8 [out, in]; ``weight_scales`` float32 and ``weight_zero_points`` int64, [1] or
[out]; ``bias`` float32 [out].
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.library._packed import packed
from octavo.library._quick import integers, quantized
from octavo.library._register import operator
from octavo.ops.weights import LinearWeight

__all__: list[str] = []

_WEIGHT = "Tensor weight, Tensor weight_scales, Tensor weight_zero_points, Tensor? bias"


def _packed(weight: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None) -> LinearWeight:
    result: LinearWeight = packed(ops.LinearWeight, (weight, scales, zeros, bias))
    return result


def _linear(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
    function: str | None = None,
    slope: float = 0.0,
) -> Tensor:
    run = _packed(weight, weight_scales, weight_zeros, bias)
    qdtype = as_qdtype(dtype)
    if function is None:
        quick = run.direct(quantized(x, x_scale, x_zero), scale, zero_point, qdtype, relu)
        if quick is not None:
            return integers(quick)
    return run(x, x_scale, x_zero, scale, zero_point, qdtype, relu, function, slope)


def _fake_linear(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
    function: str | None = None,
    slope: float = 0.0,
) -> Tensor:
    return _rows(x, weight, dtype)


def _rows(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    torch._check(x.shape[-1] == weight.shape[1])  # type: ignore[no-untyped-call]
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


operator(
    f"linear(Tensor x, float x_scale, int x_zero_point, {_WEIGHT}, float scale, int zero_point, "
    "ScalarType dtype, bool relu=False, str? function=None, float slope=0.0) -> Tensor",
    _linear,
    _fake_linear,
)


def _linear_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    relu: bool = False,
) -> Tensor:
    run = _packed(weight, weight_scales, weight_zeros, bias)
    return run.dequantized_output(x, x_scale, x_zero, relu)


def _fake_linear_float(
    x: Tensor,
    x_scale: float,
    x_zero: int,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    relu: bool = False,
) -> Tensor:
    return _rows(x, weight, torch.float32)


operator(
    f"linear_float(Tensor x, float x_scale, int x_zero_point, {_WEIGHT}, bool relu=False) "
    "-> Tensor",
    _linear_float,
    _fake_linear_float,
)


def _linear_dynamic(
    x: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
    gelu: bool = False,
) -> Tensor:
    run = _packed(weight, weight_scales, weight_zeros, bias)
    quick: Tensor | None = run.dynamic_direct(x, per_tensor, reduce_range, relu, gelu)
    return run.dynamic(x, per_tensor, reduce_range, relu, gelu) if quick is None else quick


def _fake_linear_dynamic(
    x: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    weight_zeros: Tensor,
    bias: Tensor | None,
    per_tensor: bool = False,
    reduce_range: bool = False,
    relu: bool = False,
    gelu: bool = False,
) -> Tensor:
    return _rows(x, weight, x.dtype)


operator(
    f"linear_dynamic(Tensor x, {_WEIGHT}, bool per_tensor=False, bool reduce_range=False, "
    "bool relu=False, bool gelu=False) -> Tensor",
    _linear_dynamic,
    _fake_linear_dynamic,
)
