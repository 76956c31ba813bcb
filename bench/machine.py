"""What the machine can do: its CPU, and the arithmetic peak of an instruction set as measured."""

from __future__ import annotations

import platform
import time
from pathlib import Path

from octavo import backend


def cpu_name() -> str:
    """The CPU's model name as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure_peak(seconds: float = 0.5) -> float:
    """Arithmetic peak of the instruction set in use, one thread, in 10^9 operations a second (2 for
    each multiply-accumulate): the best of many short runs, as a peak is what nothing disturbed."""
    steps = 1000
    while _time_peak(steps)[1] < 2e-3:
        steps *= 2
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        macs, elapsed = _time_peak(steps)
        best = max(best, 2e-9 * macs / elapsed)
    return best


def _time_peak(steps: int) -> tuple[int, float]:
    start = time.perf_counter()
    macs = backend.run_peak(steps)
    return macs, time.perf_counter() - start
