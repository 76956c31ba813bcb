"""What quantized fully connected layers share, with a scale for the output or without."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo import ops
from octavo.ops.shared import shared_weight

__all__ = ["EmptyLinearWeight", "LinearModule"]


class EmptyLinearWeight:
    """Stands for the packed weight of a layer without inputs or without outputs."""

    def __init__(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> None:
        self.scales, self.zero_points, self.bias = scales, zero_points, bias
        self._shape = weight.shape

    def unpack(self) -> Tensor:
        return torch.empty(self._shape, dtype=torch.int8)


class LinearModule:
    """The weight of a fully connected layer."""

    in_features: int
    out_features: int

    _EMPTY_WEIGHT: ClassVar[type[EmptyLinearWeight]]

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features)

    def _pack(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor, bias: Tensor | None
    ) -> Any:
        kind = ops.LinearWeight if weight.numel() else self._EMPTY_WEIGHT
        return shared_weight(kind, weight, scales, zero_points, bias)
