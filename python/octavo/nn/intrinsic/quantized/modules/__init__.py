"""Quantized forms of the fused modules."""

from octavo.nn.intrinsic.quantized.modules.bn_relu import BNReLU2d, BNReLU3d
from octavo.nn.intrinsic.quantized.modules.conv_add import ConvAdd2d, ConvAddReLU2d
from octavo.nn.intrinsic.quantized.modules.conv_hardtanh import (
    ConvHardtanh1d,
    ConvHardtanh2d,
    ConvHardtanh3d,
)
from octavo.nn.intrinsic.quantized.modules.conv_relu import (
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
)
from octavo.nn.intrinsic.quantized.modules.linear_function import LinearLeakyReLU, LinearTanh
from octavo.nn.intrinsic.quantized.modules.linear_relu import LinearReLU

__all__ = [
    "BNReLU2d",
    "BNReLU3d",
    "ConvAdd2d",
    "ConvAddReLU2d",
    "ConvHardtanh1d",
    "ConvHardtanh2d",
    "ConvHardtanh3d",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvReLU3d",
    "LinearLeakyReLU",
    "LinearReLU",
    "LinearTanh",
]
