"""Data for golden vectors.

Integers of a counter, and floats that are such integers times a constant, rounded once: no
library's functions or random numbers decide what the inputs are.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_INTEGERS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


class Source:
    """Numbers that depend on a name and on how many were taken before."""

    def __init__(self, name: str) -> None:
        self._next = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")

    def _words(self, count: int) -> np.ndarray:
        """SplitMix64: a counter, mixed (Steele, Lea and Flood 2014)."""
        start, step = np.uint64(self._next), np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            x = start + step * np.arange(1, count + 1, dtype=np.uint64)
            self._next = int(start + step * np.uint64(count))
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 in low .. high."""
        words = self._words(math.prod(shape)) >> np.uint64(1)
        values = (words % np.uint64(high - low + 1)).astype(np.int64) + low
        return torch.from_numpy(values.reshape(shape))

    def stored(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """8-bit integers of the whole range, a quarter of them at its ends and middle."""
        low, high = _INTEGERS[dtype]
        values = self.integers(low, high, *shape)
        corners = torch.tensor([low, low + 1, low + 127, low + 128, high - 1, high])
        corner = corners[self.integers(0, 5, *shape)]
        return torch.where(self.integers(0, 3, *shape) == 0, corner, values).to(dtype)

    def floats(self, bound: float, *shape: int) -> Tensor:
        """float32 in -bound .. bound, multiples of bound / 2**15."""
        return self.integers(-(2**15), 2**15, *shape).to(torch.float32) * (bound / 2**15)

    def scales(self, base: float, *shape: int) -> Tensor:
        """float32 from base / 2 to base."""
        return self.integers(2**14, 2**15, *shape).to(torch.float32) * (base / 2**15)

    def zero_point(self, dtype: torch.dtype) -> int:
        """Inside the dtype's range, away from its ends."""
        low, high = _INTEGERS[dtype]
        return int(self.integers(low + 20, high - 20, 1))


def digest(results: list[Tensor]) -> str:
    """SHA-256 of dtypes, shapes and elements in the order of the indices."""
    found = hashlib.sha256()
    for result in results:
        found.update(f"{result.dtype} {tuple(result.shape)};".encode())
        found.update(result.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
