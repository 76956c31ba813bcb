"""The picture: input, float mask, int8 mask, and where they differ."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from static_unet_parts.training import Batch

_COIN, _GAINED, _LOST = (0.0, 0.75, 0.65), (0.9, 0.0, 0.0), (0.0, 0.2, 1.0)
_COLOURS = 200  # of the file, which makes it small
_LEGEND = (
    "green: coin; red: in int8 only; blue: in float only (differences are drawn 3 pixels wide)"
)


def _tinted(image: Tensor, mask: Tensor, colour: tuple[float, ...], strength: float) -> Tensor:
    share = strength * mask[..., None].float()
    return (1 - share) * image + share * torch.tensor(colour)


def _wider(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0]


def _panels(image: Tensor, wanted: Tensor, got: Tensor) -> list[Tensor]:
    colours = image[..., None].expand(*image.shape, 3)
    difference = _tinted(0.6 + 0.4 * colours, _wider(got & ~wanted), _GAINED, 1)
    return [
        colours,
        _tinted(colours, wanted, _COIN, 0.6),
        _tinted(colours, got, _COIN, 0.6),
        _tinted(difference, _wider(wanted & ~got), _LOST, 1),
    ]


def save_picture(
    path: Path, model: nn.Module, int8: nn.Module, test: list[Batch], strip: Batch
) -> None:
    """A row for each of the first three test scenes, and one for the photograph of coins."""
    images = [*torch.cat([batch for batch, _ in test])[:3], strip[0][0]]
    rows = []
    for image in images:
        with torch.inference_mode():
            wanted, got = (network(image[None])[0, 0] > 0 for network in (model, int8))
        width = images[0].shape[-1]
        rows.append([panel[:, :width] for panel in _panels(image[0], wanted, got)])
    heights = [image.shape[-2] for image in images]
    across, down = 4 * images[0].shape[-1] + 50, sum(heights) + 90
    figure = Figure(figsize=(across / 100, down / 100), layout="constrained")
    axes = figure.subplots(len(rows), 4, gridspec_kw={"height_ratios": heights})
    for line, panels in zip(axes, rows, strict=True):
        for place, panel in zip(line, panels, strict=True):
            place.imshow(numpy.clip(panel.numpy(), 0, 1), interpolation="nearest")
            place.set_axis_off()
    titles = ("input", "float", "int8", "difference")
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=8)
    figure.supxlabel(_LEGEND, fontsize=6)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    few = Image.open(drawn).convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)
