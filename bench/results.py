"""Results of many runs in one file: each section of a report, measured when its time came.

A section is what one subcommand measured on one level: a document of its own, with its machine,
settings, versions and commit. It is written as soon as it is measured, so that nothing is lost
where a long run ends early, and any section can be measured again alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavo.bench import document as documents
from octavo.bench.document import Document

FORMAT, VERSION = "octavo-bench-results", 1
Results = dict[str, Document]
"""Documents by :func:`key`."""

_LEVEL_ALONE = "-"  # the section of a level that cannot run here
_FIGURES = 5  # of a sample; more of them are noise


def key(isa: str, command: str | None) -> str:
    """The name of a section; ``command`` is None for a level that cannot run here."""
    return f"{isa}/{command or _LEVEL_ALONE}"


def level_of(name: str) -> str:
    """The level of a section."""
    return name.partition("/")[0]


def is_measured(document: Document) -> bool:
    """Whether every level of it was measured."""
    return all(level["status"] == "measured" for level in document["levels"])


def is_current(document: Document, settings: Mapping[str, Any], commit: str | None) -> bool:
    """Whether measuring again with these settings, at this commit, would tell nothing new."""
    same = document["settings"] == dict(settings) and document.get("commit") == commit
    return same and is_measured(document)


def read(path: Path) -> Results:
    """The sections of a file; none where there is no file yet.

    Raises:
        ValueError: it cannot be read, is no such file, or one of another version.
    """
    if not path.exists():
        return {}
    found = documents.parse(path, FORMAT, VERSION, "octavo bench report --results")
    sections: Results | None = found.get("sections")
    if not isinstance(sections, dict):
        raise ValueError(f"{path}: damaged, it has no sections; measure again")
    for name, document in sections.items():
        problems = documents.problems(document)
        if problems:
            raise ValueError(f"{path}: section {name}: {problems[0]}")
    return sections


def add(path: Path, name: str, document: Document) -> bool:
    """Puts a section into the file, in place of an older one of that name; at no time is the file
    incomplete. One that failed takes the place of none that was measured.

    Returns:
        Whether the file has it now.
    """
    sections = read(path)
    if name in sections and is_measured(sections[name]) and not is_measured(document):
        return False
    sections[name] = json.loads(json.dumps(document), parse_float=_rounded)
    lines = (f"{json.dumps(k)}:{json.dumps(v)}" for k, v in sections.items())
    head = f'{{"format": {json.dumps(FORMAT)}, "version": {VERSION}, "sections": {{\n'
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(head + ",\n".join(lines) + "\n}}\n")
    beside.replace(path)
    return True


def _rounded(text: str) -> float:
    return float(f"{float(text):.{_FIGURES}g}")
