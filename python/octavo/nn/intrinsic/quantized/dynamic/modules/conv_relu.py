"""Dynamically quantized convolution + ReLU.

``torch.ao.nn.intrinsic.quantized.dynamic`` has LinearReLU only; these are its convolutions.
"""

from __future__ import annotations

from octavo.nn.intrinsic.quantized.modules.conv_relu import WithReLU
from octavo.nn.quantized.dynamic.modules.conv import Conv1d, Conv2d, Conv3d

__all__ = ["ConvReLU1d", "ConvReLU2d", "ConvReLU3d"]


class ConvReLU1d(WithReLU, Conv1d):
    """:class:`octavo.nn.quantized.dynamic.Conv1d` and ReLU in one."""


class ConvReLU2d(WithReLU, Conv2d):
    """:class:`octavo.nn.quantized.dynamic.Conv2d` and ReLU in one."""


class ConvReLU3d(WithReLU, Conv3d):
    """:class:`octavo.nn.quantized.dynamic.Conv3d` and ReLU in one."""
