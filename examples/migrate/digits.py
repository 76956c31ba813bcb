"""Handwritten digits and a plain training loop, for every script in this folder.

The images are scikit-learn's: 1,797 real scans of 8 by 8 pixels that come with the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
TEST_IMAGES = 600
CALIBRATION_BATCHES = 8
BATCH = 32

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Digits:
    """Images are float32 [N, 1, 8, 8] in 0..1, labels int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def calibration(self) -> tuple[Tensor, ...]:
        """Some batches of training images."""
        return torch.split(self.train_images, BATCH)[:CALIBRATION_BATCHES]


def load(seed: int = 0) -> Digits:
    """The scans, with 600 of them for testing; ``seed`` chooses which."""
    scans = load_digits()
    images = torch.from_numpy(scans.images.astype(numpy.float32))[:, None] / 16
    labels = torch.from_numpy(scans.target.astype(numpy.int64))
    train, test = train_test_split(
        numpy.arange(len(labels)),
        test_size=TEST_IMAGES,
        random_state=seed,
        stratify=scans.target,
    )
    return Digits(images[train], labels[train], images[test], labels[test])


def train(model: Model, data: Digits, epochs: int = 6, learning_rate: float = 3e-3) -> Model:
    """Trains ``model`` in place with Adam, and returns it in eval mode."""
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    model.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(data.train_labels)), BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """The share of test images that ``model`` recognizes."""
    return float((model(data.test_images).argmax(1) == data.test_labels).float().mean())
