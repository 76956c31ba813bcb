"""Figures of performance.md, drawn from measured results.

``python docs/figures/performance.py`` reads ``bench/RESULTS.md``; ``--results results.json`` reads
what ``octavo bench report --results`` wrote on another machine.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from style import BLUE, GREEN, GREY, INK, ORANGE, RED, plt, save

from octavo.bench import results

ROOT = Path(__file__).resolve().parents[2]
SUBJECT = "octavo"
COLORS = {
    SUBJECT: BLUE,
    "bf16": GREY,
    "fbgemm": ORANGE,
    "onednn": GREEN,
    "ort": "#b08900",
    "openvino": "#7b5ea7",
}
UNLIMITED = ("ort",)  # uses all that the CPU has, on every level
KINDS = {
    "gemm": "Linear (operator)",
    "linear": "Linear (modules)",
    "conv": "convolutions",
    "rnn": "LSTM, GRU",
    "overhead": "32 to 64 features, one row",
    "normalize": "normalizations, softmax",
    "image": "pooling, upsampling, cat",
    "elementwise": "element-wise",
}


@dataclass(frozen=True)
class Case:
    """One row of the report: µs, and those of each peer that was measured."""

    isa: str
    command: str
    name: str
    octavo: float
    peers: dict[str, float]


def read_report(path: Path) -> Iterator[Case]:
    """The cases in the tables of a report."""
    isa = command = ""
    names: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            heading = re.match(r"## (\w+): (\w+),", line)
            isa, command = heading.groups() if heading else ("", "")
            names = []
        if not (isa and line.startswith("| ")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "case":
            names = [cell.replace("\\*", "") for cell in cells]
        elif SUBJECT in names and (
            case := _case(isa, command, dict(zip(names, cells, strict=True)))
        ):
            yield case


def _case(isa: str, command: str, row: dict[str, str]) -> Case | None:
    """A case; None for rows that are no times, or a rule."""
    ours = re.match(r"([\d.]+) ± ", row[SUBJECT])
    if not ours:
        return None
    found = {name: re.match(r"([\d.]+) \([\d.]+\)", cell) for name, cell in row.items()}
    peers = {name: float(match[1]) for name, match in found.items() if match}
    return Case(isa, command, row["case"], float(ours[1]), peers)


def read_results(path: Path) -> Iterator[Case]:
    """The cases of a file of sections."""
    for document in results.read(path).values():
        for case in document["cases"]:
            times = {name: each["median_us"] for name, each in case["times"].items()}
            if SUBJECT in times:
                ours = times.pop(SUBJECT)
                yield Case(case["isa"], case["command"], case["name"], ours, times)


def networks(cases: Sequence[Case]) -> None:
    """Whole networks: how many times as fast as float32 each contender is."""
    found = [c for c in cases if c.command == "model" and "fp32" in c.peers]
    levels = list(dict.fromkeys(c.isa for c in found))
    names = list(dict.fromkeys(c.name for c in found))
    figure, every = plt.subplots(
        len(levels), 1, figsize=(8.6, 1.9 * len(levels) + 0.6), sharex=True, layout="constrained"
    )
    for axes, level in zip([every] if len(levels) == 1 else every, levels, strict=True):
        mine = [c for c in found if c.isa == level]
        shown = [n for n in COLORS if n == SUBJECT or any(n in c.peers for c in mine)]
        width = 0.8 / len(shown)
        for place, name in enumerate(shown):
            points = [
                (
                    names.index(c.name) + (place - (len(shown) - 1) / 2) * width,
                    c.peers["fp32"] / time,
                )
                for c in mine
                if (time := c.octavo if name == SUBJECT else c.peers.get(name))
            ]
            axes.bar(*zip(*points, strict=True), width, color=COLORS[name], label=name)
        axes.axhline(1, color=INK, lw=0.8)
        axes.set_xticks(range(len(names)), names)
        axes.set(title=level, ylabel="times float32")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    labels = [f"{name}*" if name in UNLIMITED else name for name in COLORS]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLORS), fontsize=9)
    save(figure, "networks.svg")


def kinds(cases: Sequence[Case]) -> None:
    """Each case against float32, by what it is: where int8 helps and where it does not."""
    levels = list(dict.fromkeys(c.isa for c in cases))
    figure, axes = plt.subplots(figsize=(8.6, 4.2), layout="constrained")
    shades = (BLUE, ORANGE, GREEN, "#7b5ea7", GREY)
    for index, level in enumerate(levels):
        points = [
            (c.peers["fp32"] / c.octavo, row + 0.18 * (index - (len(levels) - 1) / 2))
            for row, kind in enumerate(KINDS)
            for c in cases
            if c.command == kind and c.isa == level and "fp32" in c.peers
        ]
        color = shades[index % len(shades)]
        axes.scatter(*zip(*points, strict=True), s=16, color=color, alpha=0.75, label=level)
    axes.axvline(1, color=RED, lw=1.2)
    axes.set(xscale="log", xlabel="float32's time / Octavo's: right of the line int8 is faster")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16, 32], ["¼", "½", "1", "2", "4", "8", "16", "32"])
    axes.set_yticks(range(len(KINDS)), KINDS.values())
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(levels), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    save(figure, "where_int8_helps.svg")


def peers(cases: Sequence[Case]) -> None:
    """Matrix products and convolutions beside other int8 libraries."""
    level = cases[0].isa
    found = [c for c in cases if c.command in ("gemm", "conv") and c.isa == level]
    figure, axes = plt.subplots(figsize=(8.6, 0.2 * len(found) + 1.4), layout="constrained")
    for name in ("fbgemm", "onednn", "ort", "openvino"):
        points = [(c.peers[name] / c.octavo, row) for row, c in enumerate(found) if name in c.peers]
        if points:
            axes.scatter(*zip(*points, strict=True), s=20, color=COLORS[name], label=name)
    axes.axvline(1, color=RED, lw=1.2)
    axes.set(
        xscale="log",
        xlabel="peer's time / Octavo's: right of the line Octavo is faster",
        title=level,
    )
    axes.set_xticks([0.5, 1, 2, 4, 8], ["½", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_yticks(range(len(found)), [f"{c.command} {c.name}" for c in found], fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    save(figure, "peers.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="a file of octavo bench report --results")
    given = parser.parse_args().results
    cases = list(read_results(given) if given else read_report(ROOT / "bench" / "RESULTS.md"))
    if not cases:
        parser.error("there are no measured cases")
    networks(cases)
    kinds(cases)
    peers(cases)


if __name__ == "__main__":
    main()
