"""What the model said last of each inner loop: a file beside this one, which the report shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from octavo.bench import document as documents
from octavo.bench import machine
from octavo.bench.throughput import mca
from octavo.bench.throughput.kernels import CPUS, KERNELS, Kernel
from octavo.bench.throughput.loops import main_loop
from octavo.bench.throughput.mca import Timing

FORMAT, VERSION = "octavo-bench-throughput", 1
PATH = Path(__file__).with_name("record.json")
_COMPILER = re.compile(rb"GCC: \([^)\0]*\) [\d.]+|clang version [\d.]+")
_LEVEL = re.compile(r"octavo_isa_(\w+)\.dir")


@dataclass(frozen=True)
class Entry:
    """One loop.

    Attributes:
        level, what: as of :class:`Kernel`.
        function: the one that the loop is in.
        macs, stored_bytes, counts: of one iteration, as of :class:`loops.Loop`.
        timings: by CPU.
        made: day, commit of the sources, LLVM's release and compiler.
    """

    level: str
    what: str
    function: str
    macs: int
    stored_bytes: int
    counts: dict[str, int]
    timings: dict[str, Timing]
    made: dict[str, str]

    @property
    def instructions(self) -> int:
        return sum(self.counts.values())


def objects(folders: Iterable[Path]) -> dict[str, Path]:
    """Level -> object file of its kernels, the newest of those below the folders of builds.

    Raises:
        ValueError: a folder has none.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        here = sorted(folder.rglob("octavo_isa_*.dir/**/table.cpp.o"))
        if not here:
            raise ValueError(
                f"--objects {folder}: no object files of kernels below it; build first"
            )
        for path in here:
            match = _LEVEL.search(str(path))
            level = match[1] if match else ""
            older = found.get(level)
            if older is None or older.stat().st_mtime < path.stat().st_mtime:
                found[level] = path
    return found


def examine(files: dict[str, Path], kernels: Sequence[Kernel] = KERNELS) -> list[Entry]:
    """What the model says of those kernels that the files have.

    Raises:
        ValueError: LLVM's tools are missing, or refuse a file.
    """
    found = []
    for level, path in files.items():
        wanted = [kernel for kernel in kernels if kernel.level == level]
        if not wanted:
            continue
        architecture, functions = mca.disassemble(path)
        made = _provenance(path)
        for kernel in wanted:
            loops = [main_loop(one) for one in functions if kernel.matches(one.name)]
            known = [loop for loop in loops if loop is not None]
            if not known:
                continue
            loop = max(known, key=lambda one: (one.macs, one.stored_bytes))
            timings = {cpu: mca.time_loop(loop, architecture, cpu) for cpu in CPUS[level]}
            entry = Entry(
                *(level, kernel.what, loop.function, loop.macs, loop.stored_bytes),
                *(loop.counts, timings, made),
            )
            found.append(entry)
    return found


def missing(
    files: dict[str, Path], entries: Sequence[Entry], kernels: Sequence[Kernel] = KERNELS
) -> list[str]:
    """Kernels of the files' levels that the model found no loop of."""
    found = {(entry.level, entry.what) for entry in entries}
    wanted = [(one.level, one.what) for one in kernels if one.level in files]
    return [f"{level}: {what}" for level, what in wanted if (level, what) not in found]


def _provenance(path: Path) -> dict[str, str]:
    compiler = _COMPILER.search(path.read_bytes())
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds")[:10],
        "commit": _commit(path) or "unknown",
        "llvm": mca.version(),
        "compiler": compiler[0].decode() if compiler else "unknown",
    }


def _commit(path: Path) -> str | None:
    """Of the sources that CMake built an object file from."""
    for folder in path.parents:
        cache = folder / "CMakeCache.txt"
        if cache.exists():
            found = re.search(r"(?m)^CMAKE_HOME_DIRECTORY:\w+=(.+)$", cache.read_text())
            return machine.commit_of(Path(found[1])) if found else None
    return None


def read(path: Path | None = None) -> list[Entry]:
    """The entries on record (in another file: ``path``), in the order of ``KERNELS``; none where
    there is no file.

    Raises:
        ValueError: the file is something else.
    """
    path = path or PATH
    if not path.exists():
        return []
    found = documents.parse(path, FORMAT, VERSION, "octavo bench throughput --keep")
    try:
        return _ordered([_entry(one) for one in found["loops"]])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error!r}); run the model again") from None


def _entry(found: dict[str, Any]) -> Entry:
    timings = {cpu: Timing(**one) for cpu, one in found["timings"].items()}
    return Entry(**{**found, "timings": timings})


def keep(entries: Sequence[Entry], path: Path | None = None) -> None:
    """Puts entries on record in place of older ones of the same loops; others stay."""
    merged = {(one.level, one.what): one for one in [*read(path), *entries]}
    loops = [asdict(one) for one in _ordered(merged.values())]
    document = {"format": FORMAT, "version": VERSION, "loops": loops}
    (path or PATH).write_text(json.dumps(document, indent=1) + "\n")


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    places = [(kernel.level, kernel.what) for kernel in KERNELS]

    def place(entry: Entry) -> int:
        key = (entry.level, entry.what)
        return places.index(key) if key in places else len(places)

    return sorted(entries, key=place)
