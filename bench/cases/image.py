"""Pooling, upsampling and concatenation of channels-last images: what moves pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.bench.cases.base import Case, Check, compare_integers, generator, quantize, requantize

SCALE, ZERO = 0.02, 100
OTHER_SCALE, OTHER_ZERO = 0.03, 90  # of the second image that cat joins

# As users write them, for one image; "cat" joins two of different qparams along the channels.
CALLS: dict[str, Callable[[Any], Any]] = {
    "max_pool 3x3 / 2": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool 2x2 / 2": lambda x: F.max_pool2d(x, 2),
    "max_pool 5x5": lambda x: F.max_pool2d(x, 5, 1, 2),
    "avg_pool 3x3": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "global average": lambda x: F.adaptive_avg_pool2d(x, 1),
    "nearest x2": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear x2": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear x2 aligned": lambda x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    ),
}
OPERATIONS = [*CALLS, "cat"]


@dataclass(frozen=True, kw_only=True)
class ImageCase(Case):
    """One of ``OPERATIONS`` on an image of uint8, batch 1."""

    kind: ClassVar[str] = "image"
    operation: str
    channels: int
    height: int
    width: int

    @property
    def traffic(self) -> int:
        inputs = 2 if self.operation == "cat" else 1
        return inputs * self.channels * self.height * self.width + expected(self).numel()

    @property
    def must_be_exact(self) -> bool:
        # The reference of bilinear interpolation is the float one; Octavo's weights have 14 bits.
        return not self.operation.startswith("bilinear")

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = quantize(got, SCALE, ZERO)
        return compare_integers(got.contiguous(), expected(self))


@lru_cache(maxsize=1)
def data(case: ImageCase) -> tuple[Tensor, Tensor]:
    """Two uint8 images (1, C, H, W), channels last."""
    random = generator(case.channels, case.height, case.width)
    size = (1, case.channels, case.height, case.width)
    a, b = (torch.randint(0, 256, size, generator=random).to(torch.uint8) for _ in range(2))
    last = torch.channels_last
    return a.contiguous(memory_format=last), b.contiguous(memory_format=last)


@lru_cache(maxsize=1)
def expected(case: ImageCase) -> Tensor:
    """uint8, contiguous. Sums are exact in float64; what follows is float32 in the normative
    order."""
    a, b = (x.contiguous().double() for x in data(case))
    steps = a - ZERO
    if case.operation == "cat":
        ratio = torch.tensor(OTHER_SCALE) / torch.tensor(SCALE)
        return torch.cat([a.to(torch.uint8), requantize(b - OTHER_ZERO, ratio, ZERO)], 1)
    if case.operation == "avg_pool 3x3":
        total = F.avg_pool2d(steps, 3, 1, 1, divisor_override=1)
        return requantize(total, 1 / torch.tensor(9.0), ZERO)
    if case.operation == "global average":
        total = steps.sum((2, 3), keepdim=True)
        return requantize(total, 1 / torch.tensor(float(case.height * case.width)), ZERO)
    return requantize(CALLS[case.operation](steps), torch.tensor(1.0), ZERO)
