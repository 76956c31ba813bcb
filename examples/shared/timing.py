"""Times of several models on the same work, taken in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from octavo.bench.timing import Contender, Effort, interleave


def _nothing() -> None:
    pass


def milliseconds(
    calls: Mapping[str, Callable[[], Any]], *, quick: bool = False, seconds: float = 2.0
) -> dict[str, float]:
    """The median time of each call, in milliseconds.

    One short block of each call follows the other, round after round, so that whatever else the
    machine does slows all of them. Runs without gradients, on torch's number of threads.

    Args:
        calls: name -> what to time.
        quick: a few rounds are enough.
        seconds: for each call, all rounds together.
    """
    effort = Effort(rounds=5, seconds=0.2) if quick else Effort(rounds=15, seconds=seconds)
    contenders = [Contender(name, [call], _nothing) for name, call in calls.items()]
    with torch.inference_mode():
        times = interleave(contenders, torch.get_num_threads(), effort)
    return {name: 1e-3 * measured.median for name, measured in times.items()}
