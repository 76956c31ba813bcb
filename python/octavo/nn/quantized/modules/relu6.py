"""Quantized activation functions."""

from __future__ import annotations

from typing import Any

from torch import nn

from octavo import ops
from octavo._tensor.compute import quantized_number
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["ReLU6"]


class ReLU6(QuantizedModule):
    """``min(max(x, 0), 6)`` on a quantized tensor of any shape; scale and zero point are the
    input's.

    Args:
        inplace: change the input's storage and return the input.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.

    Source: ``torch.ao.nn.quantized.ReLU6``.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def _get_name(self) -> str:
        return "QuantizedReLU6"

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""

    def forward(self, input: QTensor) -> QTensor:
        q = self._activation(input)
        zero_point = input._zero_point
        six = quantized_number(6.0, input._scale, zero_point, input._qdtype)
        if self.inplace:
            q.clamp_(zero_point, six)
            return input
        result: QTensor | None = (
            None if is_dynamo_compiling() else direct.clamp(input, zero_point, six)
        )
        return input._with_int(ops.clamp(q, zero_point, six)) if result is None else result

    @classmethod
    def from_float(cls, mod: Any, use_precomputed_fake_quant: bool = False) -> ReLU6:
        """From a :class:`torch.nn.ReLU6`; needs no observer."""
        if not isinstance(mod, nn.ReLU6):
            raise TypeError(
                f"ReLU6.from_float: expected a torch.nn.ReLU6, got {type(mod).__name__}"
            )
        return cls(mod.inplace)
