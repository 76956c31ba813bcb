"""Normalizations and softmax: a pass for sums and one for results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from octavo.bench.cases.base import Case, Check, compare_integers, generator, quantize

SCALE, ZERO = 0.02, 100
OUT_SCALE, OUT_ZERO = 0.03, 120
SOFTMAX_SCALE, SOFTMAX_ZERO = 1 / 256, 0
EPS = 1e-5

OPERATIONS = ["layer_norm", "batch_norm", "group_norm", "instance_norm", "softmax"]


@dataclass(frozen=True, kw_only=True)
class NormalizeCase(Case):
    """One of ``OPERATIONS`` on uint8 of ``shape``. Layer norm and softmax go along the last
    dimension; the others take images."""

    kind: ClassVar[str] = "normalize"
    operation: str
    shape: tuple[int, ...]
    channels_last: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def traffic(self) -> int:
        return 2 * int(torch.Size(self.shape).numel())

    @property
    def output(self) -> tuple[float, int]:
        """Scale and zero point of the result."""
        is_softmax = self.operation == "softmax"
        return (SOFTMAX_SCALE, SOFTMAX_ZERO) if is_softmax else (OUT_SCALE, OUT_ZERO)

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = quantize(got, *self.output)
        return compare_integers(got.contiguous(), expected(self))


@dataclass(frozen=True)
class NormalizeData:
    """Attributes:
    x: uint8 of the case's shape and layout.
    weight, bias, mean, variance: float32, one for each column or channel.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor

    def values(self) -> Tensor:
        """``x`` as float32."""
        return (self.x.float() - ZERO) * SCALE


@lru_cache(maxsize=1)
def data(case: NormalizeCase) -> NormalizeData:
    random = generator(*case.shape)
    x = torch.randint(0, 256, case.shape, generator=random).to(torch.uint8)
    if case.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    size = case.shape[-1 if case.operation in ("layer_norm", "softmax") else 1]
    weight = torch.rand(size, generator=random) + 0.5
    bias, mean = (torch.randn(size, generator=random) * 0.3 for _ in range(2))
    return NormalizeData(x, weight, bias, mean, torch.rand(size, generator=random) + 1.0)


def run(case: NormalizeCase, x: Any, d: NormalizeData) -> Any:
    """The operation on floats."""
    if case.operation == "layer_norm":
        return F.layer_norm(x, case.shape[-1:], d.weight.to(x), d.bias.to(x), EPS)
    if case.operation == "batch_norm":
        statistics = (d.mean.to(x), d.variance.to(x), d.weight.to(x), d.bias.to(x))
        return F.batch_norm(x, *statistics, eps=EPS)
    if case.operation == "group_norm":
        return F.group_norm(x, case.groups, d.weight.to(x), d.bias.to(x), EPS)
    if case.operation == "instance_norm":
        return F.instance_norm(x, weight=d.weight.to(x), bias=d.bias.to(x), eps=EPS)
    return torch.softmax(x, -1)


@lru_cache(maxsize=1)
def expected(case: NormalizeCase) -> Tensor:
    """In float64, rounded at the end. uint8, contiguous."""
    d = data(case)
    exact: Tensor = run(case, (d.x.double() - ZERO) * SCALE, d)
    return quantize(exact, *case.output).contiguous()
