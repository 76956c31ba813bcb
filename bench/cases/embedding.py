"""Sums of rows of quantized embedding tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import Case, Check, compare_floats, generator


@dataclass(frozen=True, kw_only=True)
class EmbeddingCase(Case):
    """Sums of ``bags`` bags of ``length`` random rows; a length of 1 is a look-up."""

    kind: ClassVar[str] = "embedding"
    bits: int
    rows: int
    columns: int
    bags: int
    length: int

    @property
    def traffic(self) -> int:
        row = self.columns * self.bits // 8 + 8  # with scale and offset
        return self.bags * (self.length * (row + 8) + 4 * self.columns)

    def check(self, got: Tensor) -> Check:
        return compare_floats(got, expected(self), 100.0)


@dataclass(frozen=True)
class EmbeddingData:
    """Attributes:
    storage: uint8, (rows, bytes).
    scales, offsets: float32 (rows,), exact in float16 too, which torch keeps those of 4 bits in.
    indices: int64 (bags, length).
    """

    storage: Tensor
    scales: Tensor
    offsets: Tensor
    indices: Tensor


@lru_cache(maxsize=1)
def data(case: EmbeddingCase) -> EmbeddingData:
    random = generator(case.bits, case.columns, case.bags, case.length)
    size = (case.rows, case.columns * case.bits // 8)
    return EmbeddingData(
        torch.randint(0, 256, size, generator=random, dtype=torch.uint8),
        torch.randint(1, 256, (case.rows,), generator=random) / 1024,
        torch.randint(-256, 256, (case.rows,), generator=random) / 64,
        torch.randint(0, case.rows, (case.bags, case.length), generator=random),
    )


def values(case: EmbeddingCase, rows: Tensor) -> Tensor:
    """Rows of the table as float32, one behind the other."""
    d = data(case)
    q = d.storage[rows]
    if case.bits == 4:
        q = torch.stack((q & 15, q >> 4), dim=-1).flatten(-2)
    return q * d.scales[rows, None] + d.offsets[rows, None]


@lru_cache(maxsize=1)
def expected(case: EmbeddingCase) -> Tensor:
    """float64 (bags, columns)."""
    sums = [values(case, bag).double().sum(0) for bag in data(case).indices]
    return torch.stack(sums)
