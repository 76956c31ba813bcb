"""Handwritten digits: 1,797 real 8x8 scans that come inside scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 32
CLASSES = 10
_TEST, _VALIDATION = 899, 178
_GREY_LEVELS = 16.0
_TURN, _ZOOM, _SHIFT = math.radians(12), 0.12, 0.12


@dataclass(frozen=True)
class Part:
    """Images, float32 [N, 1, 32, 32] in 0..1, and labels, int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Part:
        """The same on another device, images with channels last, as convolutions like them."""
        images = self.images.to(device, memory_format=torch.channels_last)
        return Part(images, self.labels.to(device))


@dataclass(frozen=True)
class Digits:
    """Three parts without a common image; every digit has the same share of each."""

    train: Part
    validation: Part
    test: Part


def load(seed: int) -> Digits:
    """The scans, resized to four times their size; half of them are for the test.

    Args:
        seed: of the split.
    """
    scans = load_digits()
    images = torch.from_numpy(scans.images.astype(np.float32))[:, None] / _GREY_LEVELS
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(scans.target.astype(np.int64))

    def split(indices: np.ndarray, count: int) -> list[np.ndarray]:
        digits = scans.target[indices]
        return train_test_split(indices, test_size=count, random_state=seed, stratify=digits)

    rest, test = split(np.arange(len(labels)), _TEST)
    train, validation = split(rest, _VALIDATION)
    return Digits(*(Part(images[part], labels[part]) for part in (train, validation, test)))


def jittered(images: Tensor) -> Tensor:
    """The images, each turned, zoomed and shifted a little, at random."""
    count = len(images)
    turn, zoom_x, zoom_y, shift_x, shift_y = torch.rand(5, count, device=images.device) * 2 - 1
    cos, sin = torch.cos(turn * _TURN), torch.sin(turn * _TURN)
    zoom_x, zoom_y = 1 + zoom_x * _ZOOM, 1 + zoom_y * _ZOOM
    top = torch.stack([cos * zoom_x, -sin * zoom_y, shift_x * _SHIFT], 1)
    bottom = torch.stack([sin * zoom_x, cos * zoom_y, shift_y * _SHIFT], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)
