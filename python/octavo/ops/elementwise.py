"""Quantize, dequantize, requantize, add, multiply and clamp."""

from __future__ import annotations

import torch

from octavo import _C
from octavo.dtypes import QDType, qint32
from octavo.ops._common import (
    EIGHT_BIT,
    OUT_KIND,
    STORAGE,
    Tensor,
    check_float32,
    check_storage,
    dense,
)
from octavo.ops._tracing import record, tracing


def _check_zero_point(zero_point: int, dtype: QDType) -> None:
    if not dtype.qmin <= zero_point <= dtype.qmax:
        raise ValueError(
            f"zero_point: {dtype.name} needs {dtype.qmin}..{dtype.qmax}, got {zero_point}"
        )


def _range(dtype: QDType, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
    lo = dtype.qmin if quant_min is None else quant_min
    hi = dtype.qmax if quant_max is None else quant_max
    if not dtype.qmin <= lo <= hi <= dtype.qmax:
        raise ValueError(
            f"quant_min, quant_max: {lo}, {hi} is no range inside {dtype.name}'s "
            f"{dtype.qmin}..{dtype.qmax}"
        )
    return lo, hi


def quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    dtype: QDType,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """``clamp(zero_point + round_half_even(x * (1 / scale)), quant_min, quant_max)`` in float32.

    Args:
        x: float32 tensor of any shape and strides.
        scale: positive, finite, with a finite reciprocal in float32.
        zero_point: inside ``dtype``'s range.
        dtype: what to store; decides the range where ``quant_min`` and ``quant_max`` are absent.

    Returns:
        Tensor of ``dtype.storage`` with x's shape and memory format. ±Inf saturates, NaN becomes
        the zero point.

    Raises:
        TypeError: x is not float32.
        ValueError: scale, zero point or range as above.
    """
    if tracing(x):
        arguments = (scale, zero_point, dtype.storage, quant_min, quant_max)
        return record("quantize", x, *arguments)
    check_float32("quantize", x)
    _check_zero_point(zero_point, dtype)
    lo, hi = _range(dtype, quant_min, quant_max)
    x = dense(x)
    out = torch.empty_like(x, dtype=dtype.storage)
    _C.quantize(
        x.data_ptr(), x.numel(), scale, zero_point, lo, hi, STORAGE[dtype.storage], out.data_ptr()
    )
    return out


def _channel_layout(x: Tensor, axis: int, count: int, name: str) -> tuple[int, int, int]:
    """(elements before, at and after ``axis``) of a contiguous tensor."""
    if not -x.dim() <= axis < x.dim():
        raise ValueError(
            f"{name}: axis {axis} is out of range for a tensor of {x.dim()} dimensions"
        )
    axis %= x.dim()
    if x.shape[axis] != count:
        raise ValueError(
            f"{name}: dimension {axis} has {x.shape[axis]} channels, but there are {count} scales"
        )
    shape = list(x.shape)
    outer = int(torch.Size(shape[:axis]).numel())
    inner = int(torch.Size(shape[axis + 1 :]).numel())
    return outer, count, inner


def _channel_qparams(
    scales: Tensor, zero_points: Tensor, dtype: QDType, name: str
) -> tuple[Tensor, Tensor]:
    if scales.dim() != 1 or zero_points.shape != scales.shape:
        raise ValueError(
            f"{name}: scales and zero_points must be 1-D and equally long, got shapes "
            f"{tuple(scales.shape)} and {tuple(zero_points.shape)}"
        )
    low, high = (zero_points.min(), zero_points.max()) if zero_points.numel() else (0, 0)
    if low < dtype.qmin or high > dtype.qmax:
        raise ValueError(
            f"{name}: zero points of {dtype.name} need {dtype.qmin}..{dtype.qmax}, got "
            f"{low}..{high}"
        )
    return (
        scales.detach().to("cpu", torch.float32).contiguous(),
        zero_points.detach().to("cpu", torch.int32).contiguous(),
    )


def quantize_per_channel(
    x: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    dtype: QDType,
    quant_min: int | None = None,
    quant_max: int | None = None,
) -> Tensor:
    """:func:`quantize` with a scale and zero point for each index of dimension ``axis``.

    Args:
        scales, zero_points: 1-D, as long as ``x.shape[axis]``.

    Raises:
        TypeError, ValueError: as :func:`quantize`, and for lengths that do not match.
    """
    if tracing(x):
        arguments = (scales, zero_points, axis, dtype.storage, quant_min, quant_max)
        return record("quantize_channels", x, *arguments)
    check_float32("quantize_per_channel", x)
    lo, hi = _range(dtype, quant_min, quant_max)
    scales, zero_points = _channel_qparams(scales, zero_points, dtype, "quantize_per_channel")
    x = x.contiguous()
    layout = _channel_layout(x, axis, scales.numel(), "quantize_per_channel")
    out = torch.empty_like(x, dtype=dtype.storage)
    _C.quantize_per_channel(
        x.data_ptr(),
        *layout,
        scales.data_ptr(),
        zero_points.data_ptr(),
        lo,
        hi,
        STORAGE[dtype.storage],
        out.data_ptr(),
    )
    return out


def dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """``float32(q - zero_point) * scale``, with q's shape and memory format.

    Raises:
        TypeError: q is not uint8, int8 or int32.
    """
    if tracing(q):
        return record("dequantize", q, scale, zero_point)
    check_storage("dequantize", q, STORAGE)
    q = dense(q)
    out = torch.empty_like(q, dtype=torch.float32)
    _C.dequantize(q.data_ptr(), q.numel(), scale, zero_point, STORAGE[q.dtype], out.data_ptr())
    return out


def dequantize_per_channel(q: Tensor, scales: Tensor, zero_points: Tensor, axis: int) -> Tensor:
    """:func:`dequantize` with a scale and zero point for each index of dimension ``axis``.

    Raises:
        TypeError: q is not uint8, int8 or int32.
        ValueError: lengths that do not match.
    """
    if tracing(q):
        return record("dequantize_channels", q, scales, zero_points, axis)
    check_storage("dequantize_per_channel", q, STORAGE)
    scales, zero_points = _channel_qparams(scales, zero_points, qint32, "dequantize_per_channel")
    q = q.contiguous()
    layout = _channel_layout(q, axis, scales.numel(), "dequantize_per_channel")
    out = torch.empty_like(q, dtype=torch.float32)
    _C.dequantize_per_channel(
        q.data_ptr(),
        *layout,
        scales.data_ptr(),
        zero_points.data_ptr(),
        STORAGE[q.dtype],
        out.data_ptr(),
    )
    return out


def requantize(
    q: Tensor,
    scale: float,
    zero_point: int,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
    lo: int | None = None,
    hi: int | None = None,
) -> Tensor:
    """The same values in other qparams: ``round_half_even((q - zero_point) * (scale / out_scale)) +
    out_zero_point``.

    Args:
        q: uint8 or int8.
        lo, hi: clamp bounds as quantized values; the range of ``out_dtype`` where absent.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        ValueError: qparams out of range.
    """
    if tracing(q):
        arguments = (scale, zero_point, out_scale, out_zero_point, out_dtype.storage, lo, hi)
        return record("requantize", q, *arguments)
    check_storage("requantize", q, EIGHT_BIT)
    if out_dtype.name not in OUT_KIND:
        raise TypeError(f"requantize: out_dtype must be quint8 or qint8, got {out_dtype}")
    lo, hi = _range(out_dtype, lo, hi)
    q = dense(q)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.requantize(
        q.data_ptr(),
        q.numel(),
        scale,
        zero_point,
        q.dtype == torch.int8,
        out_scale,
        out_zero_point,
        out_dtype.signed,
        lo,
        hi,
        out.data_ptr(),
    )
    return out


def _binary(
    name: str,
    a: Tensor,
    a_scale: float,
    a_zero: int,
    b: Tensor,
    b_scale: float,
    b_zero: int,
    out_scale: float,
    out_zero: int,
    relu: bool,
) -> Tensor:
    if tracing(a) or tracing(b):
        return record(name, a, a_scale, a_zero, b, b_scale, b_zero, out_scale, out_zero, relu)
    check_storage(name, a, EIGHT_BIT)
    check_storage(name, b, EIGHT_BIT)
    if a.dtype != b.dtype:
        raise TypeError(
            f"{name}: operands of one dtype are needed, got {a.dtype} and {b.dtype}; requantize "
            "one of them"
        )
    if a.shape != b.shape:
        shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
        a, b = a.expand(shape), b.expand(shape)
    a = dense(a)
    # Walking both in memory order needs equal strides; dimensions of one element may differ in
    # stride.
    b = torch.empty_like(a).copy_(b) if a.stride() != b.stride() else b
    out = torch.empty_like(a)
    call = _C.add if name == "add" else _C.mul
    call(
        a.data_ptr(),
        a_scale,
        a_zero,
        b.data_ptr(),
        b_scale,
        b_zero,
        a.numel(),
        a.dtype == torch.int8,
        out_scale,
        out_zero,
        relu,
        out.data_ptr(),
    )
    return out


def add(
    a: Tensor,
    a_scale: float,
    a_zero: int,
    b: Tensor,
    b_scale: float,
    b_zero: int,
    out_scale: float,
    out_zero: int,
    relu: bool = False,
) -> Tensor:
    """Quantized ``a + b``, broadcasting, with ReLU where asked: the clamp then starts at the
    output's zero point.

    ``round_half_even((a - a_zero) * (a_scale / out_scale) + (b - b_zero) * (b_scale / out_scale)) +
    out_zero`` in float32.

    Raises:
        TypeError: operands that are not both uint8 or both int8.
        ValueError: qparams out of range.
        RuntimeError: shapes that do not broadcast.
    """
    return _binary("add", a, a_scale, a_zero, b, b_scale, b_zero, out_scale, out_zero, relu)


def mul(
    a: Tensor,
    a_scale: float,
    a_zero: int,
    b: Tensor,
    b_scale: float,
    b_zero: int,
    out_scale: float,
    out_zero: int,
    relu: bool = False,
) -> Tensor:
    """Quantized ``a * b``, broadcasting: ``round_half_even((a - a_zero) * (b - b_zero) * (a_scale *
    b_scale / out_scale)) + out_zero``, the integer product exact.

    Raises:
        As :func:`add`.
    """
    return _binary("mul", a, a_scale, a_zero, b, b_scale, b_zero, out_scale, out_zero, relu)


def clamp(q: Tensor, lo: int, hi: int) -> Tensor:
    """``q`` limited to the quantized values ``lo .. hi`` (bounds outside the dtype's range do not
    bind).

    Raises:
        TypeError: q is not uint8 or int8.
        ValueError: lo > hi.
    """
    if tracing(q):
        return record("clamp", q, lo, hi)
    check_storage("clamp", q, EIGHT_BIT)
    dtype = EIGHT_BIT[q.dtype]
    if lo > hi:
        raise ValueError(f"clamp: lo={lo} is above hi={hi}")
    lo = min(max(lo, dtype.qmin), dtype.qmax)
    hi = min(max(hi, dtype.qmin), dtype.qmax)
    q = dense(q)
    out = torch.empty_like(q)
    _C.clamp(q.data_ptr(), q.numel(), dtype.signed, lo, hi, out.data_ptr())
    return out
