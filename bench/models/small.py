"""Small networks of the same modules as the large ones.

A contender runs one first, so that what it loads and sets up once for all does not count as memory
of the network that follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo.bench.models.bert import Bert, Shape
from octavo.bench.models.parts import Parts

_WIDTH = 8


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallImages(nn.Module):
    """Images (N, 3, H, W) to logits (N, 10); H and W even."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.quant, self.dequant = parts.quant(), parts.dequant()
        self.stem, self.point = _conv(3, _WIDTH, 3), _conv(_WIDTH, _WIDTH, 1)
        self.depthwise = _conv(_WIDTH, _WIDTH, 3, _WIDTH)
        self.down, self.grow = nn.MaxPool2d(2), nn.ConvTranspose2d(_WIDTH, _WIDTH, 2, 2)
        self.sum: Any = parts.functional()
        self.join: Any = parts.functional()
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(2 * _WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        x = self.sum.add(x, self.depthwise(self.point(x)))
        x = self.join.cat([x, self.grow(self.down(x))], 1)
        out: Tensor = self.dequant(self.classifier(torch.flatten(self.pool(x), 1)))
        return out


def small_text(parts: Parts) -> Bert:
    """BERT with one narrow layer."""
    return Bert(Shape(width=32, heads=2, hidden=64, layers=1))
