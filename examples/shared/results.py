"""What an example found, as tables for people and as JSON for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from octavo import backend
from octavo.bench import machine
from octavo.demo.report import console


@dataclass(frozen=True)
class Workload:
    """One row of the table in the README: an int8 model beside the float model of the same run.

    Attributes:
        name: of the workload, as the table shows it.
        settings: batch, sizes and the method, in a few words.
        metric: what the scores are.
        float_score: of the float model; ``int8_score`` and ``torch_ao_score`` likewise.
        float_ms: milliseconds of a call; ``int8_ms`` and ``torch_ao_ms`` likewise.
        float_bytes: of the weights in a file; ``int8_bytes`` likewise.
        torch_ao_score: None where torch has no such thing (any more); ``torch_ao_ms`` likewise.
        weights: whose bytes are compared.
    """

    name: str
    settings: str
    metric: str
    float_score: float
    int8_score: float
    float_ms: float
    int8_ms: float
    float_bytes: int
    int8_bytes: int
    weights: str
    torch_ao_score: float | None = None
    torch_ao_ms: float | None = None


class Results:
    """Collects tables and values, prints them, and writes them as ``results.json``."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._console = console()
        self._output: Path = arguments.output
        self._tree: dict[str, Any] = {
            "example": name,
            "quick": arguments.quick,
            "seed": arguments.seed,
            "threads": arguments.threads,
            "isa": backend.current(),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "tables": {},
            "values": {},
        }
        self._console.print(
            f"{name}: octavo's level [b]{backend.current()}[/b], torch {torch.__version__}, "
            f"{arguments.threads} threads, seed {arguments.seed}",
            highlight=False,
        )

    def say(self, text: str) -> None:
        """Prints text as it is: brackets are no markup."""
        self._console.print(text, highlight=False, markup=False, emoji=False)

    def table(self, title: str, rows: Sequence[dict[str, Any]], note: str = "") -> None:
        """Prints and keeps a table; every row has the first one's keys, which head the columns."""
        self._tree["tables"][title] = list(rows)
        shown = Table(title=title, title_justify="left", caption=note or None)
        for number, column in enumerate(rows[0]):
            shown.add_column(column, justify="right" if number else "left")
        for row in rows:
            shown.add_row(*(_text(row[column]) for column in rows[0]))
        self._console.print(shown)

    def value(self, name: str, value: Any) -> None:
        """Keeps a value for the file."""
        self._tree["values"][name] = value

    def workload(self, workload: Workload) -> None:
        """Keeps the example's row of the README's table."""
        self._tree["workload"] = dataclasses.asdict(workload)

    def write(self) -> Path:
        """Writes ``results.json`` into the output folder."""
        path = self._output / "results.json"
        path.write_text(json.dumps(self._tree, indent=1, default=str) + "\n")
        self.say(f"written: {path}")
        return path


def file_bytes(path: Path) -> int:
    """The size of a file."""
    return path.stat().st_size


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
