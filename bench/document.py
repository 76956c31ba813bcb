"""Results as one JSON document. ``schema.json`` says what is in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from octavo.bench import machine
from octavo.bench.cases import Case
from octavo.bench.measure import SUBJECT

Document = dict[str, Any]

FORMAT, VERSION = "octavo-bench", 1


def new(arguments: Sequence[str], settings: Mapping[str, Any]) -> Document:
    """A document without levels, cases, notes and warnings."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": shlex.join(["octavo", "bench", *map(_without_folders, arguments)]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "settings": dict(settings),
        "levels": [],
        "cases": [],
        "notes": [],
        "warnings": [],
    }


def _without_folders(argument: str) -> str:
    """Absolute paths mean nothing to those who read a report: only their last part is kept."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    return f"{option}{equals}{path.name}" if path.is_absolute() else argument


def case_record(
    case: Case, isa: str, event: Mapping[str, Any], roofs: Mapping[str, Any], cold: bool
) -> dict[str, Any]:
    """What was measured of one case, and what follows from it."""
    times = event["times"]
    record = {
        "command": case.command,
        "kind": case.kind,
        "name": case.name,
        "isa": isa,
        "threads": case.threads,
        "parameters": case.parameters(),
        "operations": case.operations,
        "bytes": case.traffic,
        "kernel": event["kernel"],
        "times": times,
        "unavailable": event["unavailable"],
        "ratios": {},
    }
    if event.get("accuracy"):
        record["accuracy"] = event["accuracy"]
    if event.get("memory"):
        record["footprint"] = event["memory"]
    if event.get("breakdown"):
        record["breakdown"] = event["breakdown"]
    if event["layers"]:
        record["layers"] = event["layers"]
    if SUBJECT in times:
        ours = times[SUBJECT]["median_us"]
        record["ratios"] = {
            name: found["median_us"] / ours for name, found in times.items() if name != SUBJECT
        }
        record.update(_against_roofs(case, ours, roofs, cold))
    return record


def _against_roofs(
    case: Case, microseconds: float, roofs: Mapping[str, Any], cold: bool
) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    same_threads = case.threads == roofs["threads"]
    if case.operations:
        found["gops"] = 1e-3 * case.operations / microseconds
        if same_threads:
            found["fraction_of_peak"] = float(found["gops"]) / roofs["compute"]
    moved = case.weight_bytes if case.is_bandwidth_bound else case.traffic
    if moved and (case.is_bandwidth_bound or not case.operations):
        found["gbs"] = 1e-3 * moved / microseconds
        if same_threads:
            level = memory_level(moved, cold)
            kind = "read" if case.is_bandwidth_bound or case.only_reads else "copy"
            found["memory"] = level
            limit = roofs["bandwidth"][level][kind]
            found["fraction_of_bandwidth"] = float(found["gbs"]) / limit
    return found


def memory_level(size: int, cold: bool) -> str:
    """Where a working set comes from: the smallest cache that holds it, or ``DRAM``."""
    if not cold:
        for level, capacity in machine.caches().items():
            if size <= capacity:
                return level
    return "DRAM"


def write(document: Document, path: Path) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def schema() -> dict[str, Any]:
    """The JSON Schema of a document."""
    text = resources.files("octavo.bench").joinpath("schema.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def problems(document: Any) -> list[str]:
    """What a document has that its schema does not allow; empty where it is valid.

    Raises:
        ModuleNotFoundError: without the package jsonschema.
    """
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(schema()).iter_errors(document), key=lambda e: e.json_path)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def read(path: Path) -> Document:
    """A document from a file.

    Raises:
        ValueError: the file cannot be read, is no such document, or one of another version.
    """
    document = parse(path, FORMAT, VERSION, "octavo bench --json")
    found = problems(document)
    if found:
        raise ValueError(
            f"{path}: {found[0]}" + (f" (and {len(found) - 1} more)" * (len(found) > 1))
        )
    return document


def parse(path: Path, wanted: str, version: int, writer: str) -> dict[str, Any]:
    """The JSON object in a file that says of itself which format it has, in which version.

    Args:
        writer: the command whose files have this format.

    Raises:
        ValueError: the file cannot be read, has another format, or another version of it.
    """
    try:
        found: Any = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # neither JSON, nor text perhaps
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != wanted:
        raise ValueError(f"{path}: not written by `{writer}`")
    if found.get("version") != version:
        raise ValueError(
            f"{path}: version {found.get('version')} of the format, this program reads {version}; "
            "measure again"
        )
    return found
