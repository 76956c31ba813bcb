"""Trains the float network: plain SGD, one cycle, small random shifts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from octavo.demo.data import Digits

_BATCH = 32
_PEAK_LEARNING_RATE = 0.1
_SHIFT = 2


def _shifted(images: Tensor) -> Tensor:
    size = images.shape[-1]
    padded = F.pad(images, (_SHIFT, _SHIFT, _SHIFT, _SHIFT))
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2,)).tolist()
    window = padded[:, :, top : top + size, left : left + size]
    return window.contiguous(memory_format=torch.channels_last)


def steps_per_epoch(digits: Digits) -> int:
    """How many batches one pass over the training images takes."""
    return -(-len(digits.train_labels) // _BATCH)


def train(model: nn.Module, digits: Digits, epochs: int, on_step: Callable[[float], None]) -> None:
    """Trains ``model`` in place and leaves it in evaluation mode.

    ``on_step`` is called with the loss after every step. Random numbers come from torch's global
    generator.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_PEAK_LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_LEARNING_RATE, total_steps=epochs * steps_per_epoch(digits)
    )
    model.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(digits.train_labels)), _BATCH):
            optimizer.zero_grad()
            logits = model(_shifted(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            on_step(float(loss.detach()))
    model.eval()
