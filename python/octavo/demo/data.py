"""Handwritten digits: 1,797 real 8x8 scans that come inside scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 16
CLASSES = 10
_HELD_OUT = 600
_GREY_LEVELS = 16.0


@dataclass(frozen=True)
class Digits:
    """Images: float32 [N, 1, IMAGE_SIZE, IMAGE_SIZE] in 0..1, channels last. Labels: int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(seed: int) -> Digits:
    """The scans, resized to twice their size, split into training and held-out images.

    Every class has the same share of both parts. ``seed`` chooses the split.
    """
    scans = load_digits()
    images = torch.from_numpy(scans.images.astype(np.float32))[:, None] / _GREY_LEVELS
    images = F.interpolate(
        images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False
    )
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(scans.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_HELD_OUT, random_state=seed, stratify=scans.target
    )
    return Digits(images[train], labels[train], images[test], labels[test])
