"""Quantized convolution + ReLU."""

from __future__ import annotations

from torch import nn

from octavo.nn.quantized.modules.conv import Conv1d, Conv2d, Conv3d
from octavo.nn.quantized.modules.conv_base import ConvModule
from octavo.nn.quantized.modules.utils import source_label

__all__ = ["ConvReLU1d", "ConvReLU2d", "ConvReLU3d"]


class WithReLU(ConvModule):
    """What quantized convolutions with a fused ReLU share, static and dynamic."""

    _relu = True

    @classmethod
    def _float_conv(cls, mod: nn.Module) -> nn.Module:
        if isinstance(mod, nn.Sequential) and len(mod) >= 2:  # the observer comes third
            conv, relu = mod[0], mod[1]
            if isinstance(conv, cls._FLOAT_MODULE) and isinstance(relu, nn.ReLU):
                return conv
        raise TypeError(
            f"{source_label(cls, mod)}: expected octavo.nn.intrinsic.{cls.__name__}, a "
            f"{cls._FLOAT_MODULE.__name__} and a ReLU"
        )


class ConvReLU1d(WithReLU, Conv1d):
    """:class:`octavo.nn.quantized.Conv1d` and ReLU in one: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvReLU1d``.
    """


class ConvReLU2d(WithReLU, Conv2d):
    """:class:`octavo.nn.quantized.Conv2d` and ReLU in one: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvReLU2d``.
    """


class ConvReLU3d(WithReLU, Conv3d):
    """:class:`octavo.nn.quantized.Conv3d` and ReLU in one: the output is clamped at its zero point.

    Source: ``torch.ao.nn.intrinsic.quantized.ConvReLU3d``.
    """
