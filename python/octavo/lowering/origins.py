"""Which values of the float model the modules of a lowered graph compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from octavo.lowering.graph_view import GraphView
from octavo.lowering.patterns import Plan

__all__ = ["ORIGIN", "Origin", "origin_of"]

ORIGIN = "octavo_origin"
"""Key of an :class:`Origin` in the ``meta`` of a lowered graph's nodes."""


@dataclass(frozen=True)
class Origin:
    """What a module of a lowered graph stands for, by names of nodes of the Q/DQ graph.

    The float graph that the Q/DQ graph was made of has nodes of these names.

    Attributes:
        nodes: those that it replaces, in their order.
        inputs: those whose values it takes, in its order, before they were rounded; lists as lists.
        compares: whether it returns the value of the last of ``nodes``, rounded. It does not where
            it and what moves values have changed places.
    """

    nodes: tuple[str, ...]
    inputs: tuple[Any, ...]
    compares: bool


def origin_of(view: GraphView, plan: Plan) -> Origin:
    """Where the call of a plan comes from."""
    direct = all(
        before in [_unrounded(view, node) for node in after.all_input_nodes]
        for before, after in zip(plan.nodes, plan.nodes[1:], strict=False)
    )
    return Origin(tuple(node.name for node in plan.nodes), _names(view, plan.args), direct)


def _names(view: GraphView, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        names = [_names(view, item) for item in value]
        return names if isinstance(value, list) else tuple(names)
    return _unrounded(view, value).name if isinstance(value, Node) else None


def _unrounded(view: GraphView, node: Node) -> Node:
    """The float value behind a dequantize node that undoes a quantize node."""
    while view.is_dequantize(node):
        source = view.source_of(node)
        quantize = view.op(source)
        if source not in view.quantized or quantize is None:
            break
        node = quantize.first
    return node
