"""What static networks are made of besides torch's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class _PlainFunctional(nn.Module):
    """Float operations, for a network that is not quantized, or by a tracer."""

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        return torch.cat(list(x), dim)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        return x * y


@dataclass(frozen=True)
class Parts:
    """Makers of what one library's eager workflow wants in a model."""

    quant: Callable[[], nn.Module]
    dequant: Callable[[], nn.Module]
    functional: Callable[[], Any]

    @staticmethod
    def plain() -> Parts:
        return Parts(nn.Identity, nn.Identity, _PlainFunctional)


def fusable(network: nn.Module) -> list[list[str]]:
    """Every run of Conv2d, BatchNorm2d and ReLU (or the first two) inside a Sequential."""
    runs = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        children = [(f"{name}.{key}", child) for key, child in module.named_children()]
        for index, (path, child) in enumerate(children[:-1]):
            following = children[index + 1 : index + 3]
            if not isinstance(child, nn.Conv2d) or not isinstance(following[0][1], nn.BatchNorm2d):
                continue
            run = [path, following[0][0]]
            if len(following) == 2 and isinstance(following[1][1], nn.ReLU):
                run.append(following[1][0])
            runs.append(run)
    return runs
