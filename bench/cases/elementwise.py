"""Operations on each element: what moves bytes rather than multiplies."""

from __future__ import annotations

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
)

A_SCALE, A_ZERO = 0.02, 100
B_SCALE, B_ZERO = 0.03, 90
OUT_SCALE, OUT_ZERO = 0.04, 110
UNIT_SCALE = 1 / 256  # of the results of sigmoid, from 0 on

# Bytes that each element reads and writes.
BYTES = {
    "quantize": 5,
    "dequantize": 5,
    "requantize": 2,
    "relu": 2,
    "add": 3,
    "add_relu": 3,
    "mul": 3,
    "sigmoid": 2,
}

# Of results, where they are not OUT_SCALE and OUT_ZERO.
_QPARAMS = {"relu": (A_SCALE, A_ZERO), "sigmoid": (UNIT_SCALE, 0)}


@dataclass(frozen=True, kw_only=True)
class ElementwiseCase(Case):
    """One operation of ``BYTES`` on ``size`` elements, uint8 unless its name says float."""

    kind: ClassVar[str] = "elementwise"
    operation: str
    size: int

    @property
    def traffic(self) -> int:
        return BYTES[self.operation] * self.size

    @property
    def must_be_exact(self) -> bool:
        return True

    def check(self, got: Tensor) -> Check:
        reference = expected(self)
        if self.operation == "dequantize":
            return compare_floats(got, reference, 100.0)
        if got.is_floating_point():
            scale, zero = _QPARAMS.get(self.operation, (OUT_SCALE, OUT_ZERO))
            got = quantize(got.double(), scale, zero)
        return compare_integers(got, reference)


@dataclass(frozen=True)
class ElementwiseData:
    """Attributes:
    a, b: uint8 (size,).
    x: float32 (size,), the values of ``a``, not all of them on the grid.
    """

    a: Tensor
    b: Tensor
    x: Tensor


@lru_cache(maxsize=1)
def data(case: ElementwiseCase) -> ElementwiseData:
    random = generator(case.size)
    a = torch.randint(0, 256, (case.size,), generator=random).to(torch.uint8)
    b = torch.randint(0, 256, (case.size,), generator=random).to(torch.uint8)
    x = (a.float() - A_ZERO + torch.rand(case.size, generator=random) * 0.9 - 0.45) * A_SCALE
    return ElementwiseData(a, b, x)


@lru_cache(maxsize=1)
def expected(case: ElementwiseCase) -> Tensor:
    """Float32 in the normative order of operations."""
    values = data(case)
    f32 = torch.tensor
    a, b = values.a.float() - A_ZERO, values.b.float() - B_ZERO
    if case.operation == "quantize":
        return ((values.x * (1 / f32(A_SCALE))).round() + A_ZERO).clamp(0, 255).to(torch.uint8)
    if case.operation == "dequantize":
        return a * f32(A_SCALE)
    if case.operation == "relu":
        return values.a.clamp(min=A_ZERO)
    if case.operation == "sigmoid":
        return quantize(torch.sigmoid((a * f32(A_SCALE)).double()).float(), UNIT_SCALE, 0)
    if case.operation == "requantize":
        steps = a * (f32(A_SCALE) / f32(OUT_SCALE))
    elif case.operation == "mul":
        steps = (a * b) * (f32(A_SCALE) * f32(B_SCALE) / f32(OUT_SCALE))
    else:
        steps = a * (f32(A_SCALE) / f32(OUT_SCALE)) + b * (f32(B_SCALE) / f32(OUT_SCALE))
    low = 0 if case.operation == "add_relu" else -OUT_ZERO
    return (steps.clamp(low, 255 - OUT_ZERO).round() + OUT_ZERO).to(torch.uint8)
