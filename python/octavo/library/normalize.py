"""Operators of activation functions, softmax and normalizations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.library._packed import packed
from octavo.library._register import operator
from octavo.ops._common import dense

__all__: list[str] = []

_OUTPUT = "float out_scale, int out_zero_point, ScalarType dtype"


def _unary(
    name: str,
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    parameters: Sequence[float],
) -> Tensor:
    output = (out_scale, out_zero_point, as_qdtype(dtype))
    return ops.unary(name, q, scale, zero_point, *output, tuple(parameters))


def _fake_unary(
    name: str,
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    parameters: Sequence[float],
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    f"unary(str name, Tensor q, float scale, int zero_point, {_OUTPUT}, float[] parameters) "
    "-> Tensor",
    _unary,
    _fake_unary,
)


def _softmax(
    q: Tensor,
    scale: float,
    zero_point: int,
    dim: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    return ops.softmax(q, scale, zero_point, dim, out_scale, out_zero_point, as_qdtype(dtype))


def _fake_softmax(
    q: Tensor,
    scale: float,
    zero_point: int,
    dim: int,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    if q.dim() == 0:
        return torch.empty_like(q, dtype=dtype)
    return torch.empty_like(q.movedim(dim, -1).contiguous(), dtype=dtype).movedim(-1, dim)


operator(
    f"softmax(Tensor q, float scale, int zero_point, int dim, {_OUTPUT}) -> Tensor",
    _softmax,
    _fake_softmax,
)


def _channel_affine(
    q: Tensor,
    scale: float,
    zero_point: int,
    factor: Tensor,
    offset: Tensor,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    output = (out_scale, out_zero_point, as_qdtype(dtype), relu)
    return ops.channel_affine(q, scale, zero_point, factor, offset, *output)


def _fake_channel_affine(
    q: Tensor,
    scale: float,
    zero_point: int,
    factor: Tensor,
    offset: Tensor,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    f"channel_affine(Tensor q, float scale, int zero_point, Tensor factor, Tensor offset, {_OUTPUT}"
    ", bool relu=False) -> Tensor",
    _channel_affine,
    _fake_channel_affine,
)


def _batch_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    constants = packed(ops.batch_norm_constants, (mean, variance, weight, bias), eps)
    output = (out_scale, out_zero_point, as_qdtype(dtype), relu)
    return ops.channel_affine(q, scale, zero_point, constants[0], constants[1], *output)


def _fake_batch_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
    relu: bool = False,
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    "batch_norm(Tensor q, float scale, int zero_point, Tensor mean, Tensor variance, "
    f"Tensor? weight, Tensor? bias, float eps, {_OUTPUT}, bool relu=False) -> Tensor",
    _batch_norm,
    _fake_batch_norm,
)


def _prelu(
    q: Tensor,
    scale: float,
    zero_point: int,
    slope: Tensor,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    return ops.prelu(q, scale, zero_point, slope, out_scale, out_zero_point, as_qdtype(dtype))


def _fake_prelu(
    q: Tensor,
    scale: float,
    zero_point: int,
    slope: Tensor,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    f"prelu(Tensor q, float scale, int zero_point, Tensor slope, {_OUTPUT}) -> Tensor",
    _prelu,
    _fake_prelu,
)


def _layer_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    parameters = (normalized_shape, weight, bias, eps)
    output = (out_scale, out_zero_point, as_qdtype(dtype))
    return ops.layer_norm(q, scale, zero_point, *parameters, *output)


def _fake_layer_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    return q.new_empty(q.shape, dtype=dtype)


operator(
    "layer_norm(Tensor q, float scale, int zero_point, int[] normalized_shape, Tensor? weight, "
    f"Tensor? bias, float eps, {_OUTPUT}) -> Tensor",
    _layer_norm,
    _fake_layer_norm,
)


def _group_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    output = (out_scale, out_zero_point, as_qdtype(dtype))
    return ops.group_norm(q, scale, zero_point, groups, weight, bias, eps, *output)


def _fake_group_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(dense(q), dtype=dtype)


operator(
    "group_norm(Tensor q, float scale, int zero_point, int groups, Tensor? weight, Tensor? bias, "
    f"float eps, {_OUTPUT}) -> Tensor",
    _group_norm,
    _fake_group_norm,
)
