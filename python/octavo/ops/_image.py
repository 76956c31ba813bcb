"""Images of one to three spatial dimensions, as the kernels take them: channels innermost."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from octavo._errors import ArgumentError
from octavo.ops._common import EIGHT_BIT, Tensor, check_storage
from octavo.ops.conv_weights import channels_last

_DIMENSIONS = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}

# By spatial dimensions: from (N, spatial..., C) to (N, C, spatial...).
_CHANNELS_LAST = {1: (0, 2, 1), 2: (0, 3, 1, 2), 3: (0, 4, 1, 2, 3)}


class Image:
    """An 8-bit tensor (N, C, spatial...) or (C, spatial...) with neighbouring channels.

    Any strides will do where the channels are neighbours, as in channels-last tensors and in slices
    of them; other tensors are copied once.

    Attributes:
        tensor: (N, C, spatial...).
        size: the spatial sizes.
        signed: whether the storage is int8.
    """

    __slots__ = ("signed", "size", "tensor", "unbatched")

    def __init__(self, name: str, q: Tensor, dims: int) -> None:
        check_storage(name, q, EIGHT_BIT)
        rank = q.dim()
        if rank not in (dims + 1, dims + 2):
            spatial = ", ".join(_DIMENSIONS[dims])
            raise ArgumentError(
                f"{name}: expected a (N, C, {spatial}) or (C, {spatial}) input, got shape "
                f"{tuple(q.shape)}"
            )
        self.unbatched = rank == dims + 1
        if self.unbatched:
            q = q.unsqueeze(0)
        if q.is_neg():
            q = q.resolve_neg()
        if q.stride(1) != 1 and q.shape[1] > 1:
            q = channels_last(q)
        self.tensor = q
        self.size = tuple(q.shape[2:])
        self.signed = q.dtype == torch.int8

    def arguments(self) -> tuple[int, tuple[int, ...], tuple[int, ...], bool]:
        """Address, sizes and strides as the extension takes them, lower ranks filled up with 1s."""
        q, shape, stride = self.tensor, self.tensor.shape, self.tensor.stride()
        absent = 3 - len(self.size)
        return (
            q.data_ptr(),
            (shape[0], *(1,) * absent, *self.size, shape[1]),
            (stride[0], *(0,) * absent, *stride[2:]),
            self.signed,
        )

    def new(self, size: Sequence[int]) -> Tensor:
        """An uninitialized (N, C, size...) output, channels last."""
        return self._new(self.tensor.shape[0], self.tensor.shape[1], size, self.tensor.dtype)

    def finish(self, out: Tensor) -> Tensor:
        """``out`` without the batch dimension where the input had none."""
        return out.squeeze(0) if self.unbatched else out

    @staticmethod
    def _new(n: int, c: int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
        out = torch.empty((n, *size, c), dtype=dtype)
        return out.permute(_CHANNELS_LAST[len(size)])


def check_not_empty(name: str, shape: Sequence[int]) -> None:
    """``shape`` is (N, C, spatial...)."""
    if 0 in shape[1:]:
        raise ArgumentError(
            f"{name}: channels and spatial sizes must be at least 1, got shape {tuple(shape)}"
        )


def numbers(name: str, argument: str, value: Any, dims: int) -> tuple[int, ...]:
    """``dims`` integers from one or from ``dims`` of them.

    Raises:
        TypeError: something that is not an integer.
        ArgumentError: another number of them.
    """
    if type(value) is int:
        return (value,) * dims
    items = value if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in items):
        raise TypeError(f"{name}: {argument}: expected integers, got {value!r}")
    values = tuple(operator.index(v) for v in items)
    if len(values) == 1:
        return values * dims
    if len(values) != dims:
        raise ArgumentError(f"{name}: {argument}: expected {how_many(dims)}, got {value!r}")
    return values


def how_many(dims: int) -> str:
    return f"one or {dims} integers" if dims > 1 else "one integer"


def flag(name: str, argument: str, value: Any) -> bool:
    """The value; TypeError unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {argument}: expected True or False, got {value!r}")
    return value


def in_three(values: Sequence[Any], fill: Any) -> tuple[Any, ...]:
    """(depth, height, width) values, with `fill` for the dimensions that an image lacks."""
    return (*(fill,) * (3 - len(values)), *values)
