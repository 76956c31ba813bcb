"""MobileNetV2 (Sandler et al., Inverted Residuals and Linear Bottlenecks, 2018), with ReLU for
ReLU6, which quantization makes the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.bench.models.parts import Parts

# Expansion, output channels, blocks, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class _InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, parts: Parts
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [_conv(inputs, hidden)]
        layers.append(_conv(hidden, hidden, 3, stride, hidden))
        self.body = nn.Sequential(*layers, _conv(hidden, outputs, relu=False))
        self.sum = parts.functional() if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if self.sum is not None:
            out = self.sum.add(x, out)
        return out


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) to logits (N, 1000)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.quant, self.dequant = parts.quant(), parts.dequant()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, count, stride in _STAGES:
            for index in range(count):
                first = stride if index == 0 else 1
                layers.append(_InvertedResidual(inputs, outputs, first, expansion, parts))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv(inputs, 1280))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(self.quant(x)))
        out: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return out
