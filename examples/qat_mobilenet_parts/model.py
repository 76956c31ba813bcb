"""MobileNetV2, made smaller for digits, and written the way the eager workflow wants a model.

A ``QuantStub`` is where float data enters, a ``DeQuantStub`` where it leaves, and a
``FloatFunctional`` adds two activations, so that an observer can watch the sum.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.nn.quantized import FloatFunctional

# Expansion, output channels, blocks, stride of the first.
Stage = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shape:
    """Widths and depths of a network."""

    stem: int
    stages: tuple[Stage, ...]
    head: int


FULL = Shape(32, ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 3, 2), (6, 96, 2, 1)), 512)
QUICK = Shape(16, ((1, 8, 1, 1), (6, 16, 2, 1), (6, 24, 2, 2), (6, 48, 2, 2)), 192)


@dataclass(frozen=True)
class Parts:
    """The three kinds of module that differ between quantization libraries."""

    quant: Callable[[], nn.Module] = tq.QuantStub
    dequant: Callable[[], nn.Module] = tq.DeQuantStub
    functional: Callable[[], Any] = FloatFunctional


class ConvBn(nn.Sequential):
    """A convolution and its batch norm, then ReLU6 or nothing."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
        super().__init__(*layers, *([nn.ReLU6()] if relu6 else []))


class InvertedResidual(nn.Module):
    """1x1 to many channels, 3x3 on each by itself, 1x1 to few; plus the input where it fits."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, parts: Parts
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [ConvBn(inputs, hidden)]
        depthwise = ConvBn(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.body = nn.Sequential(*expand, depthwise, ConvBn(hidden, outputs, relu6=False))
        self.sum = parts.functional() if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if self.sum is None else self.sum.add(x, y)


class MobileNet(nn.Module):
    """Float32 [N, 1, 32, 32] to float32 logits [N, 10]."""

    def __init__(self, shape: Shape = FULL, parts: Parts | None = None) -> None:
        super().__init__()
        self.shape = shape
        parts = parts or Parts()
        self.quant, self.dequant = parts.quant(), parts.dequant()
        layers: list[nn.Module] = [ConvBn(1, shape.stem, kernel=3, stride=2)]
        inputs = shape.stem
        for expansion, outputs, count, stride in shape.stages:
            for index in range(count):
                first = stride if index == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, first, expansion, parts))
                inputs = outputs
        self.features = nn.Sequential(*layers, ConvBn(inputs, shape.head))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(shape.head, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(self.quant(x)))
        logits: Tensor = self.dequant(self.classifier(torch.flatten(x, 1)))
        return logits
