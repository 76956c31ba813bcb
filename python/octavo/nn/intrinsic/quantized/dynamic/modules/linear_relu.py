"""The fused Linear layer, under the path that torch.ao has for it."""

from octavo.nn.intrinsic.quantized.dynamic.modules.fused_linear import LinearReLU

__all__ = ["LinearReLU"]
