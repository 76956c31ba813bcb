"""Models written in a line, and one call for preparing, calibrating and converting them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import octavo.quantization as tq
from fx_models import batch, calibrated, sqnr
from octavo.quantization.quantize_fx import convert_fx, prepare_fx

X = ((2, 4, 6, 6),)


class Of(nn.Module):
    """A model of one function of its modules and input."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(seed: int = 1) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(4, 4, 1)


def mapping() -> tq.QConfigMapping:
    """The default rules with observers of minimum and maximum, which are quick."""
    extremes = tq.QConfig(tq.MinMaxObserver, tq.default_per_channel_weight_observer)
    return tq.get_default_qconfig_mapping().set_global(extremes)


def converted(model: nn.Module, rules: Any = None, shapes: Any = X, **kwargs: Any) -> Any:
    prepared = prepare_fx(model, rules or mapping(), batch(shapes), **kwargs)
    return convert_fx(calibrated(prepared, shapes))


def close(model: nn.Module, int8: nn.Module, shapes: Any = X, decibels: float = 25) -> bool:
    with torch.no_grad():
        return sqnr(model(*batch(shapes, 3)), int8(*batch(shapes, 3))) > decibels
