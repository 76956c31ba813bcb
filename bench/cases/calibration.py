"""Calibration: an observer sees batches and gives scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from octavo.bench.cases.base import Case, Check, generator

_AVERAGING = 0.01  # every moving average's default
_JUDGED = 100_000  # values that errors are computed of
_MOST_ABOVE_LEAST = 0.1


@dataclass(frozen=True, kw_only=True)
class CalibrationCase(Case):
    """A new ``observer``, with its defaults, sees ``batches`` tensors of ``shape``, float32, whose
    range grows, and is asked for scale and zero point.

    Attributes:
        observer: a class of ``quantization.observer``; channels are those of the first dimension.
    """

    kind: ClassVar[str] = "calibration"
    observer: str
    shape: tuple[int, ...]
    batches: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def traffic(self) -> int:
        return 4 * self.batches * int(torch.Size(self.shape).numel())

    @property
    def only_reads(self) -> bool:
        return True

    @property
    def must_be_exact(self) -> bool:
        return self.observer != "HistogramObserver"  # which searches

    def work(self, library: Any) -> tuple[Tensor, Tensor]:
        """The whole of it. ``library`` is Octavo's or torch's ``quantization``."""
        observer = getattr(library, self.observer)()
        for batch in data(self):
            observer(batch)
        scale, zero_point = observer.calculate_qparams()
        return scale, zero_point

    def check(self, got: Tensor) -> Check:
        """Args:
        got: scales and zero points, stacked, float64.
        """
        if not self.must_be_exact:
            return _check_error(self, got)
        expected = _expected(self)
        if got.shape != expected.shape:
            return Check(f"gives shape {tuple(got.shape)}", False, False)
        if torch.equal(got, expected):
            return Check("exact", True, True)
        close = torch.allclose(got[0], expected[0], rtol=1e-6) and torch.equal(got[1], expected[1])
        return Check("rounds the scale otherwise" if close else "another scale", False, close)


@lru_cache(maxsize=1)
def data(case: CalibrationCase) -> list[Tensor]:
    random = generator(*case.shape)
    return [
        torch.randn(case.shape, generator=random) * (1.0 + 0.1 * index)
        for index in range(case.batches)
    ]


@lru_cache(maxsize=1)
def _expected(case: CalibrationCase) -> Tensor:
    """Scales and zero points of extremes: float32 in the normative order of operations."""
    lows, highs = zip(*(_extremes(case, batch) for batch in data(case)), strict=True)
    low, high = lows[0], highs[0]
    for new_low, new_high in zip(lows[1:], highs[1:], strict=True):
        if case.observer.startswith("MovingAverage"):
            low, high = low + _AVERAGING * (new_low - low), high + _AVERAGING * (new_high - high)
        else:
            low, high = torch.minimum(low, new_low), torch.maximum(high, new_high)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = (-(low / scale).round()).clamp(0, 255)
    return torch.stack([scale.double(), zero.double()])


def _extremes(case: CalibrationCase, x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.reshape(x.shape[0] if "PerChannel" in case.observer else 1, -1)
    return rows.amin(1), rows.amax(1)


def _check_error(case: CalibrationCase, got: Tensor) -> Check:
    """How far the squared error that a scale and zero point leave is above the least one."""
    if got.shape != (2, 1):
        return Check(f"gives shape {tuple(got.shape)}", False, False)
    values, least = _least_error(case)
    excess = _error(values, float(got[0]), float(got[1])) / least - 1
    text = f"squared error {100 * abs(excess):.1f} % {'below' if excess < 0 else 'above'} the least"
    return Check(text, False, excess < _MOST_ABOVE_LEAST)


@lru_cache(maxsize=1)
def _least_error(case: CalibrationCase) -> tuple[Tensor, float]:
    """Some of the values, float64, and the least error of intervals that cut off a part of each of
    their ends."""
    everything = torch.cat([batch.flatten() for batch in data(case)]).double()
    chosen = torch.randint(0, everything.numel(), (_JUDGED,), generator=generator(case.batches))
    values = everything[chosen]
    low, high = float(everything.min()), float(everything.max())
    errors = []
    for percent in range(30, 102, 2):
        scale = 0.01 * percent * (high - low) / 255
        zero = round(-0.01 * percent * low / scale)
        errors.append(_error(values, scale, zero))
    return values, min(errors)


def _error(values: Tensor, scale: float, zero: float) -> float:
    steps = ((values / scale).round() + zero).clamp(0, 255)
    return float(((steps - zero) * scale - values).square().mean())
