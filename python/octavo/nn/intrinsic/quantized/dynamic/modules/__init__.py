"""Dynamically quantized fused modules."""

from octavo.nn.intrinsic.quantized.dynamic.modules.conv_relu import (
    ConvReLU1d,
    ConvReLU2d,
    ConvReLU3d,
)
from octavo.nn.intrinsic.quantized.dynamic.modules.fused_linear import LinearGELU, LinearReLU

__all__ = ["ConvReLU1d", "ConvReLU2d", "ConvReLU3d", "LinearGELU", "LinearReLU"]
