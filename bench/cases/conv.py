"""Convolutions: uint8 to uint8, channels last, weights per channel."""

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


@dataclass(frozen=True, kw_only=True)
class ConvCase(Case):
    """``(batch, channels, height, width)`` activations through a square-stride 2-D convolution."""

    kind: ClassVar[str] = "conv"
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
        return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch."""
        return self.batch * self.output_size(self.height) * self.output_size(self.width)

    @property
    def depth(self) -> int:
        """Products that make one output."""
        return self.channels // self.groups * self.kernel**2

    @property
    def operations(self) -> int:
        return 2 * self.pixels * self.out * self.depth

    @property
    def traffic(self) -> int:
        read = self.batch * self.channels * self.height * self.width
        return read + self.weight_bytes + self.pixels * self.out

    @property
    def weight_bytes(self) -> int:
        return self.out * self.depth

    @property
    def must_be_exact(self) -> bool:
        return True

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = quantize(got, data(self).out_scale, OUT_ZERO)
        return compare_integers(got, _reference(self))


@dataclass(frozen=True)
class ConvData:
    """Attributes:
    x: uint8 (batch, channels, height, width), channels last.
    weight: int8 (out, channels / groups, kernel, kernel).
    scales: float32 (out,).
    """

    x: Tensor
    weight: Tensor
    scales: Tensor
    out_scale: float

    def x_float(self) -> Tensor:
        """What ``x`` stands for: a new float32 copy, channels last."""
        return (self.x.float() - X_ZERO) * X_SCALE

    def weight_float(self) -> Tensor:
        """A new float32 copy, channels last."""
        weight = self.weight.float() * self.scales[:, None, None, None]
        return weight.to(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def data(case: ConvCase) -> ConvData:
    random = generator(case.channels, case.out, case.height, case.kernel)
    shape = (case.batch, case.channels, case.height, case.width)
    x = torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    shape = (case.out, case.channels // case.groups, case.kernel, case.kernel)
    weight = torch.randint(-127, 128, shape, generator=random).to(torch.int8)
    scales = torch.rand(case.out, generator=random) * 0.01 + 0.005
    out_scale = 0.035 * math.sqrt(case.depth)
    return ConvData(x.contiguous(memory_format=torch.channels_last), weight, scales, out_scale)


def output_shape(case: ConvCase) -> tuple[int, int, int, int]:
    """(batch, channels, height, width) of the result."""
    return case.batch, case.out, case.output_size(case.height), case.output_size(case.width)


@lru_cache(maxsize=1)
def _reference(case: ConvCase) -> Tensor:
    values = data(case)
    acc = F.conv2d(  # exact: sums below 2^53; padding is real zero
        values.x.double() - X_ZERO,
        values.weight.double(),
        None,
        case.stride,
        case.padding,
        case.dilation,
        case.groups,
    ).round()  # nothing to round unless a library multiplies in another basis
    product = torch.tensor(X_SCALE) * values.scales / torch.tensor(values.out_scale)
    return requantize(acc, product[:, None, None], OUT_ZERO)
