"""The observer that keeps a histogram and looks for the interval with the least quantization error.

The results are those of ``torch.ao.quantization.observer.HistogramObserver`` to the bit, on CPU,
for float32 data: the same counts, the same candidate intervals in the same order, the same float32
error of each. What differs is the work: torch walks its quantile steps one by one and evaluates one
interval at a time, reading single elements of tensors in Python; here the candidates are listed
first, with binary searches, and their errors are computed in batches. Memory is a small multiple of
the number of bins.

On other devices than the CPU the same counts are made by other means, without reading numbers back.

Users import :class:`HistogramObserver` from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from octavo.dtypes import per_tensor_affine, quint8
from octavo.quantization.histogram import (
    count,
    count_on_device,
    moved,
    moved_on_device,
)
from octavo.quantization.minmax_observer import require_per_tensor
from octavo.quantization.observer_base import (
    UniformQuantizationObserverBase,
    _tensor_options,
)
from octavo.quantization.statistics import (
    all_reduce_extremes,
    host_extremes,
    on_host,
    process_group,
)
from octavo.quantization.utils import DEFAULT_EPS, storage_dtype

__all__ = ["HistogramObserver"]

_QUANTILE_STEP = 1e-5
# Bins times candidates evaluated at once: torch works on that many without its thread pool.
_BATCH_ELEMENTS = 32768


class HistogramObserver(UniformQuantizationObserverBase):
    """Keeps a histogram of everything seen; its interval leaves out tails where that lowers the
    squared error.

    Calibrating: the first tensor sets the interval and the counts. A later one widens the interval
    if it must; the old counts then move to the new bins in 16 pieces each.

    ``calculate_qparams``: from both ends, outer quantiles are dropped in steps of 1e-5 of the mass,
    on the side where that drops more bins, as long as the L2 error of quantizing to 256 levels does
    not grow. Scale and zero point follow from the remaining interval as with
    :class:`MinMaxObserver`.

    Args:
        bins: number of bins.
        others: as :class:`MinMaxObserver`; no ``is_dynamic``.

    Buffers: ``histogram`` float32 [bins], ``min_val`` and ``max_val`` float32 0-D, infinite until
    something finite is seen. NaN and ±Inf values are left out and counted (torch raises on NaN).
    Inputs of other float types are converted to float32 (torch takes float64 as it is, half not at
    all). A state dict must have the same number of bins.

    Raises:
        NotImplementedError: per-channel ``qscheme``, or ``is_dynamic``.
        ValueError: ``bins`` below 1.

    Source: ``torch.ao.quantization.observer.HistogramObserver``.
    """

    histogram: Tensor
    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
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
        require_per_tensor(type(self), qscheme)
        if is_dynamic:
            raise NotImplementedError(
                "HistogramObserver: is_dynamic is not supported; use a MinMaxObserver"
            )
        if bins < 1:
            raise ValueError(f"HistogramObserver: bins must be at least 1, got {bins}")
        super().__init__(
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
        options = _tensor_options(factory_kwargs)
        self.bins = bins
        self.register_buffer("histogram", torch.zeros(bins, **options))
        self.register_buffer("min_val", torch.tensor(torch.inf, **options))
        self.register_buffer("max_val", torch.tensor(-torch.inf, **options))
        self.dst_nbins = 2 ** torch.iinfo(storage_dtype(self.dtype)).bits

    def forward(self, x_orig: Any) -> Any:
        """Takes notice of a tensor of any shape and returns it."""
        x = self._plain(x_orig, self.min_val)
        group = process_group()
        if x.numel() == 0 and group is None:
            return x_orig
        if not on_host(x):
            smallest, largest = self._extremes(x, group)
            lower = torch.minimum(self.min_val, smallest)
            upper = torch.maximum(self.max_val, largest)
            self._add(count_on_device(x, self.bins, lower, upper), lower, upper, group)
            return x_orig
        low, high, others = host_extremes(x)
        self._nonfinite += others
        if group is not None:
            smallest, largest = all_reduce_extremes(x.new_tensor(low), x.new_tensor(high), group)
            low, high = smallest.item(), largest.item()
        if low > high:  # nothing finite
            return x_orig
        if others:
            x = x[torch.isfinite(x)]
        if self.is_calibrated:
            low, high = min(low, self.min_val.item()), max(high, self.max_val.item())
        self._add(count(x, self.bins, low, high), low, high, group)
        return x_orig

    def _add(self, counts: Tensor, low: Any, high: Any, group: Any) -> None:
        """Adds counts over [low, high], which contains the interval so far, to the histogram.

        ``low`` and ``high`` are numbers, or 0-D tensors that are not to be read.
        """
        counts = counts.to(self.histogram)
        if group is not None:
            distributed.all_reduce(counts, group=group)
        old_low, old_high = self.min_val, self.max_val
        if isinstance(low, Tensor):
            self.histogram.copy_(moved_on_device(self.histogram, old_low, old_high, low, high))
            self.min_val.copy_(low)
            self.max_val.copy_(high)
        else:
            before = old_low.item(), old_high.item()
            if self.is_calibrated and (low, high) != before:
                self.histogram.copy_(moved(self.histogram, *before, low, high))
            self.min_val.fill_(low)
            self.max_val.fill_(high)
        self.histogram += counts

    @property
    def is_calibrated(self) -> bool:
        """Whether a finite value was seen."""
        return math.isfinite(self.min_val.item()) and math.isfinite(self.max_val.item())

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Scale (float32 [1]) and zero point (integer [1]) of the interval with the least error
        found.

        Before anything was seen: ([1.0], [0]) and a warning. Raises ValueError if only NaN and Inf
        were seen.
        """
        if not self.is_calibrated:
            return self._calculate_qparams(self.min_val, self.max_val)
        return self._calculate_qparams(*self._interval())

    def reset_min_max_vals(self) -> None:
        """Forgets everything that was observed."""
        self.histogram.zero_()
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)
        self._set_nonfinite_count(0)

    def _adapt_buffers(self, state_dict: Any, prefix: str) -> None:
        # An observer that saw nothing has extremes of shape [0] in torch's version 2, later 0-D and
        # infinite.
        for name, empty in (("min_val", torch.inf), ("max_val", -torch.inf)):
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and loaded.dim() == 1 and loaded.numel() <= 1:
                state_dict[prefix + name] = (
                    loaded.reshape(()) if loaded.numel() else torch.tensor(empty)
                )

    def _interval(self) -> tuple[Tensor, Tensor]:
        """The interval to quantize, 0-D."""
        width = self.max_val - self.min_val
        if not bool(torch.isfinite(width)) or not bool(width > 0):
            return self.min_val, self.max_val
        first, last = 0, self.bins - 1
        error = torch.inf
        path = _candidates(self.histogram)
        for batch in _batches(path, max(1, _BATCH_ELEMENTS // self.bins)):
            errors = self._errors(batch)
            for (start, end), candidate_error in zip(batch, errors, strict=True):
                if candidate_error > error:
                    return self._bounds(first, last)
                first, last, error = start, end, candidate_error
        return self._bounds(first, last)

    def _bounds(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        bin_width = (self.max_val - self.min_val) / self.bins
        return self.min_val + bin_width * first, self.min_val + bin_width * (last + 1)

    def _errors(self, intervals: list[tuple[int, int]]) -> list[float]:
        """The L2 error of quantizing the histogram to the levels of each interval of bins.

        The values of a bin count as spread evenly. A bin adds density times the integral of the
        squared distance to the centre of the level it falls in; one that reaches over several
        levels is cut at their borders.
        """
        bin_width = (self.max_val.item() - self.min_val.item()) / self.bins
        device = self.histogram.device
        level_widths = [bin_width * (end - start + 1) / self.dst_nbins for start, end in intervals]
        level = torch.tensor(level_widths, dtype=torch.float64, device=device).unsqueeze(1)
        half = (level / 2).to(torch.float32)
        level = level.to(torch.float32)
        start = torch.tensor([start for start, _ in intervals], device=device).unsqueeze(1)
        begin = (torch.arange(self.bins, device=device) - start) * bin_width
        end = begin + bin_width
        density = self.histogram / bin_width
        top = self.dst_nbins - 1
        level_of_begin = torch.div(begin, level, rounding_mode="floor").clamp_(0, top)
        level_of_end = torch.div(end, level, rounding_mode="floor").clamp_(0, top)
        total = _spread(begin - (level_of_begin + 0.5) * level, half, density)
        total += (level_of_end - level_of_begin - 1) * _spread(-half, half, density)
        total += _spread(-half, end - (level_of_end * level + half), density)
        sums: list[float] = total.sum(dim=1).tolist()
        # An interval so narrow that a level has no width has no error.
        return [
            value if width != 0.0 else 0.0 for value, width in zip(sums, level_widths, strict=True)
        ]


def _spread(low: Tensor, high: Tensor, density: Tensor) -> Tensor:
    """``density`` times the integral of x squared from ``low`` to ``high``."""
    return density * ((high * high * high - low * low * low) / 3)


@functools.cache
def _quantiles() -> tuple[list[float], list[float]]:
    """The lower quantile after each step, rising from 0, and the upper one, falling from 1, in
    double precision.

    Sums of steps, not products: rounding is then the same as torch's.
    """
    steps = itertools.repeat(_QUANTILE_STEP, round(1 / _QUANTILE_STEP) + 2)
    lower = list(itertools.accumulate(steps, initial=0.0))
    steps = itertools.repeat(-_QUANTILE_STEP, round(1 / _QUANTILE_STEP) + 2)
    return lower, list(itertools.accumulate(steps, initial=1.0))


def _candidates(histogram: Tensor) -> Iterator[tuple[int, int]]:
    """The intervals of bins, each within the one before, that dropping outer quantiles step by step
    passes through.

    Each step looks where the next lower and the next upper quantile lie and moves the end that
    would drop more bins (the upper one if equal). Steps that drop no bin yield nothing; runs of
    them are skipped by a search.
    """
    total = torch.sum(histogram).item()
    mass = torch.cumsum(histogram, dim=0).tolist()
    lower, upper = _quantiles()
    first, last, low_step, high_step = 0, len(mass) - 1, 0, 0
    while first < last and lower[low_step] < upper[high_step]:
        new_first = min(
            bisect.bisect_left(mass, _float32(lower[low_step + 1] * total), first), last
        )
        if new_first == first:
            high_step = _next_drop(upper, high_step, total, mass[last])
            if high_step + 1 >= len(upper) or not lower[low_step] < upper[high_step]:
                return
        new_last = (
            bisect.bisect_right(mass, _float32(upper[high_step + 1] * total), first, last + 1) - 1
        )
        new_last = max(new_last, first)
        if new_first - first > last - new_last:
            first, low_step = new_first, low_step + 1
        else:
            last, high_step = new_last, high_step + 1
        yield first, last


def _next_drop(upper: list[float], step: int, total: float, mass: float) -> int:
    """The first step from ``step`` on whose upper quantile lies below ``mass``, the mass up to the
    last bin.
    """
    return bisect.bisect_left(
        range(len(upper) - 1), True, lo=step, key=lambda k: _float32(upper[k + 1] * total) < mass
    )


def _float32(value: float) -> float:
    """``value`` rounded to float32, the type that torch compares the cumulative counts in."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _batches(path: Iterator[tuple[int, int]], largest: int) -> Iterator[list[tuple[int, int]]]:
    """The candidates in batches that grow: most searches stop early."""
    size = min(4, largest)
    while batch := list(itertools.islice(path, size)):
        yield batch
        size = min(2 * size, largest)
