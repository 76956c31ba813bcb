"""Tensors without numbers in the layouts of the kernels' results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["new_channels_last"]


def new_channels_last(
    x: Tensor, batch: int, channels: int, sizes: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """(batch, channels, sizes...) on x's device, dense in the order batch, sizes..., channels."""
    return x.new_empty((batch, *sizes, channels), dtype=dtype).movedim(-1, 1)
