"""Transposed convolutions: uint8 to uint8, channels last, one weight scale for the whole tensor, as
torch's engines have no others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from octavo.bench.cases.base import Case, Check, compare_integers, generator, quantize, requantize

X_SCALE, X_ZERO, OUT_ZERO = 0.02, 100, 120
W_SCALE = 0.0075


@dataclass(frozen=True, kw_only=True)
class ConvTransposeCase(Case):
    """``(batch, channels, height, width)`` activations through a square-stride 2-D transposed
    convolution."""

    kind: ClassVar[str] = "conv_transpose"
    batch: int
    channels: int
    height: int
    width: int
    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dilation: int = 1

    def output_size(self, size: int) -> int:
        return (size - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + 1

    @property
    def pixels(self) -> int:
        """Input pixels of the whole batch."""
        return self.batch * self.height * self.width

    @property
    def operations(self) -> int:
        return 2 * self.pixels * self.weight_bytes

    @property
    def traffic(self) -> int:
        written = self.batch * self.output_size(self.height) * self.output_size(self.width)
        return self.pixels * self.channels + self.weight_bytes + written * self.out

    @property
    def weight_bytes(self) -> int:
        return self.channels * self.out // self.groups * self.kernel**2

    @property
    def must_be_exact(self) -> bool:
        return True

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = quantize(got, data(self).out_scale, OUT_ZERO)
        return compare_integers(got, _reference(self))


@dataclass(frozen=True)
class ConvTransposeData:
    """Attributes:
    x: uint8 (batch, channels, height, width), channels last.
    weight: int8 (channels, out / groups, kernel, kernel).
    """

    x: Tensor
    weight: Tensor
    out_scale: float

    def x_float(self) -> Tensor:
        """What ``x`` stands for: a new float32 copy, channels last."""
        return (self.x.float() - X_ZERO) * X_SCALE

    def weight_float(self) -> Tensor:
        """A new float32 copy, channels last."""
        return (self.weight.float() * W_SCALE).to(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def data(case: ConvTransposeCase) -> ConvTransposeData:
    random = generator(case.channels, case.out, case.height, case.kernel)
    shape = (case.batch, case.channels, case.height, case.width)
    x = torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    shape = (case.channels, case.out // case.groups, case.kernel, case.kernel)
    weight = torch.randint(-127, 128, shape, generator=random).to(torch.int8)
    # The products that make an output: as many of the taps as strides fit the kernel.
    depth = case.channels / case.groups * max(1.0, case.kernel / case.stride) ** 2
    out_scale = 0.025 * math.sqrt(depth)
    return ConvTransposeData(x.contiguous(memory_format=torch.channels_last), weight, out_scale)


def output_shape(case: ConvTransposeCase) -> tuple[int, int, int, int]:
    """(batch, channels, height, width) of the result."""
    return case.batch, case.out, case.output_size(case.height), case.output_size(case.width)


@lru_cache(maxsize=1)
def _reference(case: ConvTransposeCase) -> Tensor:
    values = data(case)
    acc = F.conv_transpose2d(  # exact: sums below 2^53
        values.x.double() - X_ZERO,
        values.weight.double(),
        None,
        case.stride,
        case.padding,
        0,
        case.groups,
        case.dilation,
    ).round()
    product = torch.tensor(X_SCALE) * torch.tensor(W_SCALE) / torch.tensor(values.out_scale)
    return requantize(acc, product, OUT_ZERO)
