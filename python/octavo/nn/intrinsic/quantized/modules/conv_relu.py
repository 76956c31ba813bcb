"""Quantized convolution + ReLU."""

from __future__ import annotations

from torch import nn

from octavo.nn.quantized.modules.conv import Conv2d
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["ConvReLU2d"]


class ConvReLU2d(Conv2d):
    """:class:`octavo.nn.quantized.Conv2d` and ReLU in one: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvReLU2d``.
    """

    _relu = True

    def _get_name(self) -> str:
        return "QuantizedConvReLU2d"

    @classmethod
    def _float_conv(cls, mod: nn.Module) -> nn.Module:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
            conv, relu = mod[0], mod[1]
            if isinstance(conv, cls._FLOAT_MODULE) and isinstance(relu, nn.ReLU):
                return conv
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.ConvReLU2d, a Conv2d and a "
            "ReLU"
        )
