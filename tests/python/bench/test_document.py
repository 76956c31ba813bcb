"""The schema of documents, and what records of networks hold beside times."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from octavo.bench import document
from octavo.bench.cases import Case


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"twice: {names}"
    return dict(pairs)


def test_the_schema_says_each_thing_once() -> None:
    text = resources.files("octavo.bench").joinpath("schema.json").read_text()
    json.loads(text, object_pairs_hook=_once)


def test_memory_of_a_network_stands_beside_the_memory_that_bounds_it() -> None:
    encoded = {"kind": "model", "command": "model", "name": "resnet50 224", "threads": 1}
    case = Case.decode({**encoded, "model": "resnet50", "batch": 1, "size": 224})
    found = {"octavo": {"held": 1, "peak": 2}}
    event = {"kernel": None, "times": {}, "unavailable": {}, "layers": [], "memory": found}
    record = document.case_record(case, "avx2", event, {"threads": 1}, False)
    assert record["footprint"] == found
    assert "memory" not in record
