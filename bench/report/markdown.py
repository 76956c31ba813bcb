"""A document as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from octavo.bench.document import Document
from octavo.bench.report import text, throughput
from octavo.bench.throughput import record
from octavo.bench.throughput.record import Entry

EXPLANATION = """Each row times Octavo and its peers in turn and gives medians of rounds in
microseconds, Octavo's with the interquartile range. Peers are told to keep to the instruction set
of the row; those that cannot are marked with \\*. In brackets: the peer's time over Octavo's, above
1 where Octavo is faster. *Of peak* compares with the multiply-accumulate instructions of that level
on registers alone, *of bandwidth* with reading (M = 1: the weights; calibration: the values) or
copying (element-wise) as many bytes, both measured in the same run. A result that differs from
exact arithmetic by more than one step is marked with ≠."""
_HEADER = """# Measured results

Written by `{command}`; run it to get the figures of your own machine.

"""


def write(document: Document, path: Path) -> None:
    path.write_text(render(document))


def render(document: Document) -> str:
    """The whole report."""
    parts = [_HEADER.format(command=document["command"]) + EXPLANATION]
    parts.append(bullets(text.machine_lines(document)))
    if document["warnings"]:
        parts.append("## Warnings\n\n" + bullets(document["warnings"]))
    peers = text.peer_lines(document)
    if peers:
        parts.append("## Peers that are missing or do not keep to a level\n\n" + bullets(peers))
    limits = text.roofs(document)
    for section in ([limits] if limits else []) + text.sections(document):
        parts += [f"## {section.title}", table(section)]
        if section.lines:
            parts.append(bullets(section.lines))
    parts += throughput_parts(record.read())
    absent = text.absent_lines(document)
    if absent:
        parts.append("## Not measured\n\n" + bullets(absent))
    if document["notes"]:
        parts.append("## Notes\n\n" + bullets(document["notes"]))
    return "\n\n".join(parts) + "\n"


def throughput_parts(entries: Sequence[Entry]) -> list[str]:
    """The sections of the throughput model; empty where nothing is on record."""
    parts = []
    for section in throughput.sections(entries):
        parts += [f"## {section.title}", table(section)]
        if section.lines:
            parts.append(bullets(section.lines))
    return parts


def with_throughput(page: str, entries: Sequence[Entry]) -> str:
    """A report with the sections of the throughput model as they are on record now, before what was
    not measured; older ones go."""
    wanted = "\n\n".join(throughput_parts(entries)) + "\n\n"
    chapters = re.split(r"(?m)^(?=## )", page)
    titles = tuple(f"## {title}\n" for title in throughput.TITLES)
    kept = [one for one in chapters if not one.startswith(titles)]
    places = [i for i, one in enumerate(kept) if one.startswith(("## Not measured", "## Notes"))]
    place = places[0] if places else len(kept)
    if place == len(kept):
        kept[-1] = kept[-1].rstrip("\n") + "\n\n"
    return "".join([*kept[:place], wanted, *kept[place:]]).rstrip("\n") + "\n"


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}".replace("*", r"\*") for line in lines)


def table(section: text.Section) -> str:
    """The table of a section."""
    rows = [section.headings, ["---"] * len(section.headings), *section.rows]
    kernel = section.headings.index("kernel") if "kernel" in section.headings else -1
    for row in rows[2:]:
        if kernel >= 0 and row[kernel] != text.NOTHING:
            row[kernel] = f"`{row[kernel]}`"
    return "\n".join("| " + " | ".join(c.replace("*", r"\*") for c in row) + " |" for row in rows)
