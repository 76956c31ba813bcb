"""The throughput model's entries as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from octavo.bench.report.text import Section, number
from octavo.bench.throughput.kernels import MAIN_TILE
from octavo.bench.throughput.mca import Timing
from octavo.bench.throughput.published import PUBLISHED, Published
from octavo.bench.throughput.record import Entry

TITLES = (
    "Throughput model of inner loops, for CPUs that were not at hand",
    "Throughput model of rows of bytes",
)
TARGET = 0.85
_EXPLANATION = [
    "Not measured: inner loops from the disassembly, by LLVM's scheduling models (llvm-mca): "
    "data in the first-level cache and no mispredicted jump.",
    "Ideal: the loop's multiply-accumulate instructions alone (and the pairwise additions of "
    "16-bit products), each independent of the others. Main tiles should reach "
    f"{100 * TARGET:.0f} %.",
    "LLVM has no model of its own for cortex-a72 and cortex-a76, for which it takes the one of "
    "cortex-a57, three instructions wide, nor for apple-m1: Cyclone's, with three vector pipes.",
    "Instructions: multiply-accumulate and pairwise additions + loads + stores + other vector ones "
    "+ scalar ones, of one iteration. A loop with branches is counted with all its paths, which is "
    "more than what runs: so depthwise, whose loops hold the requantization too. Products with "
    "padding count: some of depthwise, and with SMMLA half of those of one row.",
    "KleidiAI's loops take activations that were packed before, XNNPACK's signed ones; Octavo's "
    "and QNNPACK's take rows of uint8 as they are.",
]
_CHECK = (
    "avx512_vnni is here as a check of the model: compare `of ideal` with `of peak` where gemm was "
    "measured. Of znver4, LLVM says that a product of 512 bits takes two cycles, which is twice "
    "what CPUs of that family need."
)
_GEMM = [
    *("level", "inner loop", "MACs", "instructions", "per MAC", "CPU", "cycles", "MACs / cycle"),
    *("ideal", "of ideal"),
]
_ROWS = [
    "level",
    "inner loop",
    "bytes",
    "instructions",
    "per byte",
    "CPU",
    "cycles",
    "bytes / cycle",
]


def sections(entries: Sequence[Entry]) -> list[Section]:
    """Loops that multiply, with those of other libraries below ours, then those of rows of bytes;
    nothing where nothing is on record."""
    if not entries:
        return []
    first = Section(TITLES[0], _GEMM)
    levels = list(dict.fromkeys(entry.level for entry in entries))
    for level in levels:
        for entry in entries:
            if entry.level == level and entry.macs:
                first.rows += _rows(level, entry.what, entry.macs, entry.counts, entry.timings)
        for other in PUBLISHED:
            if other.level == level:
                first.rows += _rows(level, _name(other), other.macs, other.counts, other.timings)
    first.lines = [
        *_EXPLANATION,
        *[_CHECK] * ("avx512_vnni" in levels),
        *_sources(levels),
        *_below(entries),
        *_made(entries),
    ]
    second = Section(TITLES[1], _ROWS)
    for entry in entries:
        if not entry.macs:
            second.rows += _byte_rows(entry)
    return [first, second] if second.rows else [first]


def _rows(
    level: str, what: str, macs: int, counts: Mapping[str, int], timings: Mapping[str, Timing]
) -> list[list[str]]:
    total = sum(counts.values())
    rows = []
    for cpu, timing in timings.items():
        speeds = [number(timing.cycles), number(macs / timing.cycles), number(macs / timing.ideal)]
        start = [level, what, str(macs), _sum(counts), f"{total / macs:.3f}"]
        rows.append([*start, cpu, *speeds, f"{100 * timing.fraction:.0f} %"])
    return rows


def _byte_rows(entry: Entry) -> list[list[str]]:
    rows = []
    for cpu, timing in entry.timings.items():
        work = entry.stored_bytes
        start = [entry.level, entry.what, str(work), _sum(entry.counts)]
        per_byte = number(entry.instructions / work)
        rows.append([*start, per_byte, cpu, number(timing.cycles), number(work / timing.cycles)])
    return rows


def _sum(counts: Mapping[str, int]) -> str:
    parts = [str(counts[kind]) for kind in ("arithmetic", "load", "store", "vector", "scalar")]
    return f"{sum(counts.values())} = {' + '.join(parts)}"


def _name(loop: Published) -> str:
    """The library and its tile."""
    return f"{loop.library} {loop.tile}"


def _sources(levels: Sequence[str]) -> list[str]:
    found = [
        f"{_name(loop)} ({loop.level}): {loop.file} at {loop.commit}"
        for loop in PUBLISHED
        if loop.level in levels
    ]
    return [f"Read in: {'; '.join(found)}."] if found else []


def _below(entries: Sequence[Entry]) -> list[str]:
    """Main tiles that miss the target."""
    found = [
        f"{entry.level} on {cpu}: {100 * timing.fraction:.0f} %"
        for entry in entries
        if entry.what == MAIN_TILE
        for cpu, timing in entry.timings.items()
        if timing.fraction < TARGET
    ]
    return [f"Main tiles below {100 * TARGET:.0f} %: {', '.join(found) or 'none'}."]


def _made(entries: Sequence[Entry]) -> list[str]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        made = entry.made
        how = (
            f"{made['created']} from sources at commit {made['commit']}, LLVM {made['llvm']}, "
            f"compiled by {made['compiler']}"
        )
        if entry.level not in found.setdefault(how, []):
            found[how].append(entry.level)
    return [f"Modelled {how}: {', '.join(levels)}." for how, levels in found.items()]
