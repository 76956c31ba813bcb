"""Scaled dot-product attention between projections, uint8 to uint8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import Case, Check, compare_integers, generator, quantize

# Scale and zero point of query, key and value: scores have a standard deviation of about 2, so
# that some keys matter more than others and none alone, as in networks.
INPUTS = ((0.02, 121), (0.018, 128), (0.016, 117))
OUT_SCALE, OUT_ZERO = 0.012, 120


@dataclass(frozen=True, kw_only=True)
class AttentionCase(Case):
    """``softmax(q k^T / sqrt(size)) v`` of ``heads`` that lie side by side in a token, as linear
    layers give and take them: ``[batch, tokens, heads * size]``."""

    kind: ClassVar[str] = "attention"
    batch: int
    heads: int
    tokens: int
    size: int

    @property
    def operations(self) -> int:
        """Those of the two products; Octavo's second one is of two bytes for each weight."""
        return 4 * self.batch * self.heads * self.tokens**2 * self.size

    @property
    def traffic(self) -> int:
        return 4 * self.batch * self.tokens * self.heads * self.size

    def check(self, got: Tensor) -> Check:
        if got.is_floating_point():
            got = quantize(got, OUT_SCALE, OUT_ZERO)
        return compare_integers(got, expected(self))

    def split(self, x: Tensor) -> Tensor:
        """``[batch, heads, tokens, size]``, a view."""
        return x.view(self.batch, self.tokens, self.heads, self.size).transpose(1, 2)


@lru_cache(maxsize=1)
def data(case: AttentionCase) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, uint8 ``[batch, tokens, heads * size]``."""
    random = generator(case.batch, case.heads, case.tokens, case.size)
    shape = (case.batch, case.tokens, case.heads * case.size)
    q, k, v = (torch.randint(0, 256, shape, generator=random).to(torch.uint8) for _ in INPUTS)
    return q, k, v


def floats(case: AttentionCase, dtype: torch.dtype) -> list[Tensor]:
    """What ``data`` stands for, ``[batch, heads, tokens, size]``."""
    return [
        case.split((x.to(dtype) - zero) * scale)
        for x, (scale, zero) in zip(data(case), INPUTS, strict=True)
    ]


def joined(heads: Tensor) -> Tensor:
    """``[batch, tokens, heads * size]`` of a result in heads."""
    return heads.transpose(1, 2).flatten(2)


@lru_cache(maxsize=1)
def expected(case: AttentionCase) -> Tensor:
    """In float64, rounded at the end."""
    parts = zip(*floats(case, torch.float64), strict=True)
    rows = [
        torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(case.size), -1) @ v for q, k, v in parts
    ]
    return quantize(joined(torch.stack(rows)), OUT_SCALE, OUT_ZERO)
