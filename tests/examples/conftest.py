"""Runs an example as a user does: ``python examples/NAME.py``, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
_LIMIT = 580  # seconds, below pytest's own limit; a quick run takes one minute on two quiet cores


@dataclass(frozen=True)
class Run:
    """What an example left: its ``results.json``, the folder it wrote into, and what it printed."""

    results: dict[str, Any]
    folder: Path
    text: str

    def table(self, title: str) -> list[dict[str, Any]]:
        """The rows of the one table whose title begins so."""
        (found,) = (rows for name, rows in self.results["tables"].items() if name.startswith(title))
        assert found
        return list(found)


RunExample = Callable[..., Run]


@pytest.fixture(scope="session")
def run_example(tmp_path_factory: pytest.TempPathFactory) -> RunExample:
    """``run_example("dynamic_transformer", "--quick")``: fails with what the example printed where
    it ends with an error. The same arguments run once in a session.
    """
    done: dict[tuple[str, ...], Run] = {}

    def run(name: str, *arguments: str) -> Run:
        key = (name, *arguments)
        if key not in done:
            done[key] = _run(name, arguments, tmp_path_factory.mktemp(name))
        return done[key]

    return run


def _run(name: str, arguments: tuple[str, ...], folder: Path) -> Run:
    output = folder / "output"
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments, "--output", str(output)]
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT,
    )
    assert ended.returncode == 0, ended.stdout
    return Run(json.loads((output / "results.json").read_text()), output, ended.stdout)
