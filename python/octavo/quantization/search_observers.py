"""Observers that choose an interval from the histogram by another rule than torch's: a percentile,
or the least mean squared error.

Users import these names from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from octavo.dtypes import per_tensor_affine, quint8
from octavo.quantization.histogram_observer import HistogramObserver
from octavo.quantization.utils import DEFAULT_EPS, SYMMETRIC_SCHEMES, interval_to_qparams

__all__ = ["MSEObserver", "PercentileObserver"]


class PercentileObserver(HistogramObserver):
    """Keeps the interval that holds a given share of everything seen; the rest saturates.

    Half of what is left out lies below, half above; with a symmetric scheme all of it lies beyond
    one absolute value. The borders are borders of bins, so that at least the share is kept.

    Args:
        percentile: the share in percent, above 0 and at most 100. 100 is minimum and maximum.
        others: as :class:`HistogramObserver`, and the buffers too; ``bins`` is the resolution.

    Raises:
        ValueError: ``percentile`` out of range.

    Source: Octavo's own; ONNX Runtime's calibration method ``Percentile`` works alike.
    """

    def __init__(
        self,
        percentile: float = 99.99,
        bins: int = 2048,
        dtype: Any = quint8,
        qscheme: Any = per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
        eps: float = DEFAULT_EPS,
        is_dynamic: bool = False,
        **kwargs: Any,
    ) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(
                f"PercentileObserver: percentile must be above 0 and at most 100, got {percentile}"
            )
        super().__init__(
            bins=bins,
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            factory_kwargs=factory_kwargs,
            eps=eps,
            is_dynamic=is_dynamic,
            **kwargs,
        )
        self.percentile = percentile

    def _interval(self) -> tuple[Tensor, Tensor]:
        low, high = self.min_val.double(), self.max_val.double()
        borders = low + (high - low) * torch.linspace(
            0, 1, self.bins + 1, dtype=torch.float64, device=low.device
        )
        counts = self.histogram.double()
        left_out = counts.sum() * (1 - self.percentile / 100)
        if self.qscheme in SYMMETRIC_SCHEMES:
            # Bins by their outer border, outermost first; the first that may not go is the limit.
            reach, order = torch.maximum(-borders[:-1], borders[1:]).sort(descending=True)
            limit = reach[_first_above(counts[order], left_out)]
            return torch.maximum(low, -limit).float(), torch.minimum(high, limit).float()
        first = _first_above(counts, left_out / 2)
        last = self.bins - _first_above(counts.flip(0), left_out / 2)
        return borders[first].float(), borders[last].float()


def _first_above(counts: Tensor, limit: Tensor) -> Tensor:
    """The index of the first count at which the running sum exceeds ``limit``; the last at most."""
    tolerance = 1e-9 * counts.sum()
    index = torch.searchsorted(counts.cumsum(0), limit + tolerance, right=True)
    return index.clamp_(max=counts.numel() - 1)


class MSEObserver(HistogramObserver):
    """Keeps the interval whose quantization has the least mean squared error over everything seen.

    The error is that of rounding the middle of each bin to the levels that scale and zero point
    give, with the observer's own number of levels (:class:`HistogramObserver` always counts 256).
    First both ends shrink together, in 64 steps; then each end by itself, in ever finer steps.

    Args, buffers: as :class:`HistogramObserver`.

    Source: Octavo's own.
    """

    _STEPS = 64
    _FINE_STEPS = 33
    _ROUNDS = 4

    def _interval(self) -> tuple[Tensor, Tensor]:
        low = self.min_val.clamp(max=0.0)
        high = self.max_val.clamp(min=0.0)
        if not bool(self.max_val > self.min_val):
            return low, high
        values = self._middles()
        factors = torch.arange(1, self._STEPS + 1, device=low.device) / self._STEPS
        best = self._best(values, low * factors, high * factors)
        span = 0.5
        for _ in range(self._ROUNDS):
            around = torch.linspace(1 - span, 1 + span, self._FINE_STEPS, device=low.device)
            lows = torch.maximum(best[0] * around, low)
            best = self._best(values, lows, best[1].expand_as(lows))
            highs = torch.minimum(best[1] * around, high)
            best = self._best(values, best[0].expand_as(highs), highs)
            span /= 4
        return best

    def _middles(self) -> Tensor:
        """The middle of each bin; 0 for the bin that 0 lies in, where most zeros are exact ones."""
        position = torch.arange(self.bins, device=self.min_val.device) + 0.5
        width = self.max_val / self.bins - self.min_val / self.bins
        middles = self.min_val + width * position
        return torch.where(middles.abs() <= width / 2, 0.0, middles)

    def _best(self, values: Tensor, lows: Tensor, highs: Tensor) -> tuple[Tensor, Tensor]:
        """The interval with the least error; the widest of several."""
        scale, zero_point = interval_to_qparams(lows, highs, eps=self.eps, **self._range())
        offset = zero_point.to(scale.dtype).unsqueeze(1)
        step = scale.unsqueeze(1)
        levels = torch.round(values / step)
        levels = torch.clamp(levels, self.quant_min - offset, self.quant_max - offset)
        # In units of the whole range, so that squares neither overflow nor vanish.
        unit = torch.maximum(self.max_val, -self.min_val)
        distance = (levels * step - values) / unit
        errors = (distance * distance) @ self.histogram
        index = errors.flip(0).argmin()
        return lows.flip(0)[index], highs.flip(0)[index]
