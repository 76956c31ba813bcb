"""Stand-ins for the observers of a prepared module: just what ``from_float`` reads."""

from __future__ import annotations

from typing import Any

import torch

import octavo


class Observer(torch.nn.Module):
    """The part of an activation observer that from_float reads."""

    def __init__(self, scale: float, zero_point: int, dtype: Any) -> None:
        super().__init__()
        self.qparams = torch.tensor([scale]), torch.tensor([zero_point])
        self.dtype = dtype

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.qparams


class WeightObserver(torch.nn.Module):
    """A per-channel symmetric observer of dtype qint8, range -127 .. 127."""

    dtype = octavo.qint8
    qscheme = octavo.per_channel_symmetric
    ch_axis = 0
    quant_min, quant_max = -127, 127

    def forward(self, weight: torch.Tensor) -> None:
        self.scales = weight.movedim(self.ch_axis, 0).flatten(1).abs().amax(1).clamp(min=1e-7) / 127

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scales, torch.zeros(len(self.scales), dtype=torch.int64)


class Config:
    weight = WeightObserver


def observed(module: Any, dtype: Any = octavo.quint8) -> Any:
    module.qconfig = Config()
    module.activation_post_process = Observer(0.05, 100 if dtype is octavo.quint8 else -3, dtype)
    return module
