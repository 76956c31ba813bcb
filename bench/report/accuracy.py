"""The section of a document that says how good quantized models are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from octavo.bench.accuracy.metrics import HEADINGS
from octavo.bench.accuracy.settings import DEFAULTS
from octavo.bench.measure import SUBJECT

Record = dict[str, Any]


def headings(peers: Sequence[str]) -> list[str]:
    return ["case", "", SUBJECT, *peers]


def rows(records: Sequence[Record], peers: Sequence[str], nothing: str) -> list[list[str]]:
    """One for each case and metric."""
    found = []
    for record in records:
        title = record["name"]
        for key, (heading, digits) in HEADINGS.items():
            scores = record["accuracy"]
            if not any(key in scores[name] for name in scores):
                continue
            values = [scores.get(name, {}).get(key) for name in (SUBJECT, *peers)]
            cells = [nothing if value is None else f"{value:.{digits}f}" for value in values]
            found.append([title, heading, *cells])
            title = ""
    return found


def lines(records: Sequence[Record], peers: Sequence[str]) -> list[str]:
    """How far Octavo is from each peer: with the same settings, and each with its own defaults."""
    found = []
    for name in peers:
        gains: dict[bool, list[float]] = {False: [], True: []}
        for record in records:
            ours, theirs = (
                record["accuracy"].get(who, {}).get("sqnr_db") for who in (SUBJECT, name)
            )
            if ours is not None and theirs is not None:
                is_default = record["parameters"]["settings"] == DEFAULTS
                gains[is_default].append(ours - theirs)
        if gains[False] and gains[True]:
            found.append(
                f"Octavo's SQNR less that of {name}: {_range(gains[False])} with the same "
                f"settings, {_range(gains[True])} with the defaults of each."
            )
    return found


def _range(values: Sequence[float]) -> str:
    return f"{min(values):+.2f} to {max(values):+.2f} dB"
