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
from octavo.bench.models.small import SmallImages, small_text
from octavo.bench.models.unet import UNet

__all__ = ["MODELS", "SMALL", "Model", "Parts", "find"]


@dataclass(frozen=True)
class Model:
    """Attributes:
    build: the network, from parts.
    example: (batch, size) -> its input.
    size: the usual one: pixels of one side, or tokens.
    mode: ``static`` or ``dynamic`` quantization.
    has_stubs: static only: whether it is written for the eager workflow.
    small: a key of ``SMALL``: made of the same modules.
    fusable: the module lists for ``fuse_modules``.
    """

    build: Callable[[Parts], nn.Module]
    example: Callable[[int, int], Tensor]
    size: int
    mode: str = "static"
    has_stubs: bool = True
    small: str = "images"
    fusable: Callable[[nn.Module], list[list[str]]] = fusable


def _images(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)


def _tokens(batch: int, size: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, size))


MODELS = {
    "resnet50": Model(ResNet50, _images, 224),
    "mobilenetv2": Model(MobileNetV2, _images, 224),
    "unet": Model(UNet, _images, 256),
    "bert_base": Model(lambda parts: Bert(), _tokens, 128, "dynamic", small="text"),
    "bert_static": Model(lambda parts: Bert(), _tokens, 128, has_stubs=False, small="static text"),
}
SMALL = {
    "images": Model(SmallImages, _images, 32),
    "text": Model(small_text, _tokens, 16, "dynamic", small="text"),
    "static text": Model(small_text, _tokens, 16, has_stubs=False, small="static text"),
}


def find(name: str) -> Model:
    """The network of that name, of ``MODELS`` or ``SMALL``."""
    return MODELS[name] if name in MODELS else SMALL[name]
