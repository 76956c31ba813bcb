"""Unary functions by look-up in a table of 256 results."""

from __future__ import annotations

from functools import lru_cache

import torch

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import EIGHT_BIT, OUT_KIND, Tensor, check_storage, dense
from octavo.ops._tracing import record, tracing

_Parameters = tuple[float, ...]


@lru_cache(maxsize=1024)
def unary_table(
    name: str,
    parameters: _Parameters,
    scale: float,
    zero_point: int,
    is_signed: bool,
    out_scale: float,
    out_zero_point: int,
    out_signed: bool,
) -> Tensor:
    """The table of :func:`unary`, uint8 [256], for :func:`octavo.ops.direct.lookup`."""
    table = torch.empty(256, dtype=torch.uint8)
    first, second, third = (*parameters, 0.0, 0.0, 0.0)[:3]
    _C.unary_table(
        name,
        (first, second, third),
        scale,
        zero_point,
        is_signed,
        out_scale,
        out_zero_point,
        out_signed,
        table.data_ptr(),
    )
    return table


def _table_for(
    name: str,
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
    parameters: _Parameters,
) -> Tensor:
    check_storage(name, q, EIGHT_BIT)
    if out_dtype.name not in OUT_KIND:
        raise TypeError(f"{name}: out_dtype must be quint8 or qint8, got {out_dtype}")
    return unary_table(
        name,
        parameters,
        scale,
        zero_point,
        q.dtype == torch.int8,
        out_scale,
        out_zero_point,
        out_dtype.signed,
    )


def unary(
    name: str,
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
    parameters: _Parameters = (),
) -> Tensor:
    """``quantize(f(dequantize(q)))``, where f is computed in float64 and rounded to float32 once.

    Args:
        name: of f, with its parameters: ``celu`` (alpha), ``elu`` (alpha, scale, input_scale),
            ``gelu``, ``gelu_tanh``, ``hardsigmoid``, ``hardswish``, ``leaky_relu`` (slope),
            ``mish``, ``sigmoid``, ``silu``, ``tanh``, ``threshold`` (threshold, value).
        q: uint8 or int8, any shape and strides.
        out_scale, out_zero_point, out_dtype: of the result.

    Returns:
        Tensor of ``out_dtype.storage`` with q's shape and memory format.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        ValueError: an unknown name; qparams out of range.
    """
    if tracing(q):
        output = (out_scale, out_zero_point, out_dtype.storage, list(parameters))
        return record("unary", name, q, scale, zero_point, *output)
    table = _table_for(name, q, scale, zero_point, out_scale, out_zero_point, out_dtype, parameters)
    q = dense(q)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.lookup(table.data_ptr(), q.data_ptr(), q.numel(), out.data_ptr())
    return out


def unary_(
    name: str, q: Tensor, scale: float, zero_point: int, parameters: _Parameters = ()
) -> Tensor:
    """:func:`unary` in the storage and with the qparams of ``q``, which is returned."""
    dtype = EIGHT_BIT.get(q.dtype)
    if tracing(q) and dtype is not None:
        return q.copy_(unary(name, q, scale, zero_point, scale, zero_point, dtype, parameters))
    if dtype is None:
        check_storage(name, q, EIGHT_BIT)
    assert dtype is not None
    table = _table_for(name, q, scale, zero_point, scale, zero_point, dtype, parameters)
    plain = dense(q)
    if plain is q:
        _C.lookup(table.data_ptr(), q.data_ptr(), q.numel(), q.data_ptr())
    else:
        out = torch.empty_like(plain)
        _C.lookup(table.data_ptr(), plain.data_ptr(), plain.numel(), out.data_ptr())
        q.copy_(out)
    return q
