"""ResNet-50 (He et al., Deep Residual Learning for Image Recognition, 2015; stride in the 3x3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo.bench.models.parts import Parts


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, parts: Parts) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            _conv(inputs, width, 1),
            _conv(width, width, 3, stride),
            _conv(width, outputs, 1, relu=False),
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else _conv(inputs, outputs, 1, stride, relu=False)
        self.sum = parts.functional()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.sum.add_relu(self.body(x), self.skip(x))
        return out


class ResNet50(nn.Module):
    """Images (N, 3, H, W) to logits (N, 1000)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.quant, self.dequant = parts.quant(), parts.dequant()
        self.stem = nn.Sequential(*_conv(3, 64, 7, 2).children(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        inputs = 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                blocks.append(_Bottleneck(inputs, width, stride if index == 0 else 1, parts))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(self.quant(x))))
        out: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return out
