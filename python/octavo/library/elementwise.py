"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.library._register import operator
from octavo.ops._common import dense
from octavo.ops.concatenate import joined_like

__all__: list[str] = []


def _quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    return ops.quantize(x, scale, zero_point, as_qdtype(dtype), quant_min, quant_max)


def _fake_quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    return torch.empty_like(dense(x), dtype=dtype)


operator(
    "quantize(Tensor x, float scale, int zero_point, ScalarType dtype, int? quant_min=None, "
    "int? quant_max=None) -> Tensor",
    _quantize,
    _fake_quantize,
)


def _fake_dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(dense(q), dtype=torch.float32)


operator(
    "dequantize(Tensor q, float scale, int zero_point) -> Tensor", ops.dequantize, _fake_dequantize
)


def _quantize_channels(
    x: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    qdtype = as_qdtype(dtype)
    return ops.quantize_per_channel(x, scales, zero_points, axis, qdtype, quant_min, quant_max)


def _fake_quantize_channels(
    x: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    dtype: torch.dtype,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


operator(
    "quantize_channels(Tensor x, Tensor scales, Tensor zero_points, int axis, ScalarType dtype, "
    "int? quant_min=None, int? quant_max=None) -> Tensor",
    _quantize_channels,
    _fake_quantize_channels,
)


def _fake_dequantize_channels(q: Tensor, scales: Tensor, zero_points: Tensor, axis: int) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


operator(
    "dequantize_channels(Tensor q, Tensor scales, Tensor zero_points, int axis) -> Tensor",
    ops.dequantize_per_channel,
    _fake_dequantize_channels,
)


def _requantize(
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    lo: int | None = None,
    hi: int | None = None,
) -> Tensor:
    qdtype = as_qdtype(dtype)
    return ops.requantize(q, scale, zero_point, out_scale, out_zero_point, qdtype, lo, hi)


def _fake_requantize(
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    lo: int | None = None,
    hi: int | None = None,
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    "requantize(Tensor q, float scale, int zero_point, float out_scale, int out_zero_point, "
    "ScalarType dtype, int? lo=None, int? hi=None) -> Tensor",
    _requantize,
    _fake_requantize,
)


def _fake_binary(
    a: Tensor,
    a_scale: float,
    a_zero: int,
    b: Tensor,
    b_scale: float,
    b_zero: int,
    scale: float,
    zero_point: int,
    relu: bool = False,
) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(dense(a.expand(shape)))


for _name, _kernel in (("add", ops.add), ("mul", ops.mul)):
    operator(
        f"{_name}(Tensor a, float a_scale, int a_zero_point, Tensor b, float b_scale, "
        "int b_zero_point, float scale, int zero_point, bool relu=False) -> Tensor",
        _kernel,
        _fake_binary,
    )


def _fake_clamp(q: Tensor, lo: int, hi: int) -> Tensor:
    return torch.empty_like(dense(q))


operator("clamp(Tensor q, int lo, int hi) -> Tensor", ops.clamp, _fake_clamp)


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


def _fake_cat(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    zero_points: Sequence[int],
    dim: int,
    scale: float,
    zero_point: int,
) -> Tensor:
    return joined_like(tensors, dim)


operator(
    "cat(Tensor[] tensors, float[] scales, int[] zero_points, int dim, float scale, "
    "int zero_point) -> Tensor",
    _cat,
    _fake_cat,
)
