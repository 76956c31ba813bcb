"""One network on every contender, each in a process of its own.

So memory can be told apart, and a contender that ends its process takes nobody with it. They still
take turns: all processes live until the last round, and only one of them computes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

from torch.utils.benchmark import Measurement
from torch.utils.benchmark.utils.common import TaskSpec

from octavo.bench import timing
from octavo.bench.cases import Check, ModelCase
from octavo.bench.channel import ending, read_event, send
from octavo.bench.measure import SUBJECT, Plan, insist, times_record
from octavo.bench.peers import all_peers
from octavo.bench.solo import SoloRequest

Tell = Callable[[str], None]
_SILENT = "99"  # torch's profiler, which tells when it starts and stops


class Gone(RuntimeError):
    """A contender's process failed, or ended before it answered."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


class _Apart:
    """A contender in another process; one of :class:`octavo.bench.timing.Timed`.

    Raises:
        Gone: in any method.
    """

    def __init__(self, request: SoloRequest) -> None:
        self.name = request.contender
        self._process = subprocess.Popen(
            [sys.executable, "-m", "octavo.bench.solo"],
            env={**os.environ, "KINETO_LOG_LEVEL": _SILENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._first = request.to_json()

    def prepare(self) -> dict[str, Any]:
        """The event ``prepared`` or ``unavailable``."""
        return self._ask(self._first)

    def timer(self, threads: int) -> timing.Turns:
        return self

    def timeit(self, number: int = 1_000_000) -> Measurement:
        seconds = self._ask(f'{{"do": "time", "calls": {number}}}')["seconds"]
        task = TaskSpec("call()", "select()", label=self.name)
        return Measurement(number, [seconds], task)

    def layers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask('{"do": "layers"}')["layers"]
        return found

    def breakdown(self) -> dict[str, float]:
        found: dict[str, float] = self._ask('{"do": "breakdown"}')["breakdown"]
        return found

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            _close(stream)

    def _ask(self, line: str) -> dict[str, Any]:
        event = send(self._process, line) and read_event(self._process)
        if not event:
            status = ending(self._process.wait())
            raise Gone(self.name, f"it ended the process with {status}")
        if event["event"] == "failed":
            raise Gone(self.name, event["message"])
        return event


def _close(stream: IO[str] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        pass  # the process is gone, and what it was to read with it


def measure(
    case: ModelCase,
    contenders: Sequence[str],
    isa: str,
    plan: Plan,
    kernel: str | None = None,
    excluded: Mapping[str, str] | None = None,
    tell: Tell = lambda name: None,
) -> dict[str, Any]:
    """As :func:`octavo.bench.measure.measure`, and ``memory``: contender -> bytes ``held`` between
    calls and at the ``peak`` of one, where the system tells; ``breakdown``: way of Octavo's -> see
    :mod:`octavo.bench.breakdown`.

    Args:
        contenders: names, Octavo's included. This process is at level ``isa`` already, and its
            environment is what keeps peers to it.

    Raises:
        AssertionError: Octavo's result is wrong, or its process ended.
    """
    absent = dict(excluded or {})
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ready: dict[str, tuple[_Apart, dict[str, Any]]] = {}
        for name in contenders:
            if name in absent:
                continue
            tell(name)
            process = _Apart(SoloRequest(isa, kernel, name, case.encode(), folder))
            stack.callback(process.close)
            event = _prepare(process, case, absent)
            if event is not None:
                ready[name] = (process, event)
        times = _interleave(ready, case, plan, absent, tell)
        layers = ready[SUBJECT][0].layers() if SUBJECT in times else []
        ours = {SUBJECT, *(name for name, peer in all_peers().items() if peer.is_ours)}
        shares = {name: ready[name][0].breakdown() for name in times if name in ours}
    events = {name: event for name, (_, event) in ready.items() if name in times}
    checks = {name: Check(**event["check"]) for name, event in events.items()}
    return {
        "kernel": events[SUBJECT]["kernel"] if SUBJECT in events else None,
        "times": times_record(times, checks),
        "unavailable": absent,
        "layers": layers,
        "breakdown": shares,
        "memory": {name: event["memory"] for name, event in events.items() if event["memory"]},
    }


def _wrong(case: ModelCase, error: Gone) -> AssertionError:
    return AssertionError(f"{case.command} {case.name}: Octavo: {error}")


def _prepare(process: _Apart, case: ModelCase, absent: dict[str, str]) -> dict[str, Any] | None:
    try:
        event = process.prepare()
    except Gone as error:
        if process.name == SUBJECT:
            raise _wrong(case, error) from None
        absent[process.name] = str(error)
        return None
    if event["event"] == "unavailable":
        absent[process.name] = event["reason"]
        return None
    if process.name == SUBJECT:
        insist(case, Check(**event["check"]))
    return event


def _interleave(
    ready: Mapping[str, tuple[_Apart, dict[str, Any]]],
    case: ModelCase,
    plan: Plan,
    absent: dict[str, str],
    tell: Tell,
) -> dict[str, timing.Times]:
    """Times of those that live to the end; from the start again without one that dies."""
    while True:
        alive = [process for name, (process, _) in ready.items() if name not in absent]
        try:
            return timing.interleave(alive, case.threads, plan.effort, tell)
        except Gone as error:
            if error.name == SUBJECT:
                raise _wrong(case, error) from None
            absent[error.name] = str(error)
