"""Where the time of a network goes: every module that has no modules inside."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

from torch import nn

from octavo import backend

_RUNS = 7


def measure(network: nn.Module, x: Any) -> list[dict[str, Any]]:
    """``{"name", "type", "kernel", "median_us"}`` of each innermost module, slowest first.

    Modules are timed inside whole runs of the network, by hooks, which add about a microsecond to
    each. What is computed between modules, or by methods other than ``forward``, is not seen.
    """
    names = {
        module: name
        for name, module in network.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity)
    }
    started: dict[nn.Module, int] = {}
    times: dict[nn.Module, list[float]] = defaultdict(list)
    kernels: dict[nn.Module, str | None] = {}

    def before(module: nn.Module, inputs: Any) -> None:
        started[module] = time.perf_counter_ns()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        times[module].append(1e-3 * (time.perf_counter_ns() - started[module]))
        kernels[module] = backend.last_kernel() if hasattr(module, "set_weight_bias") else None

    handles = [module.register_forward_pre_hook(before) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        for _ in range(_RUNS):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    rows = [
        {
            "name": names[module],
            "type": type(module).__name__,
            "kernel": kernels[module],
            # A module that is called several times in a run counts with all of them.
            "median_us": statistics.median(found) * len(found) / _RUNS,
        }
        for module, found in times.items()
    ]
    return sorted(rows, key=lambda row: -row["median_us"])
