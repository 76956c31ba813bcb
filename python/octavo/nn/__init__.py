"""Neural network modules: quantized ones, and float ones that prepare a model for quantization."""

from octavo.nn import intrinsic, qat, quantizable, quantized

__all__ = ["intrinsic", "qat", "quantizable", "quantized"]
