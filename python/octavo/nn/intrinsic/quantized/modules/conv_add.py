"""Quantized convolution + residual addition."""

from __future__ import annotations

from torch import nn

from octavo.nn.quantized.modules.conv import Conv2d
from octavo.nn.quantized.modules.utils import source_label
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

__all__ = ["ConvAdd2d", "ConvAddReLU2d"]


class ConvAdd2d(Conv2d):
    """:class:`octavo.nn.quantized.Conv2d` that adds another quantized tensor before it rounds.

    ``forward(input, extra_input)``: ``extra_input`` has the shape of the output, 8 bits, and a
    scale and zero point of its own.

    Raises, besides what Conv2d raises: TypeError where ``extra_input`` is not an 8-bit quantized
    tensor with one scale; ValueError where its shape is not the output's.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvAdd2d``.
    """

    def forward(self, input: QTensor, extra_input: QTensor) -> QTensor:  # type: ignore[override]
        if self._border is None and not is_dynamo_compiling():
            result: QTensor | None = self._packed.direct(
                input, self._scale, self._zero_point, self._out_qdtype, self._relu, extra_input
            )
            if result is not None:
                return result
        x = self._with_border(self._activation(input))
        add = self._activation(extra_input, "extra_input")
        scale, zero_point, qdtype = self._scale, self._zero_point, self._out_qdtype
        out = self._run(
            x,
            input._scale,
            input._zero_point,
            scale,
            zero_point,
            qdtype,
            self._relu,
            add,
            extra_input._scale,
            extra_input._zero_point,
        )
        return QTensor._wrap(out, scale, zero_point, qdtype)

    @classmethod
    def _float_conv(cls, mod: nn.Module) -> nn.Module:
        if isinstance(mod, nn.Sequential) and type(mod).__name__ == cls.__name__:
            conv = mod[0]
            if isinstance(conv, cls._FLOAT_MODULE):
                return conv
        raise TypeError(
            f"{source_label(cls, mod)}: expected a fused {cls.__name__} that starts with a Conv2d"
        )


class ConvAddReLU2d(ConvAdd2d):
    """:class:`ConvAdd2d` followed by ReLU: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvAddReLU2d``.
    """

    _relu = True
