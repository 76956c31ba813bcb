"""Memory that a process holds, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak of the resident size to its current value


def missing() -> str | None:
    """Why memory cannot be measured here; None where it can."""
    try:
        if "VmHWM" not in _STATUS.read_text():
            return f"{_STATUS} tells no peak"
        _CLEAR.write_text(_RESET_PEAK)
    except OSError as error:
        return f"the peak cannot be reset: {error}"
    return None


def settle() -> None:
    """Lets go of what is garbage, and gives what the allocator keeps back to the system."""
    gc.collect()
    gc.collect()  # what the first round's finalizers released
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def resident() -> int:
    """Bytes that hold data now. The code of programs and libraries, which processes share, is left
    out."""
    return _bytes("RssAnon")


def peak(call: Callable[[], Any], times: int = 3) -> int:
    """The most bytes, counted as by :func:`resident`, that there were at once while ``call`` ran.

    Raises:
        OSError: see :func:`missing`.
    """
    settle()
    _CLEAR.write_text(_RESET_PEAK)
    for _ in range(times):
        call()
    return _bytes("VmHWM") - _bytes("RssFile") - _bytes("RssShmem")


def _bytes(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise OSError(f"{_STATUS} has no {key}")
