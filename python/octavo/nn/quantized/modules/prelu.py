"""Quantized PReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo import ops
from octavo.nn.quantized.modules.parametrized import FloatParameters
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["PReLU"]


class PReLU(FloatParameters):
    """``x`` where x >= 0, else ``weight * x``, with one slope or one for each channel;
    :func:`octavo.ops.prelu` says how it is rounded.

    Args:
        output_scale, output_zero_point: of the output.
        num_parameters: 1, or the size of dimension 1 of the input.

    The slopes are float32 (torch quantizes them to 8 bits, and multiplies positive inputs by 1.0
    as that grid has it).

    State dict: ``weight`` (float32 [num_parameters]), ``scale``, ``zero_point``.

    Raises:
        TypeError: in ``forward``, for anything but an 8-bit quantized tensor with one scale.
        RuntimeError: in ``forward``, for another number of channels.

    Source: ``torch.ao.nn.quantized.PReLU``, which keeps all three out of its state dict.
    """

    _PARAMETERS = ("weight",)
    _FLOAT_MODULE = nn.PReLU

    weight: Tensor

    def __init__(
        self, output_scale: float, output_zero_point: int, num_parameters: int = 1
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = torch.full((num_parameters,), 0.25)
        self._set_output(output_scale, output_zero_point, None)

    @property
    def output_scale(self) -> float:
        return self._scale

    @property
    def output_zero_point(self) -> int:
        return self._zero_point

    def extra_repr(self) -> str:
        return (
            f"num_parameters={self.num_parameters}, scale={self._scale}, "
            f"zero_point={self._zero_point}"
        )

    def set_weight(self, w: Tensor) -> None:
        """Replaces the slopes.

        Args:
            w: float tensor [num_parameters], or a quantized one, whose values are taken.

        Raises:
            TypeError: another kind of tensor.
            ValueError: another shape; NaN or Inf.
        """
        values: Any = w.dequantize() if isinstance(w, QTensor) else w
        if values is None:
            raise TypeError(f"{self._label()}: weight must be a tensor, got None")
        self._set_parameter("weight", values, (self.num_parameters,))

    def forward(self, input: QTensor) -> QTensor:
        x = self._activation(input)
        if self.num_parameters != 1 and (x.dim() < 2 or x.shape[1] != self.num_parameters):
            raise RuntimeError(
                f"{self._label()}: the input must have {self.num_parameters} channels in dimension "
                f"1, got shape {list(x.shape)}"
            )
        qdtype = self._out_qdtype or input._qdtype
        scale, zero_point = self._scale, self._zero_point
        quick: QTensor | None = (
            None
            if is_dynamo_compiling()
            else direct.prelu(input, self.weight, scale, zero_point, qdtype)
        )
        if quick is not None:
            return quick
        try:
            out = ops.prelu(
                x, input._scale, input._zero_point, self.weight, scale, zero_point, qdtype
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._named(error) from error
        return QTensor._wrap(out, scale, zero_point, qdtype)

    @classmethod
    def from_float(cls, mod: nn.Module, use_precomputed_fake_quant: bool = False) -> PReLU:
        """From a calibrated float module: one with ``activation_post_process``.

        Raises:
            TypeError: another kind of module, or an observer of another dtype than quint8 or qint8.
            ValueError: no activation observer; NaN or Inf in the slopes.
        """
        prelu = cls._checked_float(mod)
        result = cls(1.0, 0, prelu.num_parameters)
        result.set_weight(prelu.weight)
        result._take_output(mod)
        return result
