"""Embedding tables."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from octavo.quantization.observer import PerChannelMinMaxObserver
from octavo.quantization.pt2e.graph import argument, is_constant, op_name
from octavo.quantization.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from octavo.quantization.utils import per_channel_affine_float_qparams

__all__ = ["EmbeddingQuantizer"]


class EmbeddingQuantizer(Quantizer):
    """Quantizes the tables of embeddings: uint8, a float scale and zero point for each row, as
    ``float_qparams_weight_only_qconfig``. It needs no calibration. Compose it with another one for
    the rest: ``ComposableQuantizer([EmbeddingQuantizer(), OctavoQuantizer()...])``.

    Source: ``torchao.quantization.pt2e.quantizer.EmbeddingQuantizer``, whose smallest scale is
    2**-12; here rows have the scales of eager mode.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        spec = QuantizationSpec(
            torch.uint8,
            PerChannelMinMaxObserver,
            0,
            255,
            per_channel_affine_float_qparams,
            0,
        )
        for node in model.graph.nodes:
            if op_name(node) != "embedding" or Q_ANNOTATION_KEY in node.meta:
                continue
            table = argument(node, "weight")
            if is_constant(table):
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation({table: spec}, _annotated=True)
        return model

    def validate(self, model: GraphModule) -> None:
        """All that it annotates is supported."""
