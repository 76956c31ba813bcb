"""`torch.nn.functional.interpolate` on QTensors, and with it `nn.Upsample` and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from octavo import ops
from octavo._tensor.compute import need_per_tensor
from octavo._tensor.dispatch import calling_module, refuse, register
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

# Spatial dimensions that a mode is for.
_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}
_COPYING = ("nearest", "nearest-exact")


@register("interpolate")
def interpolate(
    q: QTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> QTensor:
    """torch.nn.functional.interpolate with the parameters of the input, for the modes nearest,
    nearest-exact, linear, bilinear, trilinear and area.

    Raises:
        TypeError: another mode, antialias, per-channel parameters, or 32 bits with a mode that
            does not copy elements.
        ValueError: arguments that torch refuses too.
    """
    if not antialias and not is_dynamo_compiling():
        result = _direct(q, size, scale_factor, mode, align_corners, recompute_scale_factor)
        if result is not None:
            return result
    need_per_tensor("interpolate", q)
    if antialias or mode not in (*_COPYING, *_LINEAR, "area"):
        refuse(
            "interpolate",
            [q],
            f"With mode={mode!r} and antialias={antialias} it computes in float; use "
            "mode='nearest' or mode='bilinear', or dequantize() first.",
        )
    if mode not in _LINEAR and align_corners is not None:
        raise ValueError(
            f"{calling_module()}interpolate: align_corners is for the modes linear, bilinear and "
            f"trilinear, got align_corners={align_corners} with mode={mode!r}"
        )
    need_per_tensor("interpolate", q, eight_bit=mode not in _COPYING)
    dims = q._int.dim() - 2
    wanted = _LINEAR.get(mode)
    if not 1 <= dims <= 3 or wanted not in (None, dims):
        spatial = f"{wanted} spatial" if wanted else "1 to 3 spatial"
        raise ValueError(
            f"{calling_module()}interpolate: mode={mode!r} needs an input (N, C, ...) with "
            f"{spatial} dimensions, got shape {list(q._int.shape)}"
        )
    if q._qdtype.itemsize != 1:  # elements are only copied, and float64 holds every int32
        ints = F.interpolate(
            q._int.double(), size, scale_factor, mode, None, recompute_scale_factor
        )
        return q._with_int(ints.to(q._int.dtype))
    output_size, scales = _output_size(q, size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        pool = (ops.adaptive_avg_pool1d, ops.adaptive_avg_pool2d, ops.adaptive_avg_pool3d)[dims - 1]
        return q._with_int(pool(q._int, q._zero_point, output_size))
    if mode in _COPYING:
        exact = mode == "nearest-exact"
        return q._with_int(ops.upsample_nearest(q._int, output_size, scales, exact))
    return q._with_int(
        ops.upsample_linear(q._int, q._zero_point, output_size, scales, bool(align_corners))
    )


def _direct(
    q: Any, size: Any, scale_factor: Any, mode: str, align_corners: Any, recompute: Any
) -> QTensor | None:
    result: QTensor | None = None
    if mode in _COPYING and align_corners is None:
        exact = mode == "nearest-exact"
        result = direct.upsample_nearest(q, exact, size, scale_factor, recompute)
    elif isinstance(q, QTensor) and _LINEAR.get(mode) == q._int.dim() - 2:
        result = direct.upsample_linear(q, bool(align_corners), size, scale_factor, recompute)
    return result


def _output_size(
    q: QTensor, size: Any, scale_factor: Any, recompute: bool
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """The output's spatial sizes, and the factors that samples are placed by (None: those of the
    sizes)."""
    have = q._int.shape[2:]
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"{calling_module()}interpolate: exactly one of size and scale_factor must be given, "
            f"got size={size} and scale_factor={scale_factor}"
        )
    if scale_factor is None:
        if recompute:
            raise ValueError(
                f"{calling_module()}interpolate: recompute_scale_factor=True needs scale_factor, "
                f"got size={size}"
            )
        sizes = _for_each("size", size, len(have))
        if not all(isinstance(n, int) or torch.is_tensor(n) for n in sizes):
            raise TypeError(f"{calling_module()}interpolate: size: expected integers, got {size!r}")
        to, scales = tuple(int(n) for n in sizes), None
    else:
        factors = tuple(float(f) for f in _for_each("scale_factor", scale_factor, len(have)))
        to = tuple(int(n * f) for n, f in zip(have, factors, strict=True))
        scales = None if recompute else factors
    if min(to) < 1:
        raise ValueError(
            f"{calling_module()}interpolate: size={size} and scale_factor={scale_factor} give the "
            f"output {list(to)} for the input {list(have)}; it must have at least one element"
        )
    return to, scales


def _for_each(argument: str, value: Any, dims: int) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        return (value,) * dims
    if len(value) != dims:
        raise ValueError(
            f"{calling_module()}interpolate: {argument}: expected one number or {dims}, one for "
            f"each spatial dimension, got {value!r}"
        )
    return value
