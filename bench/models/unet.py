"""U-Net (Ronneberger et al., 2015) with 32 channels at the top, padded, with batch norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from octavo.bench.models.parts import Parts

_WIDTHS = (32, 64, 128, 256, 512)


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Images (N, 3, H, W) to one score a pixel, (N, 1, H, W); H and W multiples of 16."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.quant, self.dequant = parts.quant(), parts.dequant()
        self.down = nn.ModuleList(
            _double(inputs, outputs)
            for inputs, outputs in zip((3, *_WIDTHS[:-1]), _WIDTHS, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.join: Any
        upward = list(zip(_WIDTHS[:0:-1], _WIDTHS[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(wide, w, 2, 2) for wide, w in upward)
        self.up = nn.ModuleList(_double(wide, w) for wide, w in upward)
        self.join = nn.ModuleList(parts.functional() for _ in upward)
        self.classes = nn.Conv2d(_WIDTHS[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        skips = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for grow, join, block in zip(self.grow, self.join, self.up, strict=True):
            x = block(join.cat([skips.pop(), grow(x)], 1))
        out: Tensor = self.dequant(self.classes(x))
        return out
