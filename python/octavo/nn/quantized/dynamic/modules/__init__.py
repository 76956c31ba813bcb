"""Dynamically quantized modules."""

from octavo.nn.quantized.dynamic.modules.linear import Linear

__all__ = ["Linear"]
