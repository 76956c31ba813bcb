"""Figures of debugging-accuracy.md: ``python docs/figures/debugging_accuracy.py``."""

from __future__ import annotations

import torch
from style import BLUE, ORANGE, plt, save
from torch import Tensor, nn

import octavo.quantization as tq


def outlier_channels() -> None:
    """What each channel behind a LayerNorm uses of the 256 levels that all share."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    model.eval()
    with torch.no_grad():
        model[0].weight[::16] *= 40
        model[1].weight[:, ::16] /= 10
    data = torch.randn(512, 64)
    even = tq.input_weight_equalization(model, [data])
    figure, every = plt.subplots(1, 2, figsize=(8.4, 2.8), sharey=True, layout="constrained")
    titles = ("as it is", "equalized")
    for axes, each, title, color in zip(every, (model, even), titles, (ORANGE, BLUE), strict=True):
        levels = _levels(each[0](data).detach())
        axes.bar(range(64), levels.tolist(), color=color, width=0.8)
        median = float(levels.median())
        axes.axhline(median, color="#202124", lw=1, ls="--")
        axes.text(63, median + 8, f"median {median:.0f}", ha="right", fontsize=9)
        axes.set(title=title, xlabel="channel", ylim=(0, 256))
    every[0].set_ylabel("levels used, of 256")
    save(figure, "outlier_channels.svg")


def _levels(x: Tensor) -> Tensor:
    """How many levels of one scale for all lie in the range of each channel."""
    scale = (x.max() - x.min()) / 255
    return (x.amax(0) - x.amin(0)) / scale


if __name__ == "__main__":
    outlier_channels()
