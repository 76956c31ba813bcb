"""A document as a picture: rooflines beside ratios to each peer, and the layers of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavo.bench import timing
from octavo.bench.document import Document
from octavo.bench.measure import SUBJECT

_MOST_BARS = 40  # cases shown by themselves; beyond, geometric means of each subcommand


def write(document: Document, path: Path) -> None:
    """PNG or SVG, by the name's ending.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    levels = [level for level in document["levels"] if level["status"] == "measured"]
    bars = _bars(document)
    height = max(5.0, 0.25 * len(bars) + 2.0)
    networks = [case for case in document["cases"] if case.get("layers")]
    rows = ["ab", "cc"] if networks else ["ab"]
    below = 0.6 * len(networks) + 1.5
    figure, axes = pyplot.subplot_mosaic(
        [list(row) for row in rows],
        figsize=(15, height + (below if networks else 0.0)),
        height_ratios=[height, below][: len(rows)],
        layout="constrained",
    )
    try:
        _rooflines(axes["a"], document, levels)
        _ratios(axes["b"], bars, document["settings"]["peers"])
        if networks:
            _layers(axes["c"], networks)
        figure.suptitle(f"{document['machine']['cpu']}, {document['settings']['threads']} threads")
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def _rooflines(axes: Any, document: Document, levels: list[dict[str, Any]]) -> None:
    """Measured points of each level under its arithmetic roof and the bandwidths of memories."""
    points = [case for case in document["cases"] if case.get("gops") and case["bytes"]]
    intensities = [case["operations"] / case["bytes"] for case in points] or [1.0, 100.0]
    low, high = min(intensities) / 4, max(intensities) * 4
    for index, level in enumerate(levels):
        color = f"C{index}"
        compute = level["roofs"]["compute"]
        axes.plot([low, high], [compute, compute], color=color, label=f"{level['isa']}: peak")
        mine = [case for case in points if case["isa"] == level["isa"]]
        axes.plot(
            [case["operations"] / case["bytes"] for case in mine],
            [case["gops"] for case in mine],
            "o",
            color=color,
            label=f"{level['isa']}: measured",
        )
    if levels:
        top = max(level["roofs"]["compute"] for level in levels)
        for place, style in zip(
            levels[0]["roofs"]["bandwidth"], ("-.", "--", ":", (0, (1, 4))), strict=False
        ):
            rate = max(level["roofs"]["bandwidth"][place]["read"] for level in levels)
            end = min(high, max(top / rate, low))
            axes.plot(
                [low, end],
                [low * rate, end * rate],
                linestyle=style,
                color="grey",
                label=f"reading {place}: {rate:.0f} GB/s",
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations a byte",
        ylabel="GOP/s",
        title="Octavo under the measured limits",
    )
    axes.legend(fontsize="small")
    axes.grid(True, which="both", alpha=0.3)


def _bars(document: Document) -> list[tuple[str, dict[str, float]]]:
    """(label, peer -> ratio) for each case, or for each level and subcommand where they are
    many."""
    cases = [case for case in document["cases"] if case["ratios"]]
    if len(cases) <= _MOST_BARS:
        return [(f"{c['isa']} {c['command']} {c['name']}", c["ratios"]) for c in cases]
    groups: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        groups.setdefault(f"{case['isa']} {case['command']}", []).append(case["ratios"])
    bars = []
    for label, ratios in groups.items():
        peers = {name for each in ratios for name in each}
        means = {
            name: timing.geometric_mean([each[name] for each in ratios if name in each])
            for name in peers
        }
        bars.append((f"{label}, geometric mean", means))
    return bars


def _ratios(axes: Any, bars: list[tuple[str, dict[str, float]]], peers: list[str]) -> None:
    shown = [name for name in peers if any(name in ratios for _, ratios in bars)]
    thickness = 0.8 / max(1, len(shown))
    for index, name in enumerate(shown):
        places = [row + index * thickness for row, (_, ratios) in enumerate(bars) if name in ratios]
        values = [ratios[name] for _, ratios in bars if name in ratios]
        axes.barh(places, [value - 1.0 for value in values], thickness, left=1.0, label=name)
    middle = 0.4 - thickness / 2
    axes.set_yticks([row + middle for row in range(len(bars))], [label for label, _ in bars])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="peer's time / Octavo's", title="Above 1, Octavo is faster")
    axes.tick_params(axis="y", labelsize="x-small")
    axes.invert_yaxis()
    if shown:
        axes.legend(fontsize="small")


def _layers(axes: Any, networks: list[dict[str, Any]]) -> None:
    """Where the time of each network goes: its layers, slowest first, by type; then the rest."""
    types = sorted({layer["type"] for case in networks for layer in case["layers"]})
    colors = {name: f"C{index % 10}" for index, name in enumerate(types)}
    hatches = {name: "//" if index >= 10 else "" for index, name in enumerate(types)}
    for row, case in enumerate(networks):
        left = 0.0
        for layer in case["layers"]:
            width = 1e-3 * layer["median_us"]
            kind = layer["type"]
            axes.barh(
                row,
                width,
                0.7,
                left=left,
                color=colors[kind],
                hatch=hatches[kind],
                edgecolor="white",
                linewidth=0.3,
            )
            left += width
        rest = 1e-3 * case["times"][SUBJECT]["median_us"] - left
        if rest > 0.0:
            axes.barh(row, rest, 0.7, left=left, color="lightgrey")
    for kind in types:
        axes.barh(0, 0.0, color=colors[kind], hatch=hatches[kind], label=kind)
    axes.barh(0, 0.0, color="lightgrey", label="between layers")
    axes.set_yticks(range(len(networks)), [f"{c['isa']} {c['name']}" for c in networks])
    axes.set(xlabel="ms", title="Octavo's time in each layer, slowest first")
    axes.invert_yaxis()
    axes.legend(fontsize="small", ncols=2)
