"""Whether the machine was quiet enough to believe the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SPREAD_LIMIT = 0.15  # interquartile range over median, of one contender in one case
PEAK_LIMIT = 0.05  # how far the second measurement of a peak may be from the first
LOAD_LIMIT = 0.5  # processes that want to run before we start, for each core


def spread_warning(cases: Iterable[Mapping[str, Any]]) -> str | None:
    """Names the cases in which a contender's rounds differed much, and by how much."""
    noisy: dict[str, float] = {}
    for case in cases:
        spreads = [times["iqr_us"] / times["median_us"] for times in case["times"].values()]
        if spreads and max(spreads) > SPREAD_LIMIT:
            noisy[f"{case['command']} {case['name']} ({case['isa']})"] = max(spreads)
    if not noisy:
        return None
    named = sorted(noisy, key=lambda name: -noisy[name])
    shown = ", ".join(f"{name}: {100 * noisy[name]:.0f} %" for name in named[:5])
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return (
        f"noisy machine: rounds of a contender differ by more than {100 * SPREAD_LIMIT:.0f} % "
        f"(interquartile range) in {shown}{more}"
    )


def load_warning(load: float | None, cores: int) -> str | None:
    """Whether other processes were running before the measurement began."""
    if load is None or load <= LOAD_LIMIT * cores:
        return None
    return f"busy machine: a load average of {load:.1f} on {cores} cores before the start"


def peak_warning(isa: str, first: float, second: float) -> str | None:
    """Whether the arithmetic peak changed while we measured, as clocks and neighbours do."""
    change = second / first - 1.0
    if abs(change) <= PEAK_LIMIT:
        return None
    return (
        f"unsteady machine: the peak of {isa} was {first:.0f} GOP/s before the cases and "
        f"{second:.0f} after them ({100 * change:+.0f} %)"
    )
