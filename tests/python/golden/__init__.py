"""Golden vectors: hashes of what operators give for data that no library's arithmetic decides.

Every ISA of every architecture gives those of ``vectors.json``. From ``tests/python``:

    python -m golden            prints them as the ISA in use computes them
    python -m golden --check    compares them with vectors.json
    python -m golden --write    makes vectors.json anew

``OCTAVO_ISA`` chooses the ISA.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from golden import plain, weighted
from golden.source import digest

FILE = Path(__file__).with_name("vectors.json")
GROUPS = {group.__name__: group for group in (*weighted.CASES, *plain.CASES)}


def compute(groups: Iterable[str] = GROUPS) -> dict[str, str]:
    """Case -> hash of its results, on the ISA in use."""
    found: dict[str, str] = {}
    for group in groups:
        for name, results in GROUPS[group]():
            assert name not in found, f"two cases have the name '{name}'"
            found[name] = digest(results)
    return found


def as_text(vectors: dict[str, str]) -> str:
    """What vectors.json holds."""
    return json.dumps(vectors, indent=1) + "\n"


def on_record() -> dict[str, str]:
    """The vectors of vectors.json."""
    vectors: dict[str, str] = json.loads(FILE.read_text())
    return vectors


def differences(found: dict[str, str]) -> list[str]:
    """Cases of ``found`` that are not on record, or are with other results."""
    known = on_record()
    return [name for name, value in found.items() if known.get(name) != value]
