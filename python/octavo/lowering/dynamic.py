"""Layers whose inputs are quantized with scales that are computed when they run."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from octavo.lowering.constants import NoKernel
from octavo.lowering.graph_view import GraphView
from octavo.lowering.operators import Operator
from octavo.lowering.patterns import Plan
from octavo.lowering.qparams import is_dequantize, is_quantize
from octavo.lowering.weighted import Layer, layer_of
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.quantized import dynamic as nnqd

__all__ = ["dynamic_input", "dynamic_layer"]

_CONV: tuple[Any, ...] = (nnqd.Conv1d, nnqd.Conv2d, nnqd.Conv3d)
_CONV_RELU: tuple[Any, ...] = (nniqd.ConvReLU1d, nniqd.ConvReLU2d, nniqd.ConvReLU3d)
_TRANSPOSED: tuple[Any, ...] = (nnqd.ConvTranspose1d, nnqd.ConvTranspose2d, nnqd.ConvTranspose3d)
_DEQUANTIZE = ("dequantize_per_tensor", "dequantize_per_token")
_RANGES = {
    (torch.uint8, 0, 255): False,
    (torch.int8, -128, 127): False,
    (torch.uint8, 0, 127): True,
    (torch.int8, -64, 63): True,
}
"""Whether a range is one of 7 bits; others have no kernel."""


def dynamic_input(view: GraphView, node: Any) -> tuple[Node, dict[str, bool]] | None:
    """The float tensor that a node dequantizes after quantizing it with a computed scale, and the
    arguments of the modules that do it; None where it does something else.

    Raises:
        NoKernel: the kernels quantize in another way.
    """
    dequantize = view.op(node)
    if dequantize is None or dequantize.name not in _DEQUANTIZE:
        return None
    quantize = view.op(dequantize.first)
    if quantize is None or quantize.name != dequantize.name.removeprefix("de"):
        return None
    per_token = quantize.name == "quantize_per_token"
    if not per_token and not (is_quantize(quantize) and is_dequantize(dequantize)):
        return None
    names = ("scales", "zero_points") if per_token else ("scale", "zero_point")
    scale, zero_point = (quantize.get(name) for name in names)
    chosen = _origin(view, scale)
    if chosen is None:
        return None
    if chosen is not _origin(view, zero_point) or (scale, zero_point) != tuple(
        dequantize.get(name) for name in names
    ):
        raise NoKernel("its input is dequantized by other parameters than it was quantized by")
    choose = view.op(chosen)
    if choose is None or choose.first is not quantize.first:
        raise NoKernel("its input is quantized by the range of another tensor")
    if "symmetric" in choose.name and "asymmetric" not in choose.name:
        raise NoKernel("its input is quantized symmetrically; the kernels use a zero point")
    key = (quantize.get("dtype"), quantize.get("quant_min"), quantize.get("quant_max"))
    if key not in _RANGES:
        raise NoKernel(f"its input is quantized to {key[0]} in [{key[1]}, {key[2]}]")
    return quantize.first, {"per_tensor": not per_token, "reduce_range": _RANGES[key]}


def _origin(view: GraphView, node: Any) -> Node | None:
    """The node that chose a scale or zero point."""
    op = view.op(node)
    if op is None or op.name != "getitem":
        return None
    chosen = view.op(op.first)
    return op.first if chosen is not None and "choose_qparams" in chosen.name else None


def dynamic_layer(view: GraphView, node: Node, op: Operator) -> Plan | None:
    """A layer that quantizes its input itself; None where the graph does not quantize it so."""
    argument = op.get("mat1") if op.name == "addmm" else op.get("input", op.get("self"))
    found = dynamic_input(view, argument)
    if found is None:
        return None
    source, options = found
    layer = layer_of(view, node, op)
    user = view.only_user(node)
    after = view.op(user)
    fused = None
    if user is not None and after is not None and after.first is node:
        plain_gelu = after.name == "gelu" and after.get("approximate", "none") == "none"
        fused = "relu" if after.name == "relu" else "gelu" if plain_gelu else None
    module, taken = _module(layer, fused, options)
    nodes = (node, user) if taken and user is not None else (node,)
    return Plan(nodes, layer.fill(module), (source,), {}, None, "dynamic")


def _module(layer: Layer, fused: str | None, options: dict[str, bool]) -> tuple[Any, bool]:
    """The module for a layer, and whether it includes the activation function behind it."""
    bias = layer.bias is not None
    if layer.kind == "linear":
        kinds: dict[str | None, Any] = {"relu": nniqd.LinearReLU, "gelu": nniqd.LinearGELU}
        kind = kinds.get(fused, nnqd.Linear)
        return kind(*layer.sizes(), bias, **options), fused in kinds
    if not options["per_tensor"]:
        raise NoKernel("convolutions quantize by image or by batch, not by token")
    relu = fused == "relu" and layer.kind == "conv"
    family = _CONV_RELU if relu else _CONV if layer.kind == "conv" else _TRANSPOSED
    made = family[layer.rank - 1](*layer.arguments(), **layer.geometry, bias=bias, **options)
    return made, relu
