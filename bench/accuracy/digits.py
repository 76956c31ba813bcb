"""The demo's network on scikit-learn's handwritten digits: 1197 images train it, 600 test it."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

PACKAGES = {"sklearn": "scikit-learn"}
_SEED = 0
_BATCH = 64
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 256, 32


@lru_cache(maxsize=1)
def _trained(epochs: int) -> dict[str, Tensor]:
    from octavo.demo import data, model, training

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(_SEED)
        network = model.channels_last(model.DigitsNet())
        training.train(network, data.load(_SEED), epochs, lambda loss: None)
    return network.state_dict()


def network(parts: Any, epochs: int) -> nn.Module:
    """A new float network, trained, in eval mode; ``parts`` as in ``octavo.bench.models``."""
    from octavo.demo import model

    made = model.DigitsNet(parts).eval()
    made.load_state_dict(copy.deepcopy(_trained(epochs)))
    return model.channels_last(made)


def fusable(network: Any) -> list[list[str]]:
    from octavo.demo import model

    return model.fusable(network)


@lru_cache(maxsize=1)
def _images() -> Any:
    from octavo.demo import data

    return data.load(_SEED)


def calibration() -> list[Tensor]:
    """Batches of training images."""
    return list(_images().train_images[:_CALIBRATION_IMAGES].split(_CALIBRATION_BATCH))


def inputs(limit: int | None) -> list[Tensor]:
    """Batches of test images."""
    return list(_images().test_images[:limit].split(_BATCH))


def labels(limit: int | None) -> Tensor:
    found: Tensor = _images().test_labels[:limit]
    return found
