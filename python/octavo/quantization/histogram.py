"""Counting values in bins, and moving counts to a wider interval: torch's results on the CPU, and
the same without reading numbers back on other devices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.ops import direct
from octavo.quantization.statistics import kernels_see

__all__ = ["count", "count_on_device", "moved", "moved_on_device"]

_PIECES = 16  # into which a bin is cut when the histogram moves to a wider interval
# torch.histc counts equal values over an interval of 1 to either side, if float32 resolves that.
_RESOLVED = 1e6
_PART = 65536  # elements counted at once


def count(x: Tensor, bins: int, low: float, high: float) -> Tensor:
    """A histogram of finite values over [low, high]."""
    if low == high and abs(low) > _RESOLVED:
        counts = x.new_zeros(bins)
        counts[bins // 2] = x.numel()
        return counts
    if (high - low) * bins > torch.finfo(torch.float32).max:
        x = x.to(torch.float64)  # histc multiplies by the bins first, which overflows float32
    if low == high or x.dtype is not torch.float32 or not x.is_cpu:
        return torch.histc(x, bins, min=low, max=high)
    counted = direct.count_bins(x, bins, low, high) if kernels_see(x) else None
    return _count_in_parts(x, bins, low, high) if counted is None else counted


def _count_in_parts(x: Tensor, bins: int, low: float, high: float) -> Tensor:
    """``torch.histc`` of a float32 tensor on the CPU, to the bit, in parts that stay in the cache.

    histc computes the bin of one value at a time, with these operations in this order.
    """
    counts = torch.zeros(bins, dtype=torch.int64)
    width = torch.tensor(high) - torch.tensor(low)
    for part in torch.split(x.reshape(-1), _PART):
        position = (part - low).mul_(bins).div_(width)
        counts += torch.bincount(position.to(torch.int32).clamp_(max=bins - 1), minlength=bins)
    return counts.to(torch.float32)


def moved(counts: Tensor, old_low: float, old_high: float, low: float, high: float) -> Tensor:
    """The counts of a histogram over [old_low, old_high] in the bins of one over [low, high], which
    contains it.
    """
    bins = counts.numel()
    if old_low == old_high:
        return count(counts.new_tensor([old_low]), bins, low, high).to(counts) * counts.sum()
    piece_width = (counts.new_tensor(old_high) - counts.new_tensor(old_low)) / (bins * _PIECES)
    middles = (
        torch.linspace(old_low, old_high, bins * _PIECES + 1, device=counts.device)[:-1]
        + 0.5 * piece_width
    )
    borders = torch.linspace(low, high, bins + 1, device=counts.device)
    result = direct.move_counts(counts, middles, borders) if kernels_see(counts) else None
    if result is not None:
        return result
    pieces = counts.repeat_interleave(_PIECES) / _PIECES
    target = (torch.bucketize(middles, borders, right=True) - 1).clamp_(0, bins - 1)
    return torch.bincount(target, weights=pieces, minlength=bins)


def _bins_of(x: Tensor, bins: int, low: Tensor, high: Tensor) -> Tensor:
    """The bin of each value over [low, high]; the middle one if the interval is a point."""
    width = high / 2 - low / 2  # halves, because the width itself may overflow
    position = torch.where(width > 0, (x / 2 - low / 2) / width * bins, bins / 2)
    return torch.nan_to_num(position).floor_().clamp_(0, bins - 1).to(torch.int64)


def count_on_device(x: Tensor, bins: int, low: Tensor, high: Tensor) -> Tensor:
    """A histogram, int32, over [low, high] of the finite values of a tensor."""
    flat = x.reshape(-1)
    counts = torch.zeros(bins, dtype=torch.int32, device=x.device)
    return counts.scatter_add_(
        0, _bins_of(flat, bins, low, high), torch.isfinite(flat).to(torch.int32)
    )


def moved_on_device(
    counts: Tensor, old_low: Tensor, old_high: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """:func:`moved` for extremes that are 0-D tensors, which may be equal to or infinite before
    anything was counted.
    """
    bins = counts.numel()
    step = (old_high / 2 - old_low / 2) / (bins * _PIECES)
    pieces = torch.arange(bins * _PIECES, device=counts.device, dtype=counts.dtype) + 0.5
    middles = old_low + step * pieces * 2
    target = _bins_of(middles, bins, low, high)
    spread = torch.zeros_like(counts).scatter_add_(
        0, target, counts.repeat_interleave(_PIECES) / _PIECES
    )
    return torch.where((old_low == low) & (old_high == high), counts, spread)
