"""Starts the worker of a level and survives the death of a peer in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from octavo.bench import levels
from octavo.bench.channel import ending
from octavo.bench.measure import SUBJECT
from octavo.bench.worker import Request

Listener = Callable[[dict[str, Any]], None]


class WorkerError(RuntimeError):
    """A level could not be measured; the message is for people."""


def measure_level(request: Request, listen: Listener) -> None:
    """Runs the request in processes of its own: one, and another for each peer that ends one.

    A peer in which the process died is left out of that case, and named so, and the rest goes on.

    Args:
        listen: gets the worker's events. ``case`` events come once for each case.

    Raises:
        WorkerError: the worker reported a failure, or died while it ran Octavo.
    """
    while True:
        done: set[int] = set()
        running: tuple[int, str] | None = None
        status, finished = 0, False
        with _start(request) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(request.to_json())
            process.stdin.close()
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "failed":
                    raise WorkerError(f"{request.isa}: {event['message']}")
                if event["event"] == "running":
                    running = (event["index"], event["contender"])
                elif event["event"] == "case":
                    done.add(event["index"])
                    running = None
                finished = finished or event["event"] == "done"
                listen(event)
            status = process.wait()
        if finished:
            return  # whatever libraries do while the process ends
        if running is None or running[1] == SUBJECT:
            raise WorkerError(f"{request.isa}: the measuring process ended with {ending(status)}")
        request = _without(request, done, running, ending(status))


def _start(request: Request) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "octavo.bench.worker"],
        env=levels.environment(request.isa),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _without(request: Request, done: set[int], running: tuple[int, str], ending: str) -> Request:
    index, contender = running
    excluded = {key: dict(value) for key, value in request.excluded.items()}
    reason = f"it ended the process with {ending}"
    excluded.setdefault(str(index), {})[contender] = reason
    cases = [case for case in request.cases if case[0] not in done]
    return replace(request, cases=cases, excluded=excluded)
