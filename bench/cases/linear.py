"""Linear layers: static (uint8 to uint8) and dynamic (float32 to float32), weights per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import (
    Case,
    Check,
    compare_floats,
    compare_integers,
    generator,
    quantize,
    requantize,
)

X_SCALE, X_ZERO, OUT_ZERO = 0.02, 100, 120
_LEAST_DB = 20.0  # of a dynamic result: 7-bit activations on one scale still have more


@dataclass(frozen=True, kw_only=True)
class LinearCase(Case):
    """``(m, k)`` activations through a layer of ``k`` inputs and ``n`` outputs.

    Attributes:
        mode: ``static``: uint8 to uint8; ``dynamic``: float32 to float32, quantized on the way.
        entry: ``operator`` or ``module``: what is called.
    """

    kind: ClassVar[str] = "linear"
    m: int
    k: int
    n: int
    mode: str = "static"
    entry: str = "operator"

    @property
    def operations(self) -> int:
        return 2 * self.m * self.k * self.n

    @property
    def traffic(self) -> int:
        width = 1 if self.mode == "static" else 4
        return self.weight_bytes + width * self.m * (self.k + self.n)

    @property
    def weight_bytes(self) -> int:
        return self.k * self.n

    @property
    def is_bandwidth_bound(self) -> bool:
        return self.m == 1

    @property
    def must_be_exact(self) -> bool:
        return self.mode == "static"

    def check(self, got: Tensor) -> Check:
        expected = _reference(self)
        if self.mode == "dynamic":
            return compare_floats(got, expected, _LEAST_DB)
        if got.is_floating_point():  # a float contender: what its result would be, quantized
            got = quantize(got, data(self).out_scale, OUT_ZERO)
        return compare_integers(got, expected)


@dataclass(frozen=True)
class LinearData:
    """Attributes:
    x: uint8 (m, k).
    x_float: float32 (m, k): what ``x`` stands for, or normal numbers where dynamic.
    weight: int8 (n, k) in -127..127, as symmetric quantization gives.
    scales: float32 (n,).
    """

    x: Tensor
    x_float: Tensor
    weight: Tensor
    scales: Tensor
    out_scale: float

    def weight_float(self) -> Tensor:
        """A new float32 copy."""
        return self.weight.float() * self.scales[:, None]


@lru_cache(maxsize=1)
def data(case: LinearCase) -> LinearData:
    random = generator(case.m, case.k, case.n)
    x = torch.randint(0, 256, (case.m, case.k), generator=random).to(torch.uint8)
    weight = torch.randint(-127, 128, (case.n, case.k), generator=random).to(torch.int8)
    scales = torch.rand(case.n, generator=random) * 0.01 + 0.005
    # The sums' standard deviation is then about 30 steps of the output.
    out_scale = 0.035 * math.sqrt(case.k)
    if case.mode == "dynamic":
        x_float = torch.randn(x.shape, generator=random)
    else:
        x_float = (x.float() - X_ZERO) * X_SCALE
    return LinearData(x, x_float, weight, scales, out_scale)


@lru_cache(maxsize=1)
def _reference(case: LinearCase) -> Tensor:
    values = data(case)
    if case.mode == "dynamic":
        return values.x_float.double() @ values.weight_float().double().t()
    acc = (values.x.double() - X_ZERO) @ values.weight.double().t()  # exact: sums below 2^53
    multiplier = torch.tensor(X_SCALE) * values.scales / torch.tensor(values.out_scale)
    return requantize(acc, multiplier, OUT_ZERO)
