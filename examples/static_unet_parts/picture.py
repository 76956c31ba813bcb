"""The picture: input, float mask, int8 mask, and where they differ."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from static_unet_parts.training import Batch

_COIN, _GAINED, _LOST = (0.0, 0.75, 0.65), (0.95, 0.2, 0.1), (0.2, 0.4, 1.0)
_COLOURS = 128  # of the file: a quarter of the bytes, and no difference to the eye


def _tinted(image: Tensor, mask: Tensor, colour: tuple[float, ...], strength: float) -> Tensor:
    grey = image[..., None].expand(*image.shape, 3)
    share = strength * mask[..., None]
    return (1 - share) * grey + share * torch.tensor(colour)


def _panels(image: Tensor, wanted: Tensor, got: Tensor) -> list[Tensor]:
    faint = 0.7 + 0.3 * image
    difference = _tinted(faint, (got & ~wanted).float(), _GAINED, 1)
    lost = (wanted & ~got).float()[..., None]
    return [
        _tinted(image, torch.zeros_like(image), _COIN, 0),
        _tinted(image, wanted.float(), _COIN, 0.6),
        _tinted(image, got.float(), _COIN, 0.6),
        (1 - lost) * difference + lost * torch.tensor(_LOST),
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
    across, down = 4 * images[0].shape[-1] + 50, sum(heights) + 70
    figure = Figure(figsize=(across / 100, down / 100), layout="constrained")
    axes = figure.subplots(len(rows), 4, gridspec_kw={"height_ratios": heights})
    for line, panels in zip(axes, rows, strict=True):
        for place, panel in zip(line, panels, strict=True):
            place.imshow(numpy.clip(panel.numpy(), 0, 1), interpolation="nearest")
            place.set_axis_off()
    titles = ("input", "float", "int8", "int8 only (red), float only (blue)")
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(path, optimize=True)
