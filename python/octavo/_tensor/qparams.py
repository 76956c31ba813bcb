"""Validation of scales, zero points and channel axes: every way into quantized storage comes
here."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

from octavo.dtypes import QDType

# Both bounds are exclusive and are taken on the scale before it is rounded to float32: within them
# the rounded scale is finite and positive and its float32 reciprocal is finite.
_SCALE_TOO_LARGE = 2.0**128 - 2.0**103
_SCALE_TOO_SMALL = 2.0**-128 + 2.0**-150


def _one_number(value: Any, argument: str) -> Any:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{argument}: expected one number or a tensor with one element, got shape "
                f"{list(value.shape)}; octavo.quantize_per_channel takes one {argument} per channel"
            )
        number: Any = value.item()
        if isinstance(number, (torch.SymFloat, torch.SymInt)):
            raise TypeError(
                f"{argument}: expected a number, got a tensor whose value is not known while a "
                "model is exported; keep scales and zero points as Python numbers, such as "
                "scale.item(), and not in buffers"
            )
        return number
    return value


def check_scale(scale: Any, argument: str = "scale") -> float:
    """`scale`, a number or a one-element tensor, as a float that float32 kernels can use.

    Raises:
        TypeError: it is not a number.
        ValueError: in float32 it is not finite and positive, or its reciprocal is not finite.
    """
    number = _one_number(scale, argument)
    if isinstance(number, (str, bytes, bool)):
        raise TypeError(f"{argument}: expected a positive number, got {scale!r}")
    try:
        result = float(number)
    except (TypeError, ValueError):
        raise TypeError(f"{argument}: expected a positive number, got {scale!r}") from None
    if not _SCALE_TOO_SMALL < result < _SCALE_TOO_LARGE:
        raise ValueError(f"{argument}: {_scale_problem(result)}")
    return result


def _scale_problem(scale: float) -> str:
    if scale > 0 and math.isfinite(scale):
        return f"{scale} is outside the range of float32 or its reciprocal is; rescale the data"
    return (
        f"must be finite and positive, got {scale}; an observer that saw no finite data gives this"
    )


def check_zero_point(zero_point: Any, qdtype: QDType, argument: str = "zero_point") -> int:
    """`zero_point`, an integer or a one-element integer tensor, within the range of `qdtype`.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of range.
    """
    number = _one_number(zero_point, argument)
    try:
        result = operator.index(number)
    except TypeError:
        if not (isinstance(number, float) and number.is_integer()):
            raise TypeError(f"{argument}: expected an integer, got {zero_point!r}") from None
        result = int(number)
    if not qdtype.qmin <= result <= qdtype.qmax:
        raise ValueError(
            f"{argument}: {result} is outside [{qdtype.qmin}, {qdtype.qmax}], the range of {qdtype}"
        )
    return result


def check_channels(
    scales: Any, zero_points: Any, axis: Any, shape: Sequence[int], qdtype: QDType
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Per-channel parameters of a tensor of `shape` as float64 and int64 copies and an axis >= 0.

    Raises:
        TypeError: scales or zero points are not numbers or integers, or the axis is no integer.
        ValueError: axis out of range, a length that differs from `shape[axis]`, or a value that
            `check_scale` or `check_zero_point` would refuse.
    """
    axis = check_axis(axis, len(shape))
    scale_list = _vector(scales, "scales", torch.float64, shape[axis], axis)
    good = (scale_list > _SCALE_TOO_SMALL) & (scale_list < _SCALE_TOO_LARGE)
    if not bool(good.all()):
        at = int((~good).nonzero()[0])
        raise ValueError(f"scales[{at}]: {_scale_problem(float(scale_list[at]))}")
    zero_list = _vector(zero_points, "zero_points", torch.int64, shape[axis], axis)
    good = (zero_list >= qdtype.qmin) & (zero_list <= qdtype.qmax)
    if not bool(good.all()):
        at = int((~good).nonzero()[0])
        check_zero_point(int(zero_list[at]), qdtype, f"zero_points[{at}]")
    return scale_list, zero_list, axis


def check_axis(axis: Any, dims: int) -> int:
    """`axis` counted from the front.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of range for a tensor of `dims` dimensions.
    """
    try:
        result = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {axis!r}") from None
    if not -dims <= result < dims:
        raise ValueError(f"axis: {result} is out of range for a tensor of {dims} dimensions")
    return result % dims


def _vector(values: Any, argument: str, dtype: torch.dtype, length: int, axis: int) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        values = torch.tensor(values)
    integers_only = dtype == torch.int64 and values.numel() > 0
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{argument}: expected numbers, got {values.dtype}")
    if integers_only and values.is_floating_point():
        raise TypeError(
            f"{argument}: expected integers, got {values.dtype}; round them and call "
            ".to(torch.int64)"
        )
    if values.dim() != 1 or values.numel() != length:
        raise ValueError(
            f"{argument}: expected one per channel, {length} for axis {axis}, got shape "
            f"{list(values.shape)}"
        )
    result: torch.Tensor = values.detach().to("cpu", dtype, copy=True)
    return result
