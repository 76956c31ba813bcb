"""Normalizations, PReLU and softmax.

Sums and sums of squares are exact integers; what follows from them and from the parameters is
float64, rounded to float32 once; what happens to each element is a fixed sequence of float32
operations. So results depend neither on the CPU nor on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import (
    EIGHT_BIT,
    OUT_KIND,
    Tensor,
    check_storage,
    dense,
    is_channels_last,
)
from octavo.ops._tracing import record, tracing


def _check(name: str, q: Tensor, out_dtype: QDType) -> None:
    check_storage(name, q, EIGHT_BIT)
    if out_dtype.name not in OUT_KIND:
        raise TypeError(f"{name}: out_dtype must be quint8 or qint8, got {out_dtype}")


def _channels(name: str, q: Tensor) -> tuple[Tensor, tuple[int, int, int, bool]]:
    """``q`` [N, C, *] without gaps, and (N, C, elements of a plane, channels last)."""
    if q.dim() < 2:
        raise ValueError(
            f"{name}: expected an input of at least 2 dimensions (N, C, *), got shape "
            f"{tuple(q.shape)}"
        )
    q = dense(q)
    pixels = math.prod(q.shape[2:])
    last = pixels == 1 or (not q.is_contiguous() and is_channels_last(q))
    return q, (q.shape[0], q.shape[1], pixels, last)


def _parameter(name: str, what: str, x: Tensor | None, size: int, dtype: torch.dtype) -> int:
    """The address of a parameter, 0 where it is absent. The caller keeps the tensor."""
    if x is None:
        return 0
    if x.dtype != dtype or x.numel() != size or not x.is_contiguous():
        raise ValueError(
            f"{name}: {what} must be a contiguous {dtype} tensor of {size} elements, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    return x.data_ptr()


def channel_affine(
    q: Tensor,
    scale: float,
    zero_point: int,
    factor: Tensor,
    offset: Tensor,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
    relu: bool = False,
) -> Tensor:
    """``factor[c] * x + offset[c]``: batch normalization with known statistics.

    With ``m = float32(factor * scale / out_scale)`` and ``s = float32(offset / out_scale -
    zero_point * factor * scale / out_scale)``, both computed in float64, the result is
    ``out_zero_point + round_half_even(fma(q, m, s))`` in float32, saturated; ``fma`` is ``q * m +
    s`` rounded once.

    Args:
        q: uint8 or int8 ``[N, C, *]``; channels last is computed as it lies.
        factor, offset: float64 [C].
        relu: clamp at the zero point.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        ValueError: fewer than 2 dimensions, parameters of another size, qparams out of range.
    """
    if tracing(q):
        output = (out_scale, out_zero_point, out_dtype.storage, relu)
        return record("channel_affine", q, scale, zero_point, factor, offset, *output)
    _check("channel_affine", q, out_dtype)
    q, layout = _channels("channel_affine", q)
    factor_at = _parameter("channel_affine", "factor", factor, layout[1], torch.float64)
    offset_at = _parameter("channel_affine", "offset", offset, layout[1], torch.float64)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.scale_shift(
        (q.data_ptr(), q.dtype == torch.int8, scale, zero_point),
        layout,
        factor_at,
        offset_at,
        (out.data_ptr(), out_dtype.signed, out_scale, out_zero_point, relu),
    )
    return out


def batch_norm_constants(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Factors and offsets of :func:`channel_affine`, float64 [2, C], for known statistics."""
    mean, variance = mean.to(torch.float64), variance.to(torch.float64)
    factor = 1.0 / torch.sqrt(variance + eps)
    factor = factor if weight is None else weight.to(torch.float64) * factor
    offset = -(mean * factor) if bias is None else bias.to(torch.float64) - mean * factor
    return torch.stack((factor, offset))


def prelu(
    q: Tensor,
    scale: float,
    zero_point: int,
    slope: Tensor,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
) -> Tensor:
    """``x`` where x >= 0, else ``slope[c] * x``: ``out_zero_point + round_half_even((q -
    zero_point) * m)`` in float32 with m = ``float32(scale / out_scale)`` or ``float32(slope *
    scale / out_scale)``.

    Args:
        q: uint8 or int8 ``[N, C, *]``, or any shape where ``slope`` has one element.
        slope: float32 [C] or [1].

    Raises: as :func:`channel_affine`.
    """
    if tracing(q):
        output = (out_scale, out_zero_point, out_dtype.storage)
        return record("prelu", q, scale, zero_point, slope, *output)
    _check("prelu", q, out_dtype)
    if slope.numel() == 1:
        q = dense(q)
        layout = (1, 1, q.numel(), False)
    else:
        q, layout = _channels("prelu", q)
    address = _parameter("prelu", "slope", slope, layout[1], torch.float32)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.prelu(
        (q.data_ptr(), q.dtype == torch.int8, scale, zero_point),
        layout,
        address,
        (out.data_ptr(), out_dtype.signed, out_scale, out_zero_point, False),
    )
    return out


def layer_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
) -> Tensor:
    """Layer normalization over the last dimensions.

    ``out_zero_point + round_half_even(fma(fma(q, r, -mean * r), weight, bias / out_scale))`` in
    float32, saturated, ``fma(a, b, c)`` being ``a * b + c`` rounded once; ``mean`` and
    ``r = scale / sqrt(variance * scale**2 + eps) / out_scale`` come from exact sums, and ``r``,
    ``-mean * r`` and ``bias / out_scale`` are rounded to float32 once.

    Args:
        q: uint8 or int8 ``[*, *normalized_shape]``.
        weight, bias: float32 of ``normalized_shape``, or None.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        ValueError: another shape; qparams out of range.
    """
    if tracing(q):
        parameters = (list(normalized_shape), weight, bias, eps)
        output = (out_scale, out_zero_point, out_dtype.storage)
        return record("layer_norm", q, scale, zero_point, *parameters, *output)
    _check("layer_norm", q, out_dtype)
    shape = tuple(normalized_shape)
    if not shape or tuple(q.shape[-len(shape) :]) != shape:
        raise ValueError(
            f"layer_norm: the input must end in the dimensions {list(shape)}, got shape "
            f"{list(q.shape)}"
        )
    q = q.resolve_neg().contiguous()
    columns = math.prod(shape)
    rows = q.numel() // columns if columns else 0
    weight_at = _parameter("layer_norm", "weight", weight, columns, torch.float32)
    bias_at = _parameter("layer_norm", "bias", bias, columns, torch.float32)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.layer_norm(
        (q.data_ptr(), q.dtype == torch.int8, scale, zero_point),
        rows,
        columns,
        weight_at,
        bias_at,
        eps,
        (out.data_ptr(), out_dtype.signed, out_scale, out_zero_point, False),
    )
    return out


def group_norm(
    q: Tensor,
    scale: float,
    zero_point: int,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
) -> Tensor:
    """Normalization by the statistics of each group of channels of an image; with a group for each
    channel, instance normalization.

    ``out_zero_point + round_half_even(fma(q, m, s))`` in float32, saturated, where ``m = r *
    weight[c]`` and ``s = bias[c] / out_scale - mean * m`` are rounded to float32 once; mean and r
    as in :func:`layer_norm`.

    Args:
        q: uint8 or int8 ``[N, C, *]``; channels last is computed as it lies.
        weight, bias: float32 [C], or None.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        ValueError: fewer than 2 dimensions; groups that do not divide the channels; parameters of
            another size; qparams out of range.
    """
    if tracing(q):
        parameters = (groups, weight, bias, eps)
        output = (out_scale, out_zero_point, out_dtype.storage)
        return record("group_norm", q, scale, zero_point, *parameters, *output)
    _check("group_norm", q, out_dtype)
    q, layout = _channels("group_norm", q)
    weight_at = _parameter("group_norm", "weight", weight, layout[1], torch.float32)
    bias_at = _parameter("group_norm", "bias", bias, layout[1], torch.float32)
    out = torch.empty_like(q, dtype=out_dtype.storage)
    _C.group_norm(
        (q.data_ptr(), q.dtype == torch.int8, scale, zero_point),
        layout,
        groups,
        weight_at,
        bias_at,
        eps,
        (out.data_ptr(), out_dtype.signed, out_scale, out_zero_point, False),
    )
    return out


@lru_cache(maxsize=256)
def softmax_table(scale: float) -> Tensor:
    """What the kernel of :func:`softmax` and :func:`octavo.ops.direct.softmax` look up."""
    table = torch.empty(_C.SOFTMAX_TABLE_BYTES // 4, dtype=torch.int32)
    _C.softmax_table(scale, table.data_ptr())
    return table


def softmax(
    q: Tensor,
    scale: float,
    zero_point: int,
    dim: int,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
) -> Tensor:
    """Softmax along one dimension.

    With ``e[d] = round_half_even(high[d // 16] * low[d % 16])``, d the distance from the largest
    integer, ``high[j] = exp(-16 * scale * j) * (2**30 - 64)`` and ``low[i] = exp(-scale * i)``
    rounded to float32 like their product, and the exact sum S of e, the result is
    ``out_zero_point + round_half_even(float32(e[d]) * float32(1 / out_scale / S))``, saturated.

    Args:
        q: uint8 or int8 of any shape.

    Raises:
        TypeError: q or ``out_dtype`` is not 8-bit.
        IndexError: ``dim`` is out of range.
        ValueError: qparams out of range.
    """
    if tracing(q):
        output = (out_scale, out_zero_point, out_dtype.storage)
        return record("softmax", q, scale, zero_point, dim, *output)
    _check("softmax", q, out_dtype)
    rank = max(q.dim(), 1)
    if not -rank <= dim < rank:
        raise IndexError(f"softmax: dim {dim} is out of range for shape {list(q.shape)}")
    along = (q if q.dim() == 0 else q.movedim(dim, -1)).resolve_neg().contiguous()
    size = along.shape[-1] if along.dim() else 1
    out = torch.empty_like(along, dtype=out_dtype.storage)
    _C.softmax(
        (along.data_ptr(), q.dtype == torch.int8, scale, zero_point),
        along.numel() // size if size else 0,
        size,
        softmax_table(scale).data_ptr(),
        (out.data_ptr(), out_dtype.signed, out_scale, out_zero_point, False),
    )
    return out if q.dim() == 0 else out.movedim(-1, dim)
