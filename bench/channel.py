"""Lines of JSON between processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

Emit = Callable[[dict[str, Any]], None]


def private_stdout() -> Emit:
    """Keeps stdout for events: what anybody else prints there goes to stderr from now on."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    return emit


def send(process: subprocess.Popen[str], line: str) -> bool:
    """Whether the process took the line."""
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


def read_event(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """The next event; None where the process ended without one."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith("\n"):
        return None
    event: dict[str, Any] = json.loads(line)
    return event


def ending(status: int) -> str:
    """How a process ended, for people."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"
