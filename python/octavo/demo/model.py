"""A small residual network, written the way the eager workflow wants a model to be written.

The marks of that way: a ``QuantStub`` where float data enters, a ``DeQuantStub`` where it leaves,
and a ``FloatFunctional`` for every addition of two activations, so that an observer can watch its
result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.demo.data import CLASSES
from octavo.nn.quantized import FloatFunctional

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """The three kinds of module that differ between quantization libraries."""

    quant: Callable[[], nn.Module]
    dequant: Callable[[], nn.Module]
    functional: Callable[[], Any]


OCTAVO_PARTS = Parts(tq.QuantStub, tq.DeQuantStub, FloatFunctional)


class ResidualBlock(nn.Module):
    """conv-bn-relu, conv-bn, add the input (through a 1x1 convolution if shapes differ), relu."""

    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.project: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.add = parts.functional()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.add.add_relu(y, self.project(x))
        return out


class DigitsNet(nn.Module):
    """Float32 [N, 1, 16, 16] to float32 logits [N, 10]; 308,074 parameters."""

    WIDTHS = (32, 64, 128)

    def __init__(self, parts: Parts = OCTAVO_PARTS) -> None:
        super().__init__()
        narrow, middle, wide = self.WIDTHS
        self.quant = parts.quant()
        self.conv = nn.Conv2d(1, narrow, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(narrow, narrow, 1, parts)
        self.pool = nn.MaxPool2d(2)
        self.block2 = ResidualBlock(narrow, middle, 1, parts)
        self.block3 = ResidualBlock(middle, wide, 2, parts)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(wide, CLASSES)
        self.dequant = parts.dequant()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.block2(self.pool(self.block1(x)))
        x = self.average(self.block3(x))
        logits: Tensor = self.dequant(self.classify(torch.flatten(x, 1)))
        return logits


def fusable(model: DigitsNet) -> list[list[str]]:
    """The names of the modules that become one, as ``fuse_modules`` wants them."""
    groups = [["conv", "bn", "relu"]]
    for name, module in model.named_modules():
        if isinstance(module, ResidualBlock):
            groups.append([f"{name}.conv1", f"{name}.bn1", f"{name}.relu1"])
            groups.append([f"{name}.conv2", f"{name}.bn2"])
            if isinstance(module.project, nn.Sequential):
                groups.append([f"{name}.project.0", f"{name}.project.1"])
    return groups


def channels_last(model: Model) -> Model:
    """``model`` with its weights laid out channels last, the layout that convolutions run fastest
    in."""
    convert: Any = model.to  # torch's stubs do not list this argument
    convert(memory_format=torch.channels_last)
    return model
