"""Dynamically quantized fused modules."""

from octavo.nn.intrinsic.quantized.dynamic.modules.linear_relu import LinearReLU

__all__ = ["LinearReLU"]
