"""Results of many runs as one Markdown page, on which each section says when, where and of what it
was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavo.bench import levels
from octavo.bench.document import Document
from octavo.bench.report import markdown, text
from octavo.bench.results import Results, is_measured, level_of
from octavo.bench.throughput import record

_HEADER = """# Measured results

Written by `octavo bench render`; `octavo bench report --results results.json` measures the same on
your own machine, section by section, and `octavo bench render results.json` writes this page.

"""


def write(results: Results, path: Path) -> None:
    path.write_text(render(results))


def render(results: Results) -> str:
    """The whole page."""
    ordered = _ordered(results)
    newest = _newest_levels(ordered)
    parts = [_HEADER + markdown.EXPLANATION]
    peers = text.peer_lines(newest)
    if peers:
        title = "## Peers that are missing or do not keep to a level\n\n"
        parts.append(title + markdown.bullets(peers))
    limits = text.roofs(newest)
    if limits:
        parts += [f"## {limits.title}", markdown.table(limits)]
    for document in ordered.values():
        parts += _section(document)
    parts += markdown.throughput_parts(record.read())
    absent = text.absent_lines(newest)
    if absent:
        parts.append("## Not measured\n\n" + markdown.bullets(absent))
    return "\n\n".join(parts) + "\n"


def provenance(document: Document) -> str:
    """When, at which commit, how and where a section was measured, in a line."""
    machine, settings, versions = (document[key] for key in ("machine", "settings", "versions"))
    rounds, threads = settings["rounds"], settings["threads"]
    how = [f"{rounds} rounds", f"{threads} thread" + "s" * (threads > 1)]
    how += ["weights from memory (cold)"] * settings["cold"]
    how += ["a quick run, whose figures mean nothing"] * settings["quick"]
    packages = [f"{name} {found}" for name, found in versions.items() if found and name != "octavo"]
    features = ", ".join(machine["features"]) or "no features that matter"
    return (
        f"Measured {document['created'][:10]} at commit {document.get('commit') or 'unknown'}: "
        f"{', '.join(how)}; {machine['cpu']}, {machine['cores']} cores ({features}); "
        f"{', '.join(packages)}."
    )


def _section(document: Document) -> list[str]:
    """Its tables, the first with where it comes from, and what there is to say about it."""
    found = text.sections(document)
    parts: list[str] = []
    for index, section in enumerate(found):
        parts += [f"{'###' if index else '##'} {section.title}"]
        parts += [] if index else [markdown.bullets([provenance(document)])]
        parts.append(markdown.table(section))
        if section.lines:
            parts.append(markdown.bullets(section.lines))
    lines = [f"{note}" for note in document["notes"]]
    lines += [f"Warning: {warning}" for warning in document["warnings"]]
    return [*parts, markdown.bullets(lines)] if found and lines else parts


def _ordered(results: Results) -> Results:
    """By level, best first, then by the order of ``--help``."""
    from octavo.bench.commands import all_commands

    known, commands = levels.known(), list(all_commands())

    def place(name: str) -> tuple[int, int]:
        isa, _, command = name.partition("/")
        last = len(known), len(commands)
        return (
            known.index(isa) if isa in known else last[0],
            commands.index(command) if command in commands else last[1],
        )

    return {name: results[name] for name in sorted(results, key=place)}


def _newest_levels(results: Results) -> Document:
    """Each level as it was found last."""
    newest: dict[str, Document] = {}
    for name, document in results.items():
        isa = level_of(name)
        rank = (is_measured(document), document["created"])
        kept = newest.get(isa)
        if kept is None or rank > (is_measured(kept), kept["created"]):
            newest[isa] = document
    found: list[Any] = [level for document in newest.values() for level in document["levels"]]
    return {"levels": found}
