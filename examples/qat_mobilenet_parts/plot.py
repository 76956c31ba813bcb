"""The picture of accuracy over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Line = tuple[int, Sequence[float]]


def draw(path: Path, curves: Mapping[str, Line], levels: Mapping[str, float], title: str) -> None:
    """Writes a PNG.

    Args:
        path: of the file.
        curves: label -> the epoch of its first point, and percent after each epoch.
        levels: label -> percent, drawn as a dashed line.
        title: above the picture.
    """
    figure, axes = pyplot.subplots(figsize=(7.2, 4.0))
    for number, (label, (start, values)) in enumerate(curves.items()):
        at = range(start, start + len(values))
        axes.plot(at, values, marker="o", markersize=3, color=f"C{number}", label=label)
    for number, (label, value) in enumerate(levels.items(), start=len(curves)):
        text = f"{label}: {value:.1f} %"
        axes.axhline(value, linestyle="--", linewidth=1.2, color=f"C{number}", label=text)
    lowest = min([*levels.values(), 90.0])
    axes.set_ylim(max(lowest - 4.0, 0.0), 100.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
