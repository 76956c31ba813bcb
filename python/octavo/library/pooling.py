"""Operators that pool and resize 8-bit images; the result keeps the input's scale and zero
point."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octavo import ops
from octavo.library._layout import new_channels_last
from octavo.library._register import operator

__all__: list[str] = []

Ints = Sequence[int]

_MAX = (ops.max_pool1d, ops.max_pool2d, ops.max_pool3d)
_AVG = (ops.avg_pool1d, ops.avg_pool2d, ops.avg_pool3d)
_ADAPTIVE_MAX = (ops.adaptive_max_pool1d, ops.adaptive_max_pool2d, ops.adaptive_max_pool3d)
_ADAPTIVE_AVG = (ops.adaptive_avg_pool1d, ops.adaptive_avg_pool2d, ops.adaptive_avg_pool3d)


def _resized(q: Tensor, size: Ints) -> Tensor:
    rank = len(size)
    batch = q.shape[0] if q.dim() == rank + 2 else 1
    out = new_channels_last(q, batch, q.shape[-1 - rank], size, q.dtype)
    return out if q.dim() == rank + 2 else out.squeeze(0)


def _pooled(
    q: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    dilation: Ints | None = None,
) -> Tensor:
    rank = len(kernel_size)
    steps_in_window = (1,) * rank if dilation is None else dilation
    sizes = []
    for i, (k, s, p, d) in enumerate(
        zip(kernel_size, stride, padding, steps_in_window, strict=True)
    ):
        size = q.shape[i - rank]
        steps = size + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)
        count = steps // s + 1
        if ceil_mode and (count - 1) * s >= size + p:  # the last window begins behind the image
            count = count - 1
        sizes.append(count)
    return _resized(q, sizes)


def _max_pool(
    q: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool = False,
) -> Tensor:
    pool = _MAX[len(kernel_size) - 1]
    return pool(q, kernel_size, stride, padding, dilation, ceil_mode)


operator(
    "max_pool(Tensor q, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
    "bool ceil_mode=False) -> Tensor",
    _max_pool,
    _pooled,
)


def _avg_pool(
    q: Tensor,
    zero_point: int,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    pool = _AVG[len(kernel_size) - 1]
    window = (kernel_size, stride, padding)
    return pool(q, zero_point, *window, ceil_mode, count_include_pad, divisor_override)


operator(
    "avg_pool(Tensor q, int zero_point, int[] kernel_size, int[] stride, int[] padding, "
    "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor",
    _avg_pool,
    _pooled,
)


def _adaptive_max_pool(q: Tensor, output_size: Ints) -> Tensor:
    return _ADAPTIVE_MAX[len(output_size) - 1](q, output_size)


def _adapted(q: Tensor, output_size: Ints) -> Tensor:
    return _resized(q, output_size)


operator(
    "adaptive_max_pool(Tensor q, SymInt[] output_size) -> Tensor", _adaptive_max_pool, _adapted
)


def _adaptive_avg_pool(q: Tensor, zero_point: int, output_size: Ints) -> Tensor:
    return _ADAPTIVE_AVG[len(output_size) - 1](q, zero_point, output_size)


operator(
    "adaptive_avg_pool(Tensor q, int zero_point, SymInt[] output_size) -> Tensor",
    _adaptive_avg_pool,
    _adapted,
)


operator(
    "upsample_nearest(Tensor q, SymInt[] size, float[]? scales=None, bool exact=False) -> Tensor",
    ops.upsample_nearest,
    _resized,
)


operator(
    "upsample_linear(Tensor q, int zero_point, SymInt[] size, float[]? scales=None, "
    "bool align_corners=False) -> Tensor",
    ops.upsample_linear,
    _resized,
)
