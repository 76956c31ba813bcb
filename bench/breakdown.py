"""Where the time of a call goes: kernels of Octavo, layouts, torch's operators, and Python.

Kernels are counted by a clock inside the extension while the call runs as usual. What torch's own
operators take comes from a run under ``torch.profiler``, which makes each about a microsecond
longer; so a little of Python's part is counted there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from octavo import backend

_RUNS, _PROFILED_RUNS = 9, 3

# Operators that bring values, or the view of them, into another form.
_LAYOUT = frozenset(
    f"aten::{name}"
    for name in (
        *("_reshape_alias", "_to_copy", "_unsafe_view", "as_strided", "cat", "chunk", "clone"),
        *("contiguous", "copy_", "detach", "expand", "flatten", "narrow", "permute", "reshape"),
        *("select", "slice", "split", "squeeze", "stack", "t", "to", "transpose", "unbind"),
        *("unflatten", "unsqueeze", "view"),
    )
)
# Allocation, which counts with the rest.
_NO_WORK = frozenset({"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::resize_"})


def measure(call: Callable[[], Any]) -> dict[str, float]:
    """``total_us`` and its parts ``kernels_us``, ``layout_us``, ``torch_us`` and ``python_us``,
    medians over runs. ``call`` was called before."""
    totals, kernels, layouts = [], [], []
    for _ in range(_RUNS):
        backend.start_clock()
        started = time.perf_counter_ns()
        call()
        totals.append(1e-3 * (time.perf_counter_ns() - started))
        compute, layout = backend.stop_clock()
        kernels.append(1e-3 * compute)
        layouts.append(1e-3 * layout)
    moved, computed = _of_torch(call)
    total, kernel = statistics.median(totals), statistics.median(kernels)
    layout_us = statistics.median(layouts) + moved
    return {
        "total_us": total,
        "kernels_us": kernel,
        "layout_us": layout_us,
        "torch_us": computed,
        "python_us": max(0.0, total - kernel - layout_us - computed),
    }


def _of_torch(call: Callable[[], Any]) -> tuple[float, float]:
    """Microseconds that a run spends in torch's operators: those of layout, and the others."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(_PROFILED_RUNS):
            call()
    moved, computed = parts(
        (str(event.key), float(event.self_cpu_time_total)) for event in profiler.key_averages()
    )
    return moved / _PROFILED_RUNS, computed / _PROFILED_RUNS


def parts(events: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """The times of torch's operators, by name, as sums of those of layout and of the others. What
    is not an operator of torch does not count."""
    moved = computed = 0.0
    for name, spent in events:
        if name in _LAYOUT:
            moved += spent
        elif name.startswith("aten::") and name not in _NO_WORK:
            computed += spent
    return moved, computed
