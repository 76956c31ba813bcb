"""Figures of kernels.md: ``python docs/figures/kernels.py``."""

from __future__ import annotations

from typing import Any

from style import BLUE, GREEN, GREY, INK, ORANGE, arrow, bare, plt, save

SHADES = (BLUE, ORANGE, GREEN, "#7b5ea7")


def cell(axes: Any, x: float, y: float, color: str, text: str = "", *, alpha: float = 0.35) -> None:
    """One byte or one register."""
    axes.add_patch(plt.Rectangle((x, y), 0.94, 0.94, facecolor=color, alpha=alpha, edgecolor=color))
    axes.text(x + 0.47, y + 0.47, text, ha="center", va="center", fontsize=8)


def packing() -> None:
    """A weight of 4 columns and 8 k, plain and packed by four k."""
    figure, axes = plt.subplots(figsize=(8.6, 3.0), layout="constrained")
    for column in range(4):
        for k in range(8):
            cell(axes, k, 3 - column, SHADES[column], f"{column},{k}")
    axes.text(4, 4.6, "plain: a row for each output column", ha="center", fontsize=9.5)
    axes.text(-0.3, 2, "columns", rotation=90, ha="right", va="center", fontsize=9)
    axes.text(4, -0.25, "k", ha="center", va="top", fontsize=9)
    arrow(axes, (8.4, 2), (9.8, 2))
    for group in range(2):
        for column in range(4):
            for inner in range(4):
                x = 10.2 + 4.3 * column + inner
                cell(axes, x, 2.2 - 1.6 * group, SHADES[column], f"{column},{4 * group + inner}")
    axes.text(18.6, 4.6, "packed: nr = 4 columns, kr = 4", ha="center", fontsize=9.5)
    for group in range(2):
        label = f"k {4 * group} to {4 * group + 3}"
        axes.text(27.5, 2.67 - 1.6 * group, label, va="center", fontsize=9)
    axes.text(
        18.6,
        -0.25,
        "one vector: four bytes in each lane, a lane for each column",
        ha="center",
        va="top",
        fontsize=9,
        color=GREY,
    )
    axes.set(xlim=(-1.2, 31), ylim=(-1.0, 5.3))
    bare(axes)
    save(figure, "packing.svg")


def tile() -> None:
    """What the registers of a tile hold."""
    figure, axes = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    for vector in range(4):
        axes.add_patch(
            plt.Rectangle(
                (3 + 3.2 * vector, 7.3), 3, 0.94, facecolor=ORANGE, alpha=0.4, edgecolor=INK
            )
        )
        axes.text(
            4.5 + 3.2 * vector, 7.77, f"weights {vector}", ha="center", va="center", fontsize=8
        )
    for row in range(6):
        y = 5.6 - 1.1 * row
        axes.add_patch(plt.Rectangle((0, y), 2, 0.94, facecolor=GREEN, alpha=0.4, edgecolor=INK))
        axes.text(1, y + 0.47, f"row {row}: 4 bytes", ha="center", va="center", fontsize=8)
        for vector in range(4):
            x = 3 + 3.2 * vector
            axes.add_patch(plt.Rectangle((x, y), 3, 0.94, facecolor=BLUE, alpha=0.3, edgecolor=INK))
            axes.text(x + 1.5, y + 0.47, "16 sums, int32", ha="center", va="center", fontsize=8)
    arrow(axes, (2.1, 6.07), (2.95, 6.07))
    arrow(axes, (4.5, 7.25), (4.5, 6.65))
    axes.text(9.3, 8.5, "4 registers: 64 columns, 4 k each", ha="center", fontsize=9)
    axes.text(1, 6.8, "broadcast,\none at a time", ha="center", va="bottom", fontsize=9)
    axes.text(
        9.3, -0.35, "24 registers: sums of 6 rows by 64 columns", ha="center", va="top", fontsize=9
    )
    axes.set(xlim=(-0.2, 16), ylim=(-1.1, 9.2))
    bare(axes)
    save(figure, "tile.svg")


if __name__ == "__main__":
    packing()
    tile()
