"""Layers of ``torch.nn`` with fake-quantized weights, whose inputs are quantized when they run."""

from octavo.nn.qat.dynamic.modules.linear import Linear

__all__ = ["Linear"]
