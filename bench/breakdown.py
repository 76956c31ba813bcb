"""Where the time of a call goes: kernels of Octavo, layouts, torch's operators, and Python.

Kernels are counted by a clock inside the extension while the call runs as usual. What torch's own
operators take comes from a run under ``torch.profiler``, which makes each about a microsecond
longer; so a little of Python's part is counted there.
"""

from __future__ import annotations

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
    """``total_us`` and its parts ``kernels_us``, ``layout_us``, ``torch_us`` and ``python_us``, of
    the fastest of some runs: the one that other processes disturbed least. ``call`` was called
    before."""
    total, kernels, layouts = min(_timed(call) for _ in range(_RUNS))
    moved, computed = _of_torch(call)
    layouts += moved
    return {
        "total_us": total,
        "kernels_us": kernels,
        "layout_us": layouts,
        "torch_us": computed,
        "python_us": max(0.0, total - kernels - layouts - computed),
    }


def _timed(call: Callable[[], Any]) -> tuple[float, float, float]:
    """Microseconds of a run: all of it, and those in the extension, for computing and for
    layout."""
    backend.start_clock()
    started = time.perf_counter_ns()
    call()
    total = time.perf_counter_ns() - started
    compute, layout = backend.stop_clock()
    return 1e-3 * total, 1e-3 * compute, 1e-3 * layout


def _of_torch(call: Callable[[], Any]) -> tuple[float, float]:
    """Microseconds that a run spends in torch's operators: those of layout, and the others; of the
    run with the least."""
    return min((_profiled(call) for _ in range(_PROFILED_RUNS)), key=sum)


def _profiled(call: Callable[[], Any]) -> tuple[float, float]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = profiler.key_averages()
    return parts((str(event.key), float(event.self_cpu_time_total)) for event in events)


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
