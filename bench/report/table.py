"""A document on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from octavo.bench.document import Document
from octavo.bench.report import text

_WIDE = 200  # columns, where nobody says how wide the output is


def show(document: Document, console: Console | None = None) -> None:
    """Prints limits, tables, what is missing and why, and warnings."""
    console = console or _console()
    for line in text.machine_lines(document):
        _line(console, line)
    for line in text.peer_lines(document):
        _line(console, f"Peer {line}")
    sections = text.sections(document)
    limits = text.roofs(document)
    show_sections([limits, *sections] if limits else sections, console)
    console.print()
    for line in text.absent_lines(document):
        _line(console, f"Not measured: {line}", "yellow")
    for line in document["notes"]:
        _line(console, f"Note: {line}")
    for line in document["warnings"]:
        _line(console, f"Warning: {line}", "yellow")


def show_sections(sections: Sequence[text.Section], console: Console | None = None) -> None:
    """Prints sections one below the other."""
    console = console or _console()
    for section in sections:
        console.print()
        console.print(section.title, style="bold", markup=False)
        console.print(_table(section))
        _kernels(console, section)
        for line in section.lines:
            _line(console, line)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def _line(console: Console, line: str, style: str = "") -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _table(section: text.Section) -> Table:
    """All columns but kernels beside cases, whose names are long: they follow below."""
    table = Table(box=None, padding=(0, 1))
    kept = [i for i, name in enumerate(section.headings) if not _is_apart(section, name)]
    for index in kept:
        table.add_column(
            section.headings[index], justify="right" if index else "left", no_wrap=index == 0
        )
    for row in section.rows:
        table.add_row(*(row[index].replace("[", r"\[") for index in kept))
    return table


def _is_apart(section: text.Section, heading: str) -> bool:
    return heading == "kernel" and section.headings[0] == "case"


def _kernels(console: Console, section: text.Section) -> None:
    if not _is_apart(section, "kernel") or "kernel" not in section.headings:
        return
    column = section.headings.index("kernel")
    ran: dict[str, list[str]] = {}
    for row in section.rows:
        if row[column] != text.NOTHING:
            ran.setdefault(row[column], []).append(row[0])
    for kernel, cases in ran.items():
        _line(console, f"Kernel {kernel}: " + ("all cases" if len(ran) == 1 else ", ".join(cases)))
