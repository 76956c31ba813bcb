"""Putting together what the observers of several processes saw.

Users import :func:`all_reduce_observers` from :mod:`octavo.quantization.observer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from octavo.quantization.histogram import moved_on_device
from octavo.quantization.histogram_observer import HistogramObserver
from octavo.quantization.minmax_observer import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from octavo.quantization.statistics import all_reduce_extremes

__all__ = ["all_reduce_observers"]

_AVERAGES = (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
_EXTREMES = (MinMaxObserver, PerChannelMinMaxObserver)


def all_reduce_observers(model: nn.Module, process_group: Any = None) -> None:
    """Makes the observers of a model know, on every rank, what those of all ranks saw.

    For calibration in several processes, each with its part of the data and the same prepared
    model: call it on every rank, after the last batch and before ``convert``. Extremes become those
    of all data; histograms are added over the common interval; moving averages become the mean of
    those ranks that saw something. Counts of NaN and Inf are added. An observer of your own, or one
    of another library, merges itself with its method ``all_reduce(process_group)``. Inside of a
    DistributedDataParallel forward this is not needed: there each step is observed jointly.

    Args:
        model: a prepared model.
        process_group: default: all processes. The first call for tensors on a GPU needs NCCL, for
            tensors on the CPU Gloo.

    Raises:
        ValueError: ``torch.distributed`` was not initialized, or a per-channel observer has seen
            data on some ranks only (or with other numbers of channels).
        TypeError: an observer of an unknown class without a method ``all_reduce``; nothing was
            merged.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError("all_reduce_observers: call torch.distributed.init_process_group first")
    for name, module in model.named_modules():
        _check_kind(name, module)
    for name, observer in model.named_modules():
        if _merges_itself(observer):
            observer.all_reduce(process_group)
            continue
        if isinstance(observer, HistogramObserver):
            _reduce_histogram(observer, process_group)
        elif isinstance(observer, _EXTREMES):
            _check_channels(name, observer.min_val, process_group)
            if isinstance(observer, _AVERAGES):
                _average(observer.min_val, process_group)
                _average(observer.max_val, process_group)
            else:
                low, high = all_reduce_extremes(observer.min_val, observer.max_val, process_group)
                observer.min_val.copy_(low)
                observer.max_val.copy_(high)
        else:
            continue
        device = observer.min_val.device
        observer._set_nonfinite_count(_total(observer.nonfinite_count, device, process_group))
    for module in model.modules():
        take = getattr(module, "_take_qparams", None)  # fake-quantize has a copy of them
        if take is not None and getattr(module, "is_calibrated", False):
            take()


def _merges_itself(module: nn.Module) -> bool:
    return callable(getattr(module, "calculate_qparams", None)) and callable(
        getattr(module, "all_reduce", None)
    )


def _check_kind(name: str, module: nn.Module) -> None:
    """Raises TypeError for an observer whose statistics would stay those of one rank."""
    if (
        not callable(getattr(module, "calculate_qparams", None))
        or isinstance(module, (HistogramObserver, *_EXTREMES))
        or isinstance(getattr(module, "activation_post_process", None), nn.Module)  # visited itself
        or not getattr(module, "_keeps_statistics", True)
        or _merges_itself(module)
    ):
        return
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    raise TypeError(
        f"all_reduce_observers: '{name}' is a {kind}, which keeps statistics that only its own "
        "class can merge; give that class a method all_reduce(process_group) that makes them those "
        "of all ranks (with an empty body if they are so already)"
    )


def _reduce_histogram(observer: HistogramObserver, group: Any) -> None:
    low, high = all_reduce_extremes(observer.min_val, observer.max_val, group)
    counts = moved_on_device(observer.histogram, observer.min_val, observer.max_val, low, high)
    distributed.all_reduce(counts, group=group)
    observer.histogram.copy_(counts)
    observer.min_val.copy_(low)
    observer.max_val.copy_(high)


def _check_channels(name: str, extremes: Tensor, group: Any) -> None:
    size = torch.tensor(extremes.numel(), device=extremes.device)
    low, high = all_reduce_extremes(size, size, group)
    if bool(low != high):
        raise ValueError(
            f"all_reduce_observers: '{name}' has seen {int(low)} channels on one rank and "
            f"{int(high)} on another; run calibration data through the model on every rank first"
        )


def _average(value: Tensor, group: Any) -> None:
    """The mean over the ranks where a value is finite, in place; infinite where there is none."""
    known = torch.isfinite(value)
    both = torch.stack([torch.where(known, value, 0), known.to(value.dtype)])
    distributed.all_reduce(both, group=group)
    value.copy_(torch.where(both[1] > 0, both[0] / both[1], value))


def _total(count: int | Tensor, device: torch.device, group: Any) -> int | Tensor:
    total = torch.as_tensor(count, dtype=torch.int64, device=device).clone()
    distributed.all_reduce(total, group=group)
    return int(total) if isinstance(count, int) else total
