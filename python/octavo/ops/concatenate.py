"""Concatenation of 8-bit tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch

from octavo import _C
from octavo.ops._common import EIGHT_BIT, Tensor, check_storage
from octavo.ops._tracing import record, tracing


def cat(
    tensors: Sequence[Tensor],
    qparams: Sequence[tuple[float, int]],
    dim: int,
    out_scale: float,
    out_zero: int,
) -> Tensor:
    """Concatenation along ``dim`` in the output's qparams, in one pass over the tensors: each is
    requantized on its way into the output, or copied where it has the output's qparams already.

    The output is channels last where one of the tensors is, and where all are images whose pixels
    can be joined as they lie.

    Args:
        tensors: uint8 or int8 tensors of one dtype.
        qparams: (scale, zero point) of each.

    Raises:
        TypeError: mixed or other dtypes.
        ValueError: no tensors, lengths that do not match, qparams out of range.
        RuntimeError: shapes that do not fit.
        IndexError: dim out of range.
    """
    if not tensors or len(tensors) != len(qparams):
        raise ValueError(
            f"cat: {len(tensors)} tensors and {len(qparams)} qparams; needs one or more of each"
        )
    if any(map(tracing, tensors)):
        scales, zeros = [scale for scale, _ in qparams], [zero for _, zero in qparams]
        return record("cat", list(tensors), scales, zeros, dim, out_scale, out_zero)
    first = tensors[0]
    for t in tensors:
        check_storage("cat", t, EIGHT_BIT)
        if t.dtype != first.dtype:
            found = sorted({str(t.dtype) for t in tensors})
            raise TypeError(f"cat: tensors of one dtype are needed, got {found}")
    parts, dim, out, last = _open(tensors, qparams, dim)
    shape = out.shape
    if out.numel():
        rows = math.prod(shape[:dim])
        described = [_rows(t, dim, p) for t, p in parts if t.numel()]
        # The tensors stay alive in `described` while the extension reads them.
        _C.cat(
            [(t.data_ptr(), size, stride, *p) for t, size, stride, p in described],
            rows,
            first.dtype == torch.int8,
            out_scale,
            out_zero,
            out.data_ptr(),
            sum(size for _, size, _, _ in described),
        )
    return out.movedim(-1, 1) if last else out


def joined_like(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """An uninitialized tensor of the sizes and strides of the result of :func:`cat`."""
    _, _, out, last = _open(tensors, [(1.0, 0)] * len(tensors), dim)
    return out.movedim(-1, 1) if last else out


Part = tuple[Tensor, tuple[float, int]]


def _open(
    tensors: Sequence[Tensor], qparams: Sequence[tuple[float, int]], dim: int
) -> tuple[list[Part], int, Tensor, bool]:
    """The parts, the dimension and an uninitialized output, all with the channels last where the
    flag says so."""
    parts = _without_placeholders([t.resolve_neg() for t in tensors], qparams)
    first = parts[0][0]
    dim = _check_shapes([t for t, _ in parts], dim)
    last = any(_is_channels_last(t) for t, _ in parts)
    last = last or (dim == 1 and first.dim() in (3, 4, 5) and all(_has_pixels(t) for t, _ in parts))
    if last:
        parts = [(t.movedim(1, -1), p) for t, p in parts]
        dim = {0: 0, 1: first.dim() - 1}.get(dim, dim - 1)
    shape = list(parts[0][0].shape)
    shape[dim] = sum(t.shape[dim] for t, _ in parts)
    return parts, dim, first.new_empty(shape), last


def _without_placeholders(
    tensors: list[Tensor], qparams: Sequence[tuple[float, int]]
) -> list[Part]:
    """torch accepts tensors of shape (0,) beside any others, and skips them."""
    parts = list(zip(tensors, qparams, strict=True))
    return [(t, p) for t, p in parts if t.shape != (0,)] or parts[:1]


def _check_shapes(tensors: list[Tensor], dim: int) -> int:
    """``dim`` counted from the front."""
    rank = tensors[0].dim()
    if rank == 0:
        raise RuntimeError("cat: tensors without dimensions cannot be concatenated; stack() them")
    axis = operator.index(dim)
    if not -rank <= axis < rank:
        raise IndexError(f"cat: dim {axis} is out of range for tensors of {rank} dimensions")
    axis %= rank
    want = tensors[0].shape
    for i, t in enumerate(tensors):
        others = (*t.shape[:axis], *t.shape[axis + 1 :])
        if t.dim() != rank or others != (*want[:axis], *want[axis + 1 :]):
            raise RuntimeError(
                f"cat: tensor {i} has shape {tuple(t.shape)} and tensor 0 {tuple(want)}; only "
                f"dimension {axis} may differ"
            )
    return axis


def _is_channels_last(t: Tensor) -> bool:
    """Whether the channels of an image, or of a slice of one, are neighbours."""
    return t.dim() in (3, 4, 5) and t.shape[1] > 1 and t.stride(1) == 1 and not t.is_contiguous()


def _has_pixels(t: Tensor) -> bool:
    return _row_stride(t.movedim(1, -1), t.dim() - 1) is not None


def _inner(shape: Sequence[int], dim: int) -> int:
    """Elements of one index along ``dim``."""
    return math.prod(shape[dim + 1 :])


def _rows(
    t: Tensor, dim: int, qparams: tuple[float, int]
) -> tuple[Tensor, int, int, tuple[float, int]]:
    """``t`` (copied where it must be), bytes of a row, and the rows' distance: a row is what lies
    together of ``t`` between two pieces of other tensors."""
    stride = _row_stride(t, dim)
    if stride is None:
        t = t.contiguous()
        stride = _row_stride(t, dim)
        assert stride is not None
    return t, t.shape[dim] * _inner(t.shape, dim), stride, qparams


def _row_stride(t: Tensor, dim: int) -> int | None:
    """None where the rows are not dense, or not at one distance."""
    shape, strides = t.shape, t.stride()
    dense = 1
    for d in range(t.dim() - 1, dim - 1, -1):
        if shape[d] != 1 and strides[d] != dense:
            return None
        dense *= shape[d]
    stride: int | None = None
    following = 0
    for d in range(dim - 1, -1, -1):
        if shape[d] == 1:
            continue
        if stride is None:
            stride = strides[d]
        elif strides[d] != following:
            return None
        following = strides[d] * shape[d]
    return dense if stride is None else stride
