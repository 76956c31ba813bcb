"""Tables for people: plain text, rich's tables where rich prints them, HTML in notebooks."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Table", "Tabular", "as_json", "number"]


@dataclass(frozen=True)
class Table:
    """Rows of text under headers.

    Attributes:
        headers: one for each column.
        rows: cells.
        numeric: the columns that are aligned to the right.
        footer: lines below.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    footer: Sequence[str] = ()

    def without_empty_columns(self) -> Table:
        """The same without the columns in which no row has anything."""
        kept = [i for i in range(len(self.headers)) if any(row[i] for row in self.rows)]
        return Table(
            [self.headers[i] for i in kept],
            [[row[i] for i in kept] for row in self.rows],
            frozenset(kept.index(i) for i in self.numeric if i in kept),
            self.footer,
        )

    def text(self) -> str:
        """Columns of plain text."""
        lines = [self.headers, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headers))]
        return "\n".join(
            [
                "  ".join(
                    cell.rjust(width) if i in self.numeric else cell.ljust(width)
                    for i, (cell, width) in enumerate(zip(line, widths, strict=True))
                ).rstrip()
                for line in lines
            ]
            + list(self.footer)
        )

    def rich(self) -> Any:
        """A ``rich.table.Table``."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(caption="\n".join(self.footer) or None, caption_justify="left")
        for i, header in enumerate(self.headers):
            numeric = i in self.numeric
            table.add_column(header, justify="right" if numeric else "left", no_wrap=numeric)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def html(self) -> str:
        """An HTML table, and the footer as paragraphs."""

        def line(tag: str, cells: Sequence[str]) -> str:
            parts = (
                f'<{tag} style="text-align:{"right" if i in self.numeric else "left"}">'
                f"{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )
            return f"<tr>{''.join(parts)}</tr>"

        body = "\n".join(line("td", row) for row in self.rows)
        below = "".join(f"<p>{html.escape(text)}</p>" for text in self.footer)
        head = line("th", self.headers)
        return f"<table><thead>{head}</thead><tbody>\n{body}\n</tbody></table>{below}"


class Tabular(ABC):
    """What has a :class:`Table`: ``print`` gives plain text, ``rich.print`` a table of rich's,
    notebooks show HTML.
    """

    @abstractmethod
    def _table(self) -> Table:
        """The table as it is now."""

    def __str__(self) -> str:
        return self._table().text()

    def __rich__(self) -> Any:
        return self._table().rich()

    def _repr_html_(self) -> str:
        return self._table().html()


def number(value: float | None, form: str) -> str:
    """A number as text; "" for None."""
    return "" if value is None else format(value, form)


def as_json(value: Any) -> Any:
    """Dicts, lists and numbers as JSON has them: numbers that it lacks become null."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
