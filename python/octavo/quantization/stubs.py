"""The marks in a float model where values enter and leave the quantized part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.qconfig import QConfig

__all__ = ["DeQuantStub", "QuantStub", "QuantWrapper"]


class _Stub(nn.Module):
    def __init__(self, qconfig: QConfig | None = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Returns its argument."""
        return x


class QuantStub(_Stub):
    """Float values enter here: identity, observed by ``prepare``, and replaced by
    ``nn.quantized.Quantize``.

    Args:
        qconfig: how to observe the values; default: that of the module it is in.

    Source: ``torch.ao.quantization.QuantStub``.
    """


class DeQuantStub(_Stub):
    """Quantized values leave here: identity, never observed, and replaced by
    ``nn.quantized.DeQuantize``.

    Args:
        qconfig: any but None marks the stub for replacement; default: that of the module it is in.

    Source: ``torch.ao.quantization.DeQuantStub``.
    """

    _last_dtype = torch.float32  # of what it returned: what the int8 model returns here

    def forward(self, x: Tensor) -> Tensor:
        """Returns its argument."""
        if isinstance(x, Tensor):
            self._last_dtype = x.dtype
        return x


class QuantWrapper(nn.Module):
    """A module between a :class:`QuantStub` and a :class:`DeQuantStub`: float in, float out.

    Args:
        module: a module with one tensor argument and result. Its qconfig, if any, becomes that of
            the stubs.

    Source: ``torch.ao.quantization.QuantWrapper``.
    """

    quant: QuantStub
    dequant: DeQuantStub
    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        qconfig: Any = getattr(module, "qconfig", None)
        self.quant = QuantStub(qconfig)
        self.dequant = DeQuantStub(qconfig)
        self.module = module
        self.train(module.training)

    def forward(self, X: Tensor) -> Tensor:
        """Quantizes ``X``, applies the module, dequantizes."""
        return self.dequant(self.module(self.quant(X)))  # type: ignore[no-any-return]
