"""Times from ``torch.utils.benchmark``, taken in turn so that a busy machine is busy for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

from torch.utils.benchmark import Measurement, Timer

Call = Callable[[], Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: turns of each contender.
        seconds: for one contender and case, all turns together. Contenders so slow that a single
            call takes a large part of it get fewer rounds, at least ``fewest``.
    """

    rounds: int = 15
    seconds: float = 0.25
    fewest: int = 3

    def plan(self, once: float) -> tuple[int, int]:
        """(rounds, calls in each) for a contender whose call takes ``once`` seconds."""
        rounds = max(self.fewest, min(self.rounds, int(self.seconds / max(once, 1e-9))))
        return rounds, max(1, int(self.seconds / rounds / max(once, 1e-9)))


class Turns(Protocol):
    """What :class:`torch.utils.benchmark.Timer` is of use for here."""

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """The time of so many calls."""


class Timed(Protocol):
    """Something to time, here or in another process."""

    @property
    def name(self) -> str: ...

    def timer(self, threads: int) -> Turns:
        """What times it on so many threads."""


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        calls: the same work, each on weights of its own; called in turn. More than one where the
            weights are to come from memory.
        select: runs, untimed, before each turn (for global settings).
    """

    name: str
    calls: Sequence[Call]
    select: Call

    def timer(self, threads: int) -> Timer:
        if len(self.calls) == 1:
            call = self.calls[0]
        else:
            following = cycle(self.calls).__next__

            def call() -> None:
                following()()

        return Timer(
            "call()",
            setup="select()",
            globals={"call": call, "select": self.select},
            num_threads=threads,
            label=self.name,
        )


@dataclass(frozen=True)
class Times:
    """Microseconds of a call: one sample for each round."""

    median: float
    iqr: float
    samples: list[float]
    calls_per_sample: int

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return self.iqr / self.median


def interleave(
    contenders: Sequence[Timed],
    threads: int,
    effort: Effort,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Times]:
    """Times of each contender, taken in rounds: one short block of each, then the next round.

    Args:
        tell: gets the name of the contender that runs next.
    """
    timers, plans = {}, {}
    for contender in contenders:
        tell(contender.name)
        timers[contender.name] = timer = contender.timer(threads)
        plans[contender.name] = effort.plan(timer.timeit(1).median)
    blocks: dict[str, list[Measurement]] = {name: [] for name in timers}
    turns = max((rounds for rounds, _ in plans.values()), default=0)
    for turn in range(turns):
        for name, timer in timers.items():
            rounds, calls = plans[name]
            # Those with fewer rounds take them spread over the whole time.
            if len(blocks[name]) * turns <= turn * rounds:
                tell(name)
                blocks[name].append(timer.timeit(calls))
    return {name: _summary(measurements) for name, measurements in blocks.items()}


def _summary(blocks: list[Measurement]) -> Times:
    (merged,) = Measurement.merge(blocks)
    return Times(
        median=1e6 * merged.median,
        iqr=1e6 * merged.iqr,
        samples=[1e6 * time for time in merged.times],
        calls_per_sample=blocks[0].number_per_run,
    )


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean for ratios.

    Raises:
        ValueError: none, or one that is not positive.
    """
    if not ratios or min(ratios) <= 0.0:
        raise ValueError(f"a geometric mean needs positive numbers, got {list(ratios)}")
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
