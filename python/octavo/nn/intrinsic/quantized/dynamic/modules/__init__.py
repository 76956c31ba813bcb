"""Dynamically quantized fused modules."""

from octavo.nn.intrinsic.quantized.dynamic.modules.fused_linear import LinearGELU, LinearReLU

__all__ = ["LinearGELU", "LinearReLU"]
