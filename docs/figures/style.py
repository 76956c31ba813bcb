"""How figures of the documentation look, and how they are written: SVG whose bytes are the same
each time, with text as text, on a light card, so that they can be read on light and on dark
pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, RED, GREY = "#1f5fa8", "#d9730d", "#2e8540", "#b3261e", "#70757a"
INK, CARD, PALE = "#202124", "#fbfbf9", "#dce6f2"

plt.rcParams.update(
    {
        "axes.edgecolor": INK,
        "axes.facecolor": CARD,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "figure.facecolor": CARD,
        "font.family": "sans-serif",
        # Text is measured with the first one; the second one is as wide, and others are narrower.
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "font.size": 10,
        "legend.frameon": False,
        "savefig.facecolor": CARD,
        "svg.fonttype": "none",
        "svg.hashsalt": "octavo",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def bare(axes: Any) -> None:
    """Takes the axes away, for diagrams."""
    axes.set_axis_off()


def box(
    axes: Any,
    left: float,
    bottom: float,
    width: float,
    height: float,
    text: str,
    *,
    color: str = PALE,
    size: float = 9.5,
) -> None:
    """A rectangle with text in its middle."""
    axes.add_patch(
        plt.Rectangle((left, bottom), width, height, facecolor=color, edgecolor=INK, linewidth=1)
    )
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points of a diagram."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2})


def save(figure: Any, name: str) -> Path:
    """Writes ``name`` beside this file, and says how large it is."""
    path = HERE / name
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.12)
    plt.close(figure)
    # Matplotlib ends lines with blanks, which editors and checks of whitespace would change.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    print(f"{path.name}: {path.stat().st_size // 1024} kB")
    return path
