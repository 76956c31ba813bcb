"""Figures of how-int8-works.md: ``python docs/figures/how_int8_works.py``."""

from __future__ import annotations

from typing import Any

import torch
from style import BLUE, GREEN, GREY, INK, ORANGE, RED, arrow, bare, box, plt, save

import octavo
import octavo.quantization as tq


def affine() -> None:
    """An interval on the levels of uint8 and of int8."""
    figure, axes = plt.subplots(2, 1, figsize=(8, 3.4), layout="constrained")
    cases = (
        ("asymmetric: the levels 0 to 255 for -2 to 6", -2.0, 6.0, 64, 0, BLUE),
        (
            "symmetric: -127 to 127 for -6 to 6; a third of the levels is never used",
            -6,
            6,
            0,
            -127,
            ORANGE,
        ),
    )
    for axis, (title, low, high, zero, first, color) in zip(axes, cases, strict=True):
        last = first + (255 if first == 0 else 254)
        scale = (high - low) / (last - first)
        for level in range(first, last + 1, 4):
            value = (level - zero) * scale
            used = -2.0 <= value <= 6.0
            axis.plot(
                [value] * 2,
                [0, 0.35],
                color=color if used else GREY,
                lw=1,
                alpha=1 if used else 0.5,
            )
        axis.plot([-2, 6], [0.62, 0.62], color=INK, lw=5, solid_capstyle="butt")
        axis.text(2, 0.72, "values of the tensor", ha="center", va="bottom", fontsize=9)
        for level in (first, zero, last):
            value = (level - zero) * scale
            axis.plot([value] * 2, [0, 0.45], color=RED if level == zero else INK, lw=2)
            label = f"{level}\nzero point" if level == zero else str(level)
            axis.text(value, -0.08, label, ha="center", va="top", fontsize=9)
        axis.set(xlim=(-6.4, 6.4), ylim=(-0.6, 1.1), title=title)
        bare(axis)
    save(figure, "affine.svg")


def granularity() -> None:
    """Which elements share a scale."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.7), layout="constrained")
    shades = [BLUE, ORANGE, GREEN, "#7b5ea7", "#b08900", RED]
    titles = (
        "per tensor\none scale",
        "per channel (weights)\na scale for each output",
        "per row (dynamic)\na scale for each token",
    )
    for kind, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        rows, columns = (5, 8) if kind != 1 else (6, 8)
        for row in range(rows):
            for column in range(columns):
                color = shades[0] if kind == 0 else shades[row]
                axis.add_patch(
                    plt.Rectangle(
                        (column, -row), 0.9, 0.9, facecolor=color, alpha=0.35, edgecolor=color
                    )
                )
            if kind:
                axis.text(columns + 0.15, -row + 0.45, f"s{row}", va="center", fontsize=9)
        if kind == 0:
            axis.text(columns + 0.15, -1.6, "s", va="center", fontsize=9)
        axis.text(
            columns / 2,
            -rows + 0.75,
            ("features", "inputs", "features")[kind],
            ha="center",
            va="top",
            fontsize=9,
        )
        axis.text(
            -0.25,
            -rows / 2 + 1,
            ("rows", "outputs", "tokens")[kind],
            rotation=90,
            ha="center",
            va="center",
            fontsize=9,
        )
        axis.set(xlim=(-0.8, columns + 1.2), ylim=(-rows - 0.2, 1.1), title=title, aspect="equal")
        bare(axis)
    save(figure, "granularity.svg")


def layer() -> None:
    """From bytes to bytes."""
    figure, axes = plt.subplots(figsize=(8.6, 2.9), layout="constrained")
    box(axes, 0, 2.1, 1.9, 0.9, "activations\nuint8 qx, (sx, zx)")
    box(axes, 0, 0.4, 1.9, 0.9, "weights\nint8 qw, sw[n]")
    box(axes, 2.7, 1.2, 2.2, 1.0, "Σ qx · qw\nexact, int32", color="#f6e3d0")
    box(axes, 2.7, 2.75, 2.2, 0.7, "starts at -zx · Σ qw", size=9)
    box(axes, 5.7, 1.2, 2.2, 1.0, "requantization\nfloat32, fixed order", color="#dff0e2")
    box(axes, 5.7, 2.75, 2.2, 0.7, "+ b/(sx·sw), · sx·sw/sy", size=9)
    box(axes, 5.7, -0.1, 2.2, 0.7, "ReLU: lower bound = zy", size=9)
    box(axes, 8.7, 1.2, 1.9, 1.0, "outputs\nuint8 qy, (sy, zy)")
    for start, end in (
        ((1.9, 2.4), (2.7, 1.95)),
        ((1.9, 1.0), (2.7, 1.45)),
        ((3.8, 2.75), (3.8, 2.2)),
        ((4.9, 1.7), (5.7, 1.7)),
        ((6.8, 2.75), (6.8, 2.2)),
        ((6.8, 0.6), (6.8, 1.2)),
        ((7.9, 1.7), (8.7, 1.7)),
    ):
        arrow(axes, start, end)
    axes.text(3.8, 0.95, "all of the work", ha="center", va="top", fontsize=9, color=GREY)
    axes.set(xlim=(-0.1, 10.7), ylim=(-0.3, 3.6))
    bare(axes)
    save(figure, "layer.svg")


def saturation() -> None:
    """Sums of two products against what 16 bits hold."""
    generator = torch.Generator().manual_seed(0)
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 2.9), sharey=True, layout="constrained")
    for axis, highest in zip(axes, (255, 127), strict=True):
        a = torch.randint(0, highest + 1, (200_000, 2), generator=generator)
        w = torch.randint(-128, 128, (200_000, 2), generator=generator)
        pairs = (a * w).sum(1).numpy()
        outside = float(((pairs > 32767) | (pairs < -32768)).mean())
        _, edges, bars = axis.hist(pairs, bins=66, range=(-66000, 66000), color=BLUE)
        for edge, bar in zip(edges, bars, strict=False):
            if edge >= 32767 or edge < -32768 - 1000:
                bar.set_facecolor(RED)
        for limit in (-32768, 32767):
            axis.axvline(limit, color=RED, lw=1.2, ls="--")
        axis.set(
            title=f"activations 0 to {highest}: {outside:.0%} of the pairs saturate",
            xlabel="a0·w0 + a1·w1",
            yticks=[],
        )
        axis.set_xticks([-65280, -32768, 0, 32767, 65280])
        axis.tick_params(axis="x", labelsize=8)
        axis.spines["left"].set_visible(False)
    save(figure, "saturation.svg")


def observers() -> None:
    """What observers choose where a few values lie far out."""
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    values[:40] *= 12
    figure, axes = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    axes.hist(values.numpy(), bins=200, color="#8fb0d6", edgecolor="none", log=True)
    choices: tuple[Any, ...] = (
        tq.MinMaxObserver(dtype=octavo.quint8),
        tq.HistogramObserver(dtype=octavo.quint8),
        tq.MSEObserver(dtype=octavo.quint8),
        tq.PercentileObserver(percentile=99.99, dtype=octavo.quint8),
    )
    for index, (observer, color) in enumerate(
        zip(choices, (GREY, BLUE, GREEN, ORANGE), strict=True)
    ):
        observer(values)
        scale, zero = (float(x) for x in observer.calculate_qparams())
        low, high = -zero * scale, (255 - zero) * scale
        height = 10 ** (4.7 + 0.45 * index)
        axes.plot([low, high], [height] * 2, color=color, lw=3)
        name = type(observer).__name__
        axes.text(
            high + 0.4, height, f"{name}: step {scale:.3f}", va="center", fontsize=9, color=color
        )
    axes.set(xlim=(-32, 40), ylim=(0.7, 10**6.6), xlabel="value", ylabel="count of 200 000")
    axes.set_yticks([1, 10, 100, 1000, 10_000])
    save(figure, "observers.svg")


def fake_quantize() -> None:
    """A staircase of few levels, and the gradient that stands for its own."""
    scale, low, high = 0.25, -2, 5
    x = torch.linspace(-1.2, 2.0, 641, requires_grad=True)
    y = torch.fake_quantize_per_tensor_affine(x, scale, 0, low, high)
    y.sum().backward()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    values = x.detach().numpy()
    axes[0].plot(values, values, color=GREY, lw=1, ls="--", label="x")
    axes[0].plot(values, y.detach().numpy(), color=BLUE, lw=2, label="rounded to levels")
    axes[0].set(title="forward: 8 levels, step 0.25", xlabel="x")
    axes[0].legend(loc="upper left", fontsize=9)
    axes[1].plot(values, x.grad.numpy(), color=ORANGE, lw=2)
    axes[1].set(title="gradient: 1 inside, 0 where it saturates", xlabel="x", ylim=(-0.1, 1.3))
    save(figure, "fake_quantize.svg")


if __name__ == "__main__":
    affine()
    granularity()
    layer()
    saturation()
    observers()
    fake_quantize()
