"""Quantizers: they say which tensors of an exported graph are quantized, and how."""

from octavo.quantization.quantizer.composable_quantizer import ComposableQuantizer
from octavo.quantization.quantizer.embedding_quantizer import EmbeddingQuantizer
from octavo.quantization.quantizer.octavo_quantizer import (
    OctavoQuantizer,
    QuantizationConfig,
    get_default_octavo_quantization_config,
)
from octavo.quantization.quantizer.quantizer import (
    DerivedQuantizationSpec,
    EdgeOrNode,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

__all__ = [
    "ComposableQuantizer",
    "DerivedQuantizationSpec",
    "EdgeOrNode",
    "EmbeddingQuantizer",
    "FixedQParamsQuantizationSpec",
    "OctavoQuantizer",
    "QuantizationAnnotation",
    "QuantizationConfig",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "get_default_octavo_quantization_config",
]
