"""The directive ``measured``: tables of what ``bench/RESULTS.md`` says, as it stands when the pages
are built::

    ```{measured} networks
    ```
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

REPORT = Path(__file__).resolve().parents[2] / "bench" / "RESULTS.md"
SECTION = re.compile(r"^## (\w+): (\w+), (.*)$", re.MULTILINE)


def sections(report: str) -> dict[tuple[str, str], str]:
    """The text below each heading ``## level: command, title``."""
    found = {}
    for match in SECTION.finditer(report):
        rest = report[match.end() :]
        end = re.search(r"^##+ ", rest, re.MULTILINE)  # its own sub-headings, too
        found[match[1], match[2]] = rest[: end.start()] if end else rest
    return found


def title(report: str, command: str) -> str:
    """What the report calls a command."""
    return next(match[3] for match in SECTION.finditer(report) if match[2] == command)


def levels(report: str) -> list[str]:
    return list(dict.fromkeys(level for level, _ in sections(report)))


def networks(report: str) -> list[list[str]]:
    """For each network and level: float32's time over Octavo's, and Octavo's."""
    rows: dict[str, dict[str, str]] = {}
    for (level, command), text in sections(report).items():
        if command != "model":
            continue
        head, _, *cases = re.findall(r"^\| .* \|$", text, re.MULTILINE)
        names = [name.strip().replace("\\*", "") for name in head.strip("|").split("|")]
        for case in cases:
            cells = dict(zip(names, map(str.strip, case.strip("|").split("|")), strict=True))
            microseconds = float(cells["octavo"].split()[0])
            ratio = re.search(r"\((.*)\)", cells["fp32"])
            if ratio:
                cell = f"{ratio[1]} ({microseconds / 1000:.3g} ms)"
                rows.setdefault(cells["case"], {})[level] = cell
    return [["network", *levels(report)]] + [
        [case, *(found.get(level, "-") for level in levels(report))] for case, found in rows.items()
    ]


def kinds(report: str) -> list[list[str]]:
    """For each kind of operation and level: float32's time over Octavo's, mean and least."""
    rows: dict[str, dict[str, str]] = {}
    for (level, command), text in sections(report).items():
        mean = re.search(r"^- Against fp32\S*: geometric mean ([\d.]+), worst ([\d.]+)", text, re.M)
        if mean and command != "model":
            rows.setdefault(command, {})[level] = f"{mean[1]} ({mean[2]})"
    return [["operations", *levels(report)]] + [
        [title(report, command), *(found.get(level, "-") for level in levels(report))]
        for command, found in rows.items()
    ]


TABLES: dict[str, Callable[[str], list[list[str]]]] = {"kinds": kinds, "networks": networks}


class Measured(SphinxDirective):
    """Writes the table that its argument names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in TABLES:
            raise self.error(f"there is no table {name!r}; there are {', '.join(TABLES)}")
        self.env.note_dependency(str(REPORT))
        head, *rows = TABLES[name](REPORT.read_text(encoding="utf-8"))
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        group += nodes.thead("", _row(head))
        group += nodes.tbody("", *map(_row, rows))
        return [nodes.table("", group)]


def _row(cells: list[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True}
