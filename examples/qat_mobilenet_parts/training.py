"""The training loop, the same for float and fake-quantized networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qat_mobilenet_parts.data import Part, jittered

_BATCH = 32
_EVALUATION_BATCH = 256


def steps_of(part: Part, count: int) -> int:
    """How many steps so many epochs take."""
    return count * -(-len(part) // _BATCH)


def epochs(
    model: nn.Module, part: Part, count: int, learning_rate: float, on_step: Callable[[], None]
) -> Iterator[int]:
    """Trains ``model`` in place and yields the number of each epoch when it is over.

    Plain SGD with Nesterov momentum; the learning rate rises for a tenth of the steps and falls to
    zero along a cosine. Random numbers come from torch's global generators.

    Args:
        model: its own mode is kept; call ``train()`` before.
        part: the training images, on the model's device.
        count: of epochs.
        learning_rate: its highest value.
        on_step: called after each step.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    steps = steps_of(part, count)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    for epoch in range(count):
        for batch in torch.split(torch.randperm(len(part)), _BATCH):
            batch = batch.to(part.labels.device)
            optimizer.zero_grad()
            logits = model(jittered(part.images[batch]))
            loss = F.cross_entropy(logits, part.labels[batch], label_smoothing=0.05)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            on_step()
        yield epoch


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What ``model`` says of the images, in batches and without gradients, on the CPU."""
    with torch.inference_mode():
        parts = [model(batch) for batch in torch.split(images, _EVALUATION_BATCH)]
    return torch.cat(parts).cpu()


def accuracy(model: nn.Module, part: Part) -> float:
    """The share of right answers in eval mode, in percent. The mode is put back afterwards."""
    training = model.training
    answers = logits_of(model.eval(), part.images).argmax(1)
    model.train(training)
    return 100.0 * float((answers == part.labels.cpu()).float().mean())
