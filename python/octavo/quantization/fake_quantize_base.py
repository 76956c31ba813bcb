"""The base of modules that fake-quantize, and the switches that they share.

Users import these names from :mod:`octavo.quantization.fake_quantize`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.observer_base import _with_args, _with_callable_args
from octavo.quantization.statistics import on_host

__all__ = [
    "FakeQuantizeBase",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
]


class FakeQuantizeBase(ABC, nn.Module):
    """Base of all fake-quantize modules, also of those that users write.

    A subclass implements ``forward(x)``, which observes ``x`` and returns it rounded to the levels
    of a quantized tensor, each only where enabled, and ``calculate_qparams()``.

    Buffers: ``fake_quant_enabled`` and ``observer_enabled``, uint8 [1]; buffers, so that they are
    saved and reach all ranks of a distributed model.

    Source: ``torch.ao.quantization.fake_quantize.FakeQuantizeBase``.
    """

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))
        self._switches: dict[str, tuple[int, int, bool]] = {}

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """Observes ``x`` and returns it fake-quantized."""

    @abstractmethod
    def calculate_qparams(self, **kwargs: Any) -> Any:
        """Scale and zero point."""

    @property
    def is_calibrated(self) -> bool:
        """Whether ``calculate_qparams`` can answer."""
        inner = getattr(self, "activation_post_process", None)
        return bool(getattr(inner, "is_calibrated", True))

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Rounds from now on, or not."""
        self.fake_quant_enabled.fill_(int(enabled))

    def disable_fake_quant(self) -> None:
        """Passes values on unrounded from now on."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Takes statistics, and scale and zero point from them, from now on, or not."""
        self.observer_enabled.fill_(int(enabled))

    def disable_observer(self) -> None:
        """Keeps scale and zero point from now on."""
        self.enable_observer(False)

    def _is_on(self, name: str) -> bool:
        """Whether a switch, the name of a buffer, is on.

        On other devices than the CPU it is read back only after something has written to it.
        """
        flag = self._buffers[name]
        assert flag is not None
        if on_host(flag) or flag.is_inference():
            return flag.item() != 0
        known = self._switches.get(name)
        if known is None or known[:2] != (id(flag), flag._version):
            known = (id(flag), flag._version, flag.item() != 0)
            self._switches[name] = known
        return known[2]

    with_args = classmethod(_with_args)
    with_callable_args = classmethod(_with_callable_args)


def _is_fake_quantize(module: object) -> bool:
    """Whether a module can be switched: Octavo's, or another that has the same switches."""
    return isinstance(module, FakeQuantizeBase) or (
        isinstance(module, nn.Module)
        and callable(getattr(module, "enable_fake_quant", None))
        and callable(getattr(module, "enable_observer", None))
    )


def disable_fake_quant(mod: nn.Module) -> None:
    """Stops rounding in a fake-quantize module, and does nothing to others:
    ``model.apply(disable_fake_quant)``.

    Source: ``torch.ao.quantization.disable_fake_quant``.
    """
    if _is_fake_quantize(mod):
        mod.disable_fake_quant()  # type: ignore[operator]


def enable_fake_quant(mod: nn.Module) -> None:
    """Starts rounding in a fake-quantize module: ``model.apply(enable_fake_quant)``.

    Source: ``torch.ao.quantization.enable_fake_quant``.
    """
    if _is_fake_quantize(mod):
        mod.enable_fake_quant()  # type: ignore[operator]


def disable_observer(mod: nn.Module) -> None:
    """Freezes scale and zero point of a fake-quantize module: ``model.apply(disable_observer)``.

    Source: ``torch.ao.quantization.disable_observer``.
    """
    if _is_fake_quantize(mod):
        mod.disable_observer()  # type: ignore[operator]


def enable_observer(mod: nn.Module) -> None:
    """Takes scale and zero point from statistics again: ``model.apply(enable_observer)``.

    Source: ``torch.ao.quantization.enable_observer``.
    """
    if _is_fake_quantize(mod):
        mod.enable_observer()  # type: ignore[operator]
