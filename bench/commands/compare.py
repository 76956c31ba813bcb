"""``compare``: two JSON files of the same machine, before and after a change."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from octavo.bench import document as documents
from octavo.bench import timing
from octavo.bench.commands.base import Command
from octavo.bench.measure import SUBJECT
from octavo.bench.report.text import number

_LEAST_NOISE = 0.03  # two runs differ by that much without a reason
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Change:
    """One case in both files.

    Attributes:
        before, after: median microseconds.
        noise: how much of the ratio the spread of the rounds explains.
    """

    key: Key
    before: float
    after: float
    noise: float

    @property
    def speedup(self) -> float:
        """Above 1: the second file is faster."""
        return self.before / self.after

    @property
    def verdict(self) -> str:
        if self.speedup > 1.0 + self.noise:
            return "faster"
        if 1.0 / self.speedup > 1.0 + self.noise:
            return "slower"
        return "same"


def changes(
    before: documents.Document, after: documents.Document, contender: str = SUBJECT
) -> list[Change]:
    """The cases that both documents have, timed with ``contender``."""
    old, new = _times(before, contender), _times(after, contender)
    found = []
    for key in old.keys() & new.keys():
        spreads = [times["iqr_us"] / times["median_us"] for times in (old[key], new[key])]
        noise = max(_LEAST_NOISE, math.hypot(*spreads))
        found.append(Change(key, old[key]["median_us"], new[key]["median_us"], noise))
    order = list(old)
    return sorted(found, key=lambda change: order.index(change.key))


def _times(document: documents.Document, contender: str) -> dict[Key, dict[str, Any]]:
    return {
        (case["isa"], case["command"], case["name"], case["threads"]): case["times"][contender]
        for case in document["cases"]
        if contender in case["times"]
    }


def _only_in(name: str, one: Iterable[Key], other: Iterable[Key]) -> list[str]:
    missing = [key for key in one if key not in set(other)]
    return [f"only in {name}: {command} {case} ({isa})" for isa, command, case, _ in missing]


class Compare(Command):
    name = "compare"
    help = "two JSON files: what got faster or slower"
    order = 8

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("before", type=Path, metavar="A.json")
        parser.add_argument("after", type=Path, metavar="B.json")
        parser.add_argument(
            "--contender", default=SUBJECT, metavar="NAME", help=f"whose times (default: {SUBJECT})"
        )
        parser.add_argument(
            "--fail-under",
            type=float,
            metavar="X",
            help="exit with 1 if the geometric mean of A's time over B's is below X (such as 0.97)",
        )

    def run(self, options: argparse.Namespace) -> int:
        before, after = documents.read(options.before), documents.read(options.after)
        found = changes(before, after, options.contender)
        if not found:
            raise ValueError(
                f"{options.before} and {options.after} have no case in common that was timed with "
                f"{options.contender}"
            )
        console = Console()
        console.print(_table(found))
        old, new = _times(before, options.contender), _times(after, options.contender)
        lines = _only_in(str(options.before), old, new) + _only_in(str(options.after), new, old)
        lines += [
            f"the files differ in {what}: {before[what]} and {after[what]}"
            for what in ("settings", "versions")
            if before[what] != after[what]
        ]
        if before["machine"]["cpu"] != after["machine"]["cpu"]:
            lines.append("the files come from different CPUs: times do not compare")
        mean = timing.geometric_mean([change.speedup for change in found])
        slower = [change for change in found if change.verdict == "slower"]
        lines.append(
            f"{len(found)} cases: geometric mean {mean:.3f} (above 1: {options.after} is faster), "
            f"{len(slower)} slower beyond noise"
        )
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        failed = options.fail_under is not None and mean < options.fail_under
        if failed:
            console.print(f"below --fail-under {options.fail_under}", style="red")
        return int(failed)


def _table(found: list[Change]) -> Table:
    table = Table(box=None)
    for heading in ("level", "case"):
        table.add_column(heading)
    for heading in ("A, µs", "B, µs", "A / B", "noise", ""):
        table.add_column(heading, justify="right")
    styles = {"faster": "green", "slower": "red", "same": "dim"}
    for change in found:
        isa, command, name, threads = change.key
        title = f"{command} {name}" + (f" [{threads} threads]" if threads > 1 else "")
        table.add_row(
            isa,
            title.replace("[", r"\["),
            number(change.before),
            number(change.after),
            f"{change.speedup:.2f}",
            f"{100 * change.noise:.0f} %",
            f"[{styles[change.verdict]}]{change.verdict}",
        )
    return table


COMMAND = Compare()
