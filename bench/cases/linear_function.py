"""A linear layer and an activation function behind it, uint8 to uint8, weights per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import Case, Check, compare_integers, generator

X_SCALE, X_ZERO = 0.02, 100
SLOPE = 0.1  # of leaky_relu
# Of the layer's own result, for those who round it in between: -5.4 to 6.1.
MIDDLE_SCALE, MIDDLE_ZERO = 0.045, 120

# Scale and zero point of the result. tanh's are the ones that torch's quantized tanh always has.
OUTPUTS = {"leaky_relu": (0.02, 25), "tanh": (1 / 128, 128)}


@dataclass(frozen=True, kw_only=True)
class LinearFunctionCase(Case):
    """``function(x . w^T)`` for ``(m, k)`` activations and ``n`` outputs.

    Attributes:
        function: a key of ``OUTPUTS``.
    """

    kind: ClassVar[str] = "linear_function"
    function: str
    m: int
    k: int
    n: int

    @property
    def operations(self) -> int:
        return 2 * self.m * self.k * self.n

    @property
    def traffic(self) -> int:
        return self.weight_bytes + self.m * (self.k + self.n)

    @property
    def weight_bytes(self) -> int:
        return self.k * self.n

    @property
    def is_bandwidth_bound(self) -> bool:
        return self.m == 1

    @property
    def must_be_exact(self) -> bool:
        return self.function == "leaky_relu"  # tanh is so to 4e-7, which may decide a tie

    @property
    def output(self) -> tuple[float, int]:
        """Scale and zero point of the result."""
        return OUTPUTS[self.function]

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = _quantized(got.float(), *self.output)
        return compare_integers(got, _expected(self))


@dataclass(frozen=True)
class LinearFunctionData:
    """Attributes:
    x: uint8 (m, k).
    weight: int8 (n, k) in -127..127.
    scales: float32 (n,), such that sums have a standard deviation of about 1.
    """

    x: Tensor
    weight: Tensor
    scales: Tensor

    def x_float(self) -> Tensor:
        """What ``x`` stands for, float32."""
        return (self.x.float() - X_ZERO) * X_SCALE

    def weight_float(self) -> Tensor:
        """A new float32 copy."""
        return self.weight.float() * self.scales[:, None]


@lru_cache(maxsize=1)
def data(case: LinearFunctionCase) -> LinearFunctionData:
    random = generator(case.m, case.k, case.n)
    x = torch.randint(0, 256, (case.m, case.k), generator=random).to(torch.uint8)
    weight = torch.randint(-127, 128, (case.n, case.k), generator=random).to(torch.int8)
    scales = (torch.rand(case.n, generator=random) * 0.01 + 0.005) / math.sqrt(case.k)
    return LinearFunctionData(x, weight, scales)


def apply(case: LinearFunctionCase, x: Tensor) -> Tensor:
    """The function on floats."""
    return torch.tanh(x) if case.function == "tanh" else torch.where(x > 0, x, x * SLOPE)


@lru_cache(maxsize=1)
def _expected(case: LinearFunctionCase) -> Tensor:
    """Float32 in the normative order of operations, but tanh in float64."""
    d = data(case)
    acc = (d.x.double() - X_ZERO) @ d.weight.double().t()  # exact: sums below 2^53
    values = acc.float() * (torch.tensor(X_SCALE) * d.scales)
    if case.function == "tanh":
        values = apply(case, values.double()).float()
    else:
        values = apply(case, values)
    return _quantized(values, *case.output)


def _quantized(values: Tensor, scale: float, zero: int) -> Tensor:
    steps = (values * (1 / torch.tensor(scale))).round() + zero
    return steps.clamp(0, 255).to(torch.uint8)
