"""Nearest and linear interpolation of 8-bit images of one to three spatial dimensions.

``q`` is (N, C, spatial...), any strides; the result is channels last and keeps the input's scale
and zero point. Samples lie where torch's float32 kernels have them: ``scales`` are the factors that
a user gave, which count before the ratio of the sizes; None where only a size was given. As in
torch they do not count where linear interpolation keeps a dimension's size, and where nearest
interpolation in two dimensions keeps or doubles it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from octavo import _C
from octavo.ops._common import Tensor
from octavo.ops._image import Image, check_not_empty, in_three
from octavo.ops._tracing import record, tracing


def _open(
    name: str, q: Tensor, size: Sequence[int], scales: Sequence[float] | None
) -> tuple[Image, list[float]]:
    """The image, and a factor for each dimension; 0: none."""
    dims = q.dim() - 2
    if not 1 <= dims <= 3:
        raise ValueError(
            f"{name}: expected (N, C, L), (N, C, H, W) or (N, C, D, H, W), got shape "
            f"{tuple(q.shape)}"
        )
    x = Image(name, q, dims)
    check_not_empty(name, q.shape)
    if len(size) != dims or min(size) < 1:
        raise ValueError(f"{name}: size: expected {dims} integers of at least 1, got {size}")
    if scales is None:
        return x, [0.0] * dims
    if len(scales) != dims or not all(math.isfinite(s) and s > 0 for s in scales):
        raise ValueError(f"{name}: scales: expected {dims} positive numbers, got {scales}")
    return x, list(scales)


def _floats(scales: Sequence[float] | None) -> list[float] | None:
    return None if scales is None else list(scales)


def upsample_nearest(
    q: Tensor, size: Sequence[int], scales: Sequence[float] | None = None, exact: bool = False
) -> Tensor:
    """Copies of the nearest elements: mode "nearest" of :func:`torch.nn.functional.interpolate`, or
    "nearest-exact".

    Raises:
        TypeError: q is not uint8 or int8.
        ValueError: sizes or scales that do not fit q, an image without elements.
    """
    if tracing(q):
        return record("upsample_nearest", q, list(size), _floats(scales), exact)
    x, factors = _open("upsample_nearest", q, size, scales)
    if len(size) == 2 and not exact:
        for d, (have, to) in enumerate(zip(x.size, size, strict=True)):
            factors[d] = 0.0 if to in (have, 2 * have) else factors[d]
    out = x.new(size)
    _C.upsample_nearest(
        *x.arguments(), in_three(size, 1), in_three(factors, 0.0), exact, out.data_ptr()
    )
    return out


def upsample_linear(
    q: Tensor,
    zero_point: int,
    size: Sequence[int],
    scales: Sequence[float] | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Modes "linear", "bilinear" and "trilinear" of :func:`torch.nn.functional.interpolate`.

    A weight along one dimension is torch's float32 one, rounded to 14 bits; sums are exact, and
    ``zero_point + round_half_even(sum(weight * (q - zero_point)))`` is within 0.6 steps of torch's
    value (csrc/ops/upsample.h).

    Raises:
        As :func:`upsample_nearest`.
    """
    if tracing(q):
        how = (list(size), _floats(scales), align_corners)
        return record("upsample_linear", q, zero_point, *how)
    x, factors = _open("upsample_linear", q, size, scales)
    for d, (have, to) in enumerate(zip(x.size, size, strict=True)):
        factors[d] = 0.0 if to == have else factors[d]
    out = x.new(size)
    _C.upsample_linear(
        *x.arguments(),
        zero_point,
        in_three(size, 1),
        in_three(factors, 0.0),
        align_corners,
        out.data_ptr(),
    )
    return out
