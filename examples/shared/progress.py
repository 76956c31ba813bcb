"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from octavo.demo.report import console


def bars(*, transient: bool = False) -> Progress:
    """Progress bars with title, steps and time; transient ones are gone when they are full."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), console=console(), transient=transient)


def progress(steps: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    """``steps``, with a bar where the output is a terminal."""
    with bars(transient=True) as shown:
        yield from shown.track(steps, total, description=title)
