"""Quantize and dequantize as operators of ``torch.ops.octavo``: what stands in the graphs of
:mod:`octavo.quantization.quantize_pt2e`.

=========================================  =======================================================
``quantize_per_tensor``                    scale and zero point as numbers
``quantize_per_tensor.tensor``             scale and zero point as tensors of one element
``quantize_per_channel``                   scales and zero points (channels,) along ``axis``
``quantize_per_token``                     scales and zero points (..., 1), one for each row
``dequantize_...``                         the four in the other direction
``choose_qparams.tensor``                  scale and zero point [1] of a tensor as it is
``choose_qparams_symmetric.tensor``        the same, with the zero point in the middle
``choose_qparams_per_token``               scales and zero points (..., 1) of the last dimension
=========================================  =======================================================

Names and signatures are those of torch's ``quantized_decomposed`` operators, where the zero point
is that of Octavo's *Numerics*: ``q = clamp(zero_point + rne(x * (1 / scale)), quant_min,
quant_max)`` in float32, ±Inf saturates, NaN becomes the zero point; ``(q - zero_point) * scale``
back. Float inputs are float32, bfloat16 or float16 and are computed in float32. Float32 and 8-bit
tensors on the CPU take Octavo's kernels, everything else the same arithmetic in torch's operations.

``choose_qparams`` finds qparams as Octavo's dynamically quantized modules do. A tensor (a row, for
``choose_qparams_per_token``) with NaN or Inf has a scale of NaN, and so comes back as NaN.

Float zero points, which per-channel operators take too, are those of embedding tables: ``q =
clamp(rne(x * (1 / scale) + zero_point))`` and ``q * scale - zero_point * scale``.

Results have the memory format of their input, per-channel ones are contiguous. None has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor

from octavo import ops
from octavo.dtypes import as_qdtype
from octavo.ops._common import EIGHT_BIT, is_channels_last

__all__: list[str] = []

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

_RANGE = "int quant_min, int quant_max, ScalarType dtype"
_OUT = "*, ScalarType? out_dtype=None"
_SCHEMAS = (
    f"quantize_per_tensor(Tensor input, float scale, int zero_point, {_RANGE}) -> Tensor",
    f"quantize_per_tensor.tensor(Tensor input, Tensor scale, Tensor zero_point, {_RANGE})"
    " -> Tensor",
    f"quantize_per_channel(Tensor input, Tensor scales, Tensor zero_points, int axis, {_RANGE})"
    " -> Tensor",
    f"quantize_per_token(Tensor input, Tensor scales, Tensor zero_points, {_RANGE}) -> Tensor",
    f"dequantize_per_tensor(Tensor input, float scale, int zero_point, {_RANGE}, {_OUT}) -> Tensor",
    f"dequantize_per_tensor.tensor(Tensor input, Tensor scale, Tensor zero_point, {_RANGE}, {_OUT})"
    " -> Tensor",
    "dequantize_per_channel(Tensor input, Tensor scales, Tensor? zero_points, int axis, "
    f"{_RANGE}, {_OUT}) -> Tensor",
    f"dequantize_per_token(Tensor input, Tensor scales, Tensor zero_points, {_RANGE}, {_OUT})"
    " -> Tensor",
    "choose_qparams.tensor(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor)",
    "choose_qparams_symmetric.tensor(Tensor input, int quant_min, int quant_max, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    "choose_qparams_per_token(Tensor input, int quant_min, int quant_max, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor)",
)


def _check_float(name: str, x: Tensor) -> None:
    if x.dtype not in _FLOATS:
        raise TypeError(
            f"{name}: input must be float32, bfloat16 or float16, got {x.dtype}; convert it with "
            ".float() first"
        )


def _check_range(name: str, quant_min: int, quant_max: int, dtype: torch.dtype) -> None:
    if dtype not in _INTEGERS:
        raise TypeError(f"{name}: dtype must be an integer type of up to 32 bits, got {dtype}")
    limits = torch.iinfo(dtype)
    if not limits.min <= quant_min <= quant_max <= limits.max:
        raise ValueError(
            f"{name}: quant_min={quant_min} and quant_max={quant_max} are no range of {dtype} "
            f"({limits.min}..{limits.max})"
        )


def _check_stored(name: str, q: Tensor, dtype: torch.dtype) -> None:
    if q.dtype != dtype:
        raise TypeError(
            f"{name}: input must have dtype {dtype}, as the argument says; got {q.dtype}"
        )


def _check_one(name: str, scale: Tensor, zero_point: Tensor) -> None:
    if scale.numel() != 1 or zero_point.numel() != 1:
        raise ValueError(
            f"{name}: scale and zero_point must have one element, got shapes "
            f"{tuple(scale.shape)} and {tuple(zero_point.shape)}"
        )


def _check_number(name: str, scale: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"{name}: scale must be finite and > 0, got {scale}")


def _check_channels(name: str, x: Tensor, scales: Tensor, points: Tensor | None, axis: int) -> None:
    if not -x.dim() <= axis < x.dim():
        raise ValueError(f"{name}: axis {axis} is out of range for {x.dim()} dimensions")
    shapes = [tuple(t.shape) for t in (scales, points) if t is not None]
    if any(shape != (x.shape[axis],) for shape in shapes):
        raise ValueError(
            f"{name}: dimension {axis} has {x.shape[axis]} channels, so scales and zero_points "
            f"must have shape ({x.shape[axis]},); got {', '.join(map(str, shapes))}"
        )


def _check_rows(name: str, x: Tensor, scales: Tensor, points: Tensor) -> None:
    if x.dim() == 0 or any(t.shape != (*x.shape[:-1], 1) for t in (scales, points)):
        raise ValueError(
            f"{name}: scales and zero_points must have the input's shape with 1 in place of the "
            f"last dimension; got {tuple(scales.shape)} and {tuple(points.shape)} for "
            f"{tuple(x.shape)}"
        )


def _for_kernel(x: Tensor, dtypes: Container[torch.dtype]) -> bool:
    """Whether kernels take the tensor, and leave its strides as they are."""
    if not x.is_cpu or x.dtype not in dtypes or x.is_neg():
        return False
    return x.is_contiguous() or (x.dim() in (3, 4, 5) and is_channels_last(x))


def _round(
    x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, to: torch.dtype
) -> Tensor:
    """Quantizes; ``scale`` and ``zero_point`` broadcast. 32-bit integers need double precision once
    a zero point is added, others do not come near.
    """
    scale = scale.to(torch.float32)
    rounded = torch.round(x.to(torch.float32) * scale.reciprocal())
    wide = torch.float64 if to == torch.int32 else torch.float32
    points = zero_point.to(wide)
    levels = torch.where(rounded.isnan(), points, rounded.to(wide) + points)
    return levels.clamp(lo, hi).to(to)


def _back(q: Tensor, scale: Tensor, zero_point: Tensor | None, to: torch.dtype | None) -> Tensor:
    """Dequantizes. Differences of 32-bit integers are exact in 64 bits."""
    if zero_point is not None:
        q = q.to(torch.int64 if q.dtype == torch.int32 else torch.int32) - zero_point.to(q.device)
    result = q.to(torch.float32) * scale.to(torch.float32)
    return result if to is None else result.to(to)


def _number(value: float, x: Tensor) -> Tensor:
    dtype = torch.float32 if isinstance(value, float) else torch.int32
    return torch.tensor(value, dtype=dtype, device=x.device)


def quantize_per_tensor(
    input: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Tensor:
    name = "quantize_per_tensor"
    _check_float(name, input)
    _check_range(name, quant_min, quant_max, dtype)
    _check_number(name, scale)
    if dtype in EIGHT_BIT and _for_kernel(input, (torch.float32,)):
        return ops.quantize(input, scale, zero_point, as_qdtype(dtype), quant_min, quant_max)
    factor, point = _number(scale, input), _number(zero_point, input)
    return _round(input, factor, point, quant_min, quant_max, dtype)


def quantize_per_tensor_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    name = "quantize_per_tensor"
    _check_float(name, input)
    _check_range(name, quant_min, quant_max, dtype)
    _check_one(name, scale, zero_point)
    return _round(input, scale.reshape(()), zero_point.reshape(()), quant_min, quant_max, dtype)


def dequantize_per_tensor(
    input: Tensor,
    scale: float,
    zero_point: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    name = "dequantize_per_tensor"
    _check_stored(name, input, dtype)
    _check_range(name, quant_min, quant_max, dtype)
    _check_number(name, scale)
    if _for_kernel(input, EIGHT_BIT):
        result = ops.dequantize(input, scale, zero_point)
        return result if out_dtype is None else result.to(out_dtype)
    return _back(input, _number(scale, input), _number(zero_point, input), out_dtype)


def dequantize_per_tensor_tensor(
    input: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    name = "dequantize_per_tensor"
    _check_stored(name, input, dtype)
    _check_range(name, quant_min, quant_max, dtype)
    _check_one(name, scale, zero_point)
    return _back(input, scale.reshape(()), zero_point.reshape(()), out_dtype)


def quantize_per_channel(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    name = "quantize_per_channel"
    _check_float(name, input)
    _check_range(name, quant_min, quant_max, dtype)
    _check_channels(name, input, scales, zero_points, axis)
    x = input.contiguous()
    shape = _along(x, axis)
    if zero_points.is_floating_point():
        scaled = x.to(torch.float32) * scales.to(torch.float32).reshape(shape).reciprocal()
        steps = scaled + zero_points.to(torch.float32).reshape(shape)
        return steps.round().clamp(quant_min, quant_max).nan_to_num(quant_min).to(dtype)
    if dtype in EIGHT_BIT and _for_kernel(x, (torch.float32,)):
        kind = as_qdtype(dtype)
        return ops.quantize_per_channel(x, scales, zero_points, axis, kind, quant_min, quant_max)
    return _round(x, scales.reshape(shape), zero_points.reshape(shape), quant_min, quant_max, dtype)


def dequantize_per_channel(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    name = "dequantize_per_channel"
    _check_stored(name, input, dtype)
    _check_range(name, quant_min, quant_max, dtype)
    _check_channels(name, input, scales, zero_points, axis)
    q = input.contiguous()
    points = torch.zeros_like(scales, dtype=torch.int32) if zero_points is None else zero_points
    shape = _along(q, axis)
    if points.is_floating_point():
        offsets = (-points.to(torch.float32) * scales.to(torch.float32)).reshape(shape)
        values = q.to(torch.float32) * scales.to(torch.float32).reshape(shape) + offsets
        return values if out_dtype is None else values.to(out_dtype)
    if _for_kernel(q, EIGHT_BIT):
        result = ops.dequantize_per_channel(q, scales, points, axis)
        return result if out_dtype is None else result.to(out_dtype)
    return _back(q, scales.reshape(shape), points.reshape(shape), out_dtype)


def _along(x: Tensor, axis: int) -> list[int]:
    shape = [1] * x.dim()
    shape[axis] = -1
    return shape


def quantize_per_token(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
) -> Tensor:
    name = "quantize_per_token"
    _check_float(name, input)
    _check_range(name, quant_min, quant_max, dtype)
    _check_rows(name, input, scales, zero_points)
    return _round(input, scales, zero_points, quant_min, quant_max, dtype)


def dequantize_per_token(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    name = "dequantize_per_token"
    _check_stored(name, input, dtype)
    _check_range(name, quant_min, quant_max, dtype)
    _check_rows(name, input, scales, zero_points)
    return _back(input, scales, zero_points, out_dtype)


def _affine(lo: Tensor, hi: Tensor, qmin: int, qmax: int, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and zero point of intervals, as csrc/ops/dynamic_linear.cpp: in double precision, the
    zero point from the end of the interval where it errs less. Where the scale would be below
    ``eps`` the interval is widened; where it has no reciprocal it is 0.1.
    """
    usable = torch.isfinite(lo) & torch.isfinite(hi)
    low, high = (torch.where(usable, t, 0).to(torch.float64) for t in (lo, hi))
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / (qmax - qmin)).to(torch.float32)
    scale = torch.where((scale == 0) | scale.reciprocal().isinf(), 0.1, scale)
    narrow = scale < eps
    widening = torch.where(narrow, eps / scale.to(torch.float64), 1.0)
    one_sided = narrow & ((low == 0) | (high == 0))
    span = eps * (qmax - qmin)
    low = torch.where(one_sided, torch.where(low == 0, 0.0, -span), low * widening)
    high = torch.where(one_sided, torch.where(low == 0, span, 0.0), high * widening)
    scale = torch.where(narrow, eps, scale)
    below, above = low / scale, high / scale
    from_low = abs(qmin) + below.abs() < abs(qmax) + above.abs()
    points = torch.where(from_low, qmin - below, qmax - above).clamp(qmin, qmax).round()
    return torch.where(usable, scale, torch.nan), points.to(torch.int64)


def choose_qparams(
    input: Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check_float("choose_qparams", input)
    _check_range("choose_qparams", quant_min, quant_max, dtype)
    lo, hi = _interval(input)
    scale, zero_point = _affine(lo, hi, quant_min, quant_max, eps)
    return scale.reshape(1), zero_point.reshape(1)


def choose_qparams_symmetric(
    input: Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check_float("choose_qparams_symmetric", input)
    _check_range("choose_qparams_symmetric", quant_min, quant_max, dtype)
    lo, hi = _interval(input)
    largest = torch.maximum(-lo, hi)
    scale = (largest / ((quant_max - quant_min) / 2)).clamp(min=eps)
    scale = torch.where(torch.isfinite(largest), scale, torch.nan)
    middle = 0 if quant_min < 0 else (quant_min + quant_max + 1) // 2
    return scale.reshape(1), torch.full((1,), middle, dtype=torch.int64, device=input.device)


def _interval(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of all values and 0."""
    zero = torch.zeros(1, device=x.device)
    both: tuple[Tensor, Tensor] = torch.aminmax(torch.cat([x.to(torch.float32).reshape(-1), zero]))
    return both


def choose_qparams_per_token(
    input: Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    _check_float("choose_qparams_per_token", input)
    _check_range("choose_qparams_per_token", quant_min, quant_max, dtype)
    if input.dim() == 0 or input.shape[-1] == 0:
        raise ValueError(
            "choose_qparams_per_token: input must have values in its last dimension, got shape "
            f"{tuple(input.shape)}"
        )
    x = input.to(torch.float32)
    lo, hi = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return _affine(lo, hi, quant_min, quant_max, eps)


def _integers_like(input: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(input, dtype=args[-1])


def _contiguous_integers(input: Tensor, *args: Any) -> Tensor:
    return input.new_empty(input.shape, dtype=args[-1])


def _floats_like(input: Tensor, *args: Any, out_dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(input, dtype=out_dtype or torch.float32)


def _contiguous_floats(input: Tensor, *args: Any, out_dtype: torch.dtype | None = None) -> Tensor:
    return input.new_empty(input.shape, dtype=out_dtype or torch.float32)


def _one_pair(input: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty(1, dtype=torch.float32), input.new_empty(1, dtype=torch.int64)


def _pair_for_rows(input: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    shape = (*input.shape[:-1], 1)
    return input.new_empty(shape, dtype=torch.float32), input.new_empty(shape, dtype=torch.int64)


_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "quantize_per_tensor": (quantize_per_tensor, _integers_like),
    "quantize_per_tensor.tensor": (quantize_per_tensor_tensor, _integers_like),
    "quantize_per_channel": (quantize_per_channel, _contiguous_integers),
    "quantize_per_token": (quantize_per_token, _integers_like),
    "dequantize_per_tensor": (dequantize_per_tensor, _floats_like),
    "dequantize_per_tensor.tensor": (dequantize_per_tensor_tensor, _floats_like),
    "dequantize_per_channel": (dequantize_per_channel, _contiguous_floats),
    "dequantize_per_token": (dequantize_per_token, _floats_like),
    "choose_qparams.tensor": (choose_qparams, _one_pair),
    "choose_qparams_symmetric.tensor": (choose_qparams_symmetric, _one_pair),
    "choose_qparams_per_token": (choose_qparams_per_token, _pair_for_rows),
}


def _define() -> None:
    """Defines the operators, once in a process: this module may be loaded again."""
    kept: dict[str, Any] = vars(torch.ops.octavo)
    if "_decomposed" in kept:
        return
    make: Any = torch.library.Library
    library = kept["_decomposed"] = make("octavo", "FRAGMENT")
    replaced = kept["_replaced"] = []
    for schema in _SCHEMAS:
        name, _, overload = schema.partition("(")[0].partition(".")
        if overload and hasattr(torch.ops.octavo, name):
            # torch puts another function in the place of this one, which TorchScript goes on to
            # know by its address: were it freed, what lay there next would pass for an operator.
            replaced.append(getattr(torch.ops.octavo, name).op)
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for name, (implementation, fake) in _IMPLEMENTATIONS.items():
        library.impl(name, torch.no_grad()(implementation), "CompositeExplicitAutograd")
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"octavo::{name}", fake, lib=library)


_define()
