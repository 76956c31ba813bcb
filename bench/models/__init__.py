"""Networks in plain torch, with random weights.

A new one is an entry of ``MODELS``. Static ones are written for the eager workflow: they take their
stubs and additions from :class:`Parts`, so that one definition serves float32, Octavo and torch.ao.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octavo.bench.models.bert import VOCABULARY, Bert
from octavo.bench.models.mobilenetv2 import MobileNetV2
from octavo.bench.models.parts import Parts, fusable
from octavo.bench.models.resnet50 import ResNet50
from octavo.bench.models.unet import UNet

__all__ = ["MODELS", "Model", "Parts"]


@dataclass(frozen=True)
class Model:
    """Attributes:
    build: the network, from parts.
    example: (batch, size) -> its input.
    size: the usual one: pixels of one side, or tokens.
    mode: ``static`` or ``dynamic`` quantization.
    fusable: the module lists for ``fuse_modules``.
    """

    build: Callable[[Parts], nn.Module]
    example: Callable[[int, int], Tensor]
    size: int
    mode: str = "static"
    fusable: Callable[[nn.Module], list[list[str]]] = fusable


def _images(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)


def _tokens(batch: int, size: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, size))


MODELS = {
    "resnet50": Model(ResNet50, _images, 224),
    "mobilenetv2": Model(MobileNetV2, _images, 224),
    "unet": Model(UNet, _images, 256),
    "bert_base": Model(lambda parts: Bert(), _tokens, 128, "dynamic"),
}
