"""One case on every contender: prepared, checked, then timed in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from octavo.bench import machine, timing
from octavo.bench.cases import AccuracyCase, Case, Check
from octavo.bench.peers.base import Peer, Prepared, Unavailable

SUBJECT = "octavo"


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        cold: rotate weights through more than the last-level cache, so that they come from memory.
    """

    effort: timing.Effort = field(default_factory=timing.Effort)
    cold: bool = False


def copies_for(case: Case, cold: bool) -> int:
    """How many weights to call in turn."""
    if not cold or case.weight_bytes == 0:
        return 1
    caches = machine.caches()
    return max(2, math.ceil(1.5 * caches[max(caches)] / case.weight_bytes))


def measure(
    case: Case,
    contenders: Mapping[str, Peer],
    plan: Plan,
    excluded: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Times, checks and absences, as plain JSON types.

    Args:
        excluded: contenders not to run, and why.
        tell: gets the name of the contender that runs next.

    Raises:
        AssertionError: Octavo's result is wrong; nothing is timed then.
    """
    absent = dict(excluded or {})
    ready: list[timing.Contender] = []
    checks: dict[str, Check] = {}
    kernel: str | None = None
    layers: list[dict[str, Any]] = []
    with torch.inference_mode(not case.trains):
        for name, peer in contenders.items():
            if name in absent:
                continue
            tell(name)
            prepared = _prepare(name, peer, case, copies_for(case, plan.cold))
            if isinstance(prepared, Unavailable):
                absent[name] = prepared.reason
                continue
            try:
                prepared[0].select()
                checks[name] = case.check(prepared[0].result(prepared[0].call()))
            except Exception as error:
                if name == SUBJECT:
                    raise
                absent[name] = first_line(error)
                continue
            if name == SUBJECT:
                subject = prepared[0]
                kernel = subject.kernel()
                insist(case, checks[name])
            ready.append(timing.Contender(name, [one.call for one in prepared], prepared[0].select))
        times = timing.interleave(ready, case.threads, plan.effort, tell)
        if SUBJECT in times:
            layers = subject.layers()
    return {
        "kernel": kernel,
        "times": times_record(times, checks),
        "unavailable": absent,
        "layers": layers,
    }


def times_record(
    times: Mapping[str, timing.Times], checks: Mapping[str, Check]
) -> dict[str, dict[str, Any]]:
    """``times`` of a case as a document has it."""
    return {
        name: {
            "median_us": found.median,
            "iqr_us": found.iqr,
            "samples_us": found.samples,
            "calls_per_sample": found.calls_per_sample,
            "check": checks[name].text,
            "close": checks[name].close,
        }
        for name, found in times.items()
    }


def score(
    case: AccuracyCase,
    contenders: Mapping[str, Peer],
    excluded: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """How good each contender's results are, and absences; as :func:`measure`, without times.

    Raises:
        AssertionError: Octavo's result is wrong.
    """
    absent = dict(excluded or {})
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name, peer in contenders.items():
            if name in absent:
                continue
            tell(name)
            try:
                prepared = peer.prepare(case)
                if isinstance(prepared, Unavailable):
                    absent[name] = prepared.reason
                    continue
                prepared.select()
                got = prepared.result(prepared.call())
            except Exception as error:
                if name == SUBJECT:
                    raise
                absent[name] = first_line(error)
                continue
            if name == SUBJECT:
                insist(case, case.check(got))
            found[name] = case.metrics(got)
    return {"kernel": None, "times": {}, "unavailable": absent, "layers": [], "accuracy": found}


def _prepare(name: str, peer: Peer, case: Case, copies: int) -> list[Prepared] | Unavailable:
    if copies > peer.most_copies:
        return Unavailable(
            f"cold weights of this size take {copies} copies, too many to prepare "
            f"(at most {peer.most_copies})"
        )
    found: list[Prepared] = []
    for _ in range(copies):
        try:
            prepared = peer.prepare(case)
        except Exception as error:
            if name == SUBJECT:
                raise
            return Unavailable(first_line(error))
        if isinstance(prepared, Unavailable):
            return prepared
        found.append(prepared)
    return found


def insist(case: Case, check: Check) -> None:
    """Raises:
    AssertionError: ``check``, of Octavo's result, says that it is wrong.
    """
    good = check.exact if case.must_be_exact else check.close
    if not good:
        raise AssertionError(
            f"{case.command} {case.name}: Octavo's result is wrong ({check.text}); nothing was "
            "timed. This is a bug; please report it with the output of `octavo info`"
        )


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
