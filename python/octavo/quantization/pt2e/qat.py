"""Batch norms in quantization-aware training of graphs.

The arithmetic is that of :mod:`octavo.nn.intrinsic.qat.modules.batch_norm`: the layer computes with
the rounded weight ``round(W * s)``, ``s = gamma / sqrt(running_var + eps)``, its result is divided
by ``s`` and normalized with the statistics of the batch. Channels where ``s`` is 0 take ``W`` as it
is. At the end the layer gets the weight ``W * s``, the batch norm goes, and the rounding is what
was trained with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from octavo.quantization.pt2e.fold import (
    CONVOLUTIONS,
    TRANSPOSED,
    has_channels_second,
    remove_batch_count,
    remove_unused,
)
from octavo.quantization.pt2e.graph import (
    add_constant,
    argument,
    call,
    constant_value,
    op_name,
    set_argument,
    users_of,
)
from octavo.quantization.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    DerivedQuantizationSpec,
    EdgeOrNode,
    QuantizationAnnotation,
    SharedQuantizationSpec,
)

__all__ = ["fold_trained_batch_norms", "simulate_batch_norms"]

_ROLE = "octavo_conv_bn"  # in the meta of what stands for a layer with a batch norm
_TINY = torch.finfo(torch.float32).tiny ** 0.5

aten = torch.ops.aten


def simulate_batch_norms(model: GraphModule) -> None:
    """Rewrites annotated layers with a batch norm after them for training, in place."""
    for norm in list(model.graph.nodes):
        if op_name(norm) != "batch_norm":
            continue
        layer = norm.args[0]
        if isinstance(layer, Node) and _is_trained_pair(layer, norm):
            _simulate(model, layer, norm)
    model.recompile()


def _is_trained_pair(layer: Node, norm: Node) -> bool:
    """Whether the weight of a layer is quantized, and nothing else reads or quantizes the tensor
    between it and the batch norm, which has all its parts.
    """
    name = op_name(layer)
    if name not in (*CONVOLUTIONS, *TRANSPOSED, "linear") or len(users_of(layer)) != 1:
        return False
    if name in TRANSPOSED and argument(layer, "groups") != 1:
        return False
    if not has_channels_second(layer):
        return False
    annotation, after = (node.meta.get(Q_ANNOTATION_KEY) for node in (layer, norm))
    if annotation is None or annotation.output_qspec is not None:
        return False
    if after is not None and after.input_qspec_map.get(layer) is not None:
        return False
    weighted = annotation.input_qspec_map.get(argument(layer, "weight")) is not None
    return weighted and all(isinstance(part, Node) for part in norm.args[1:5])


def _simulate(model: GraphModule, layer: Node, norm: Node) -> None:
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    gamma, variance = norm.args[1], norm.args[4]
    rank = weight.meta["val"].ndim
    columns = [1] * rank
    columns[1 if op_name(layer) in TRANSPOSED else 0] = -1
    row = [1, -1, *[1] * (rank - 2)]

    def add(target: Any, *args: Any) -> Node:
        return call(model, target, args, layer)

    with model.graph.inserting_before(layer):
        deviation = add(aten.sqrt.default, add(aten.add.Tensor, variance, argument(norm, "eps")))
        factor = add(aten.div.Tensor, gamma, deviation)
        dead = add(aten.lt.Scalar, add(aten.abs.default, add(aten.detach.default, factor)), _TINY)
        folded = add(aten.mul.Tensor, weight, add(aten.reshape.default, factor, columns))
        where = add(aten.where.self, add(aten.reshape.default, dead, columns), weight, folded)
        divisor = add(aten.where.ScalarSelf, dead, 1.0, factor)
    after = layer.next
    with model.graph.inserting_before(after):
        result = add(aten.div.Tensor, layer, add(aten.reshape.default, divisor, row))
        shaped = None
        if bias is not None:
            shaped = add(aten.reshape.default, bias, row)
            result = add(aten.add.Tensor, result, shaped)
    set_argument(layer, "weight", where)
    set_argument(layer, "bias", None)
    norm.replace_input_with(layer, result)
    layer.meta[_ROLE] = "layer"
    result.meta[_ROLE] = "bias" if bias is not None else "scale"
    _move_annotations(model, layer, (weight, folded, where), (bias, shaped))


def _move_annotations(
    model: GraphModule,
    layer: Node,
    weight: tuple[Node, Node, Node],
    bias: tuple[Node | None, Node | None],
) -> None:
    """Moves the specs of a layer's weight and bias to where these are used now, and what other
    specs say about those edges.
    """
    old_weight, folded, where = weight
    old_bias, shaped = bias
    annotation = layer.meta[Q_ANNOTATION_KEY]
    specs = dict(annotation.input_qspec_map)
    moved: dict[EdgeOrNode, EdgeOrNode] = {(old_weight, layer): (folded, where)}
    where.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
        {folded: specs.pop(old_weight)}, _annotated=True
    )
    if old_bias is not None and shaped is not None and specs.get(old_bias) is not None:
        moved[(old_bias, layer)] = (old_bias, shaped)
        shaped.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            {old_bias: specs[old_bias]}, _annotated=True
        )
    if old_bias is not None:
        specs.pop(old_bias, None)
    layer.meta[Q_ANNOTATION_KEY] = replace(annotation, input_qspec_map=specs)
    for node in model.graph.nodes:
        known = node.meta.get(Q_ANNOTATION_KEY)
        if isinstance(known, QuantizationAnnotation):
            inputs = {key: _redirect(spec, moved) for key, spec in known.input_qspec_map.items()}
            node.meta[Q_ANNOTATION_KEY] = replace(
                known, input_qspec_map=inputs, output_qspec=_redirect(known.output_qspec, moved)
            )


def _redirect(spec: Any, moved: dict[EdgeOrNode, EdgeOrNode]) -> Any:
    if isinstance(spec, SharedQuantizationSpec):
        return replace(spec, edge_or_node=moved.get(spec.edge_or_node, spec.edge_or_node))
    if isinstance(spec, DerivedQuantizationSpec):
        return replace(spec, derived_from=[moved.get(e, e) for e in spec.derived_from])
    return spec


def fold_trained_batch_norms(model: GraphModule) -> None:
    """Undoes :func:`simulate_batch_norms` in a copy of a trained graph: each layer gets the folded
    weight and bias, behind their observers, and stands for its batch norm.
    """
    for norm in list(model.graph.nodes):
        if op_name(norm) != "batch_norm":
            continue
        result = norm.args[0]
        if isinstance(result, Node) and result.meta.get(_ROLE) in ("scale", "bias"):
            _fold(model, result, norm)
    remove_unused(model)
    model.recompile()


def _fold(model: GraphModule, result: Node, norm: Node) -> None:
    shaped: Any = result.args[1] if result.meta[_ROLE] == "bias" else None
    scaled: Any = result.args[0] if shaped is not None else result
    layer: Node = scaled.args[0]
    observed: Node = argument(layer, "weight").args[2]
    folded: Any = observed.args[0]
    source: Any = None if shaped is None else shaped.args[0]
    bias_observer = source if source is not None and source.op == "call_module" else None
    plain = source if bias_observer is None else bias_observer.args[0]

    gamma, beta, mean, variance = (_read(model, part) for part in norm.args[1:5])
    factor = gamma / torch.sqrt(variance + argument(norm, "eps"))
    centre = -mean if plain is None else _read(model, plain) - mean
    with model.graph.inserting_before(layer):
        weight = add_constant(
            model, f"{layer.name}_weight_", constant_value(model, folded).detach(), folded
        )
        bias = add_constant(model, f"{layer.name}_bias_", centre * factor + beta, folded)
        weight_call = _observe_again(model, observed, weight)
        bias_call = bias if bias_observer is None else _observe_again(model, bias_observer, bias)
    set_argument(layer, "weight", weight_call)
    set_argument(layer, "bias", bias_call)
    norm.replace_all_uses_with(layer)
    remove_batch_count(model, norm)


def _read(model: GraphModule, node: Any) -> Tensor:
    value: Tensor = constant_value(model, node).detach()
    return value


def _observe_again(model: GraphModule, observed: Node, value: Node) -> Node:
    """A call of the same observer with another value."""
    call = model.graph.call_module(str(observed.target), (value,))
    call.meta = dict(observed.meta)
    return call
