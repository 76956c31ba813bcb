"""Trains the float network, and scores masks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from shared import progress
from torch import Tensor, nn
from torch.nn import functional as F

from static_unet_parts.scenes import Scenes

Batch = tuple[Tensor, Tensor]
_PEAK_LEARNING_RATE = 5e-3


def masks_of(model: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> list[Tensor]:
    """True where ``model`` sees a coin, for each batch."""
    with torch.inference_mode():
        return [model(images) > 0 for images, _ in batches]


def mean_iou(found: Iterable[Tensor], batches: Iterable[Batch]) -> float:
    """Intersection over union of masks and truth, over all pixels; the mean of coin and ground."""
    both, either, neither, total = 0, 0, 0, 0
    for got, (_, masks) in zip(found, batches, strict=True):
        true = masks > 0.5
        both += int((got & true).sum())
        either += int((got | true).sum())
        neither += int((~got & ~true).sum())
        total += true.numel()
    return (both / either + neither / (total - both)) / 2


def _loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of pixels, and 1 - Dice of the batch: few coins are not taken for none."""
    chances = scores.sigmoid()
    dice = 2 * (chances * masks).sum() / (chances.sum() + masks.sum())
    return F.binary_cross_entropy_with_logits(scores, masks) + 1 - dice


def train(
    model: nn.Module, scenes: Scenes, validation: list[Batch], steps: int, size: int
) -> list[dict[str, float]]:
    """Trains ``model`` in place, on ``steps`` batches of eight new scenes, and puts the state that
    was best in validation into it.

    Returns:
        Step, loss and mean IoU in validation, a few times.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LEARNING_RATE, steps)
    course: list[dict[str, float]] = []
    best: dict[str, Any] = {}
    for step in progress(range(1, steps + 1), steps, "training"):
        model.train()
        images, masks = scenes.batch(8, size)
        loss = _loss(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            model.eval()
            score = mean_iou(masks_of(model, validation), validation)
            if not course or score >= max(row["validation IoU"] for row in course):
                best = copy.deepcopy(model.state_dict())
            course.append({"step": step, "loss": loss.item(), "validation IoU": score})
    model.load_state_dict(best)
    model.eval()
    return course
