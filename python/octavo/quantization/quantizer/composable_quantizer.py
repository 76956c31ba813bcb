"""Several quantizers one after another."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from octavo.quantization.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    EdgeOrNode,
    QuantizationAnnotation,
    Quantizer,
)

__all__ = ["ComposableQuantizer"]


class ComposableQuantizer(Quantizer):
    """Applies quantizers in order: an earlier one wins, since quantizers leave nodes alone that are
    annotated.

    Args:
        quantizers: at least one.

    Raises:
        ValueError: no quantizers; in ``annotate``, one that takes away or replaces what an earlier
            one said, with the node's name.

    Source: ``torchao.quantization.pt2e.quantizer.ComposableQuantizer``.
    """

    def __init__(self, quantizers: list[Quantizer]) -> None:
        super().__init__()
        if not quantizers:
            raise ValueError("ComposableQuantizer: give it at least one quantizer")
        self.quantizers = list(quantizers)

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        for quantizer in self.quantizers:
            model = quantizer.transform_for_annotation(model)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        known: dict[str, QuantizationAnnotation] = {}
        for quantizer in self.quantizers:
            quantizer.annotate(model)
            for node in model.graph.nodes:
                annotation = node.meta.get(Q_ANNOTATION_KEY)
                if node.name in known and annotation is not known[node.name]:
                    raise ValueError(
                        f"ComposableQuantizer: {type(quantizer).__name__} has changed the "
                        f"annotation of node '{node.name}', which an earlier quantizer had made; a "
                        "quantizer must leave nodes alone whose annotation has _annotated=True"
                    )
                if annotation is not None:
                    known[node.name] = annotation
        return model

    def validate(self, model: GraphModule) -> None:
        for quantizer in self.quantizers:
            quantizer.validate(model)

    def prepare_obs_or_fq_callback(
        self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[EdgeOrNode, torch.nn.Module]
    ) -> None:
        for quantizer in self.quantizers:
            quantizer.prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)
