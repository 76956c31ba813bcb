"""Which elements of a tensor share a scale, and the base of observers that are told so.

Names that ``torch.ao.quantization.observer`` shares with torchao's graph passes. Users import them
from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.observer_base import _with_args

__all__ = [
    "AffineQuantizedObserverBase",
    "Granularity",
    "MappingType",
    "PerAxis",
    "PerBlock",
    "PerGroup",
    "PerRow",
    "PerTensor",
    "PerToken",
    "TorchAODType",
    "ZeroPointDomain",
    "get_block_size",
]


class MappingType(Enum):
    """How an interval of floats becomes one of integers.

    SYMMETRIC: widened to be symmetric about 0. SYMMETRIC_NO_CLIPPING_ERR: symmetric, with the
    larger of the scales that either end needs. ASYMMETRIC: end to end.
    """

    SYMMETRIC = auto()
    SYMMETRIC_NO_CLIPPING_ERR = auto()
    ASYMMETRIC = auto()


class ZeroPointDomain(Enum):
    """Whether a zero point is an integer level, a float value, or absent."""

    INT = auto()
    FLOAT = auto()
    NONE = auto()


class TorchAODType(Enum):
    """Integer types of 1 to 7 bits."""

    INT1 = auto()
    INT2 = auto()
    INT3 = auto()
    INT4 = auto()
    INT5 = auto()
    INT6 = auto()
    INT7 = auto()


@dataclass(frozen=True)
class Granularity:
    """Base of the classes that say which elements share a scale."""


@dataclass(frozen=True)
class PerBlock(Granularity):
    """Blocks of the given shape."""

    block_size: tuple[int, ...]


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale for the tensor."""


@dataclass(frozen=True)
class PerAxis(Granularity):
    """One scale for each slice along an axis."""

    axis: int


@dataclass(frozen=True)
class PerGroup(Granularity):
    """One scale for each run of ``group_size`` elements of a row of a matrix."""

    group_size: int


@dataclass(frozen=True)
class PerRow(Granularity):
    """One scale for each slice along the last axis, as a matrix product reads it."""


@dataclass(frozen=True)
class PerToken(Granularity):
    """One scale for each vector along the last axis."""


def get_block_size(input_shape: Sequence[int], granularity: Granularity) -> tuple[int, ...]:
    """The shape of the blocks of a tensor that share a scale.

    Raises:
        TypeError: ``granularity`` is a class, or of another kind.
        ValueError: PerGroup for another than a 2-D shape, or PerBlock for another number of
            dimensions.

    Source: ``torch.ao.quantization.observer.get_block_size``, which lacks PerBlock.
    """
    shape = tuple(input_shape)
    if isinstance(granularity, PerTensor):
        return shape
    if isinstance(granularity, PerAxis):
        axis = granularity.axis % len(shape)
        return (*shape[:axis], 1, *shape[axis + 1 :])
    if isinstance(granularity, (PerRow, PerToken)):
        return (*(1 for _ in shape[:-1]), shape[-1])
    if isinstance(granularity, PerGroup):
        if len(shape) != 2:
            raise ValueError(f"get_block_size: PerGroup needs a 2-D shape, got {shape}")
        return (1, granularity.group_size)
    if isinstance(granularity, PerBlock):
        if len(granularity.block_size) != len(shape):
            raise ValueError(f"get_block_size: {granularity} does not fit shape {shape}")
        return granularity.block_size
    raise TypeError(
        f"get_block_size: granularity must be an instance such as PerTensor(), got {granularity!r}"
    )


class AffineQuantizedObserverBase(ABC, nn.Module):
    """Base of observers written for torchao's graph passes.

    A subclass implements ``forward(input)``, which takes notice of ``input``, sets ``block_size``
    and ``original_dtype`` and returns it, and ``calculate_qparams()``.

    Args:
        granularity: which elements share a scale.
        mapping_type, target_dtype, quant_min, quant_max, eps: kept as attributes.
        scale_dtype, zero_point_dtype, preserve_zero, zero_point_domain: likewise.
        kwargs: ignored.

    Raises:
        TypeError: ``granularity`` is None.

    Source: ``torch.ao.quantization.observer.AffineQuantizedObserverBase``, without ``convert``.
    """

    with_args = classmethod(_with_args)

    def __init__(
        self,
        mapping_type: MappingType,
        target_dtype: torch.dtype,
        granularity: Granularity,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float | None = None,
        scale_dtype: torch.dtype | None = None,
        zero_point_dtype: torch.dtype | None = None,
        preserve_zero: bool = True,
        zero_point_domain: ZeroPointDomain | None = ZeroPointDomain.INT,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if granularity is None:
            raise TypeError(f"{type(self).__name__}: granularity must not be None")
        self.mapping_type = mapping_type
        self.target_dtype = target_dtype
        self.granularity = granularity
        self.quant_min, self.quant_max = quant_min, quant_max
        self.eps = eps
        self.scale_dtype, self.zero_point_dtype = scale_dtype, zero_point_dtype
        self.preserve_zero = preserve_zero
        self.zero_point_domain = zero_point_domain
        self.block_size: tuple[int, ...] | None = None
        self.original_dtype: torch.dtype | None = None

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """Takes notice of a tensor and returns it."""

    @abstractmethod
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point for what was observed."""
