"""Quantized Dropout: what it is in inference, nothing."""

from __future__ import annotations

from torch import nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.nn.quantized.modules.utils import source_label
from octavo.tensor import QTensor

__all__ = ["Dropout"]


class Dropout(QuantizedModule):
    """The identity on quantized tensors, in training mode too.

    Args:
        p, inplace: kept, and without effect.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.

    Source: ``torch.ao.nn.quantized.Dropout``.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.inplace = p, inplace

    def _get_name(self) -> str:
        return "QuantizedDropout"

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"

    def forward(self, input: QTensor) -> QTensor:
        self._activation(input)
        return input

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> Dropout:
        """From a :class:`torch.nn.Dropout`; needs no observer."""
        if not isinstance(mod, nn.Dropout):
            raise TypeError(f"{source_label(cls, mod)}: expected a torch.nn.Dropout")
        return cls(mod.p, mod.inplace)
