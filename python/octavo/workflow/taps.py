"""The float graph that a lowered one is compared with, layer by layer."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from octavo.lowering.origins import ORIGIN, Origin
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization.pt2e.export_utils import own_copy
from octavo.quantization.pt2e.observers import is_observer

__all__ = ["origins", "tapped", "unobserved"]


class Tap(nn.Module):
    """Stands for a layer: it is called with the layer's inputs and returns the layer's output,
    which the graph has computed already, so that hooks see both.
    """

    def forward(self, *inputs: Any, output: Any) -> Any:
        return output


def unobserved(prepared: GraphModule) -> GraphModule:
    """A copy of a prepared graph without its observers: the float graph."""
    result = own_copy(prepared)
    for node in list(result.graph.nodes):
        if node.op == "call_module" and is_observer(result.get_submodule(str(node.target))):
            node.replace_all_uses_with(node.args[0])
            result.graph.erase_node(node)
    result.recompile()
    return own_copy(result)


def origins(lowered: GraphModule) -> dict[str, Origin]:
    """What the int8 modules of a lowered graph stand for, by their paths."""
    found = {}
    for node in lowered.graph.nodes:
        origin = node.meta.get(ORIGIN)
        if node.op != "call_module" or origin is None:
            continue
        if isinstance(lowered.get_submodule(str(node.target)), QuantizedModule):
            found[str(node.target)] = origin
    return found


def tapped(float_graph: GraphModule, lowered: GraphModule) -> GraphModule:
    """A copy of the float graph with modules at the paths of the lowered graph's int8 ones, which
    take and return what those would without rounding. They hold the weights of the layers.

    Args:
        float_graph: what the lowered graph was made of, before observers were placed.
    """
    result = own_copy(float_graph)
    nodes = {node.name: node for node in result.graph.nodes}
    order = {node: index for index, node in enumerate(result.graph.nodes)}
    for path, origin in origins(lowered).items():
        value, inputs = nodes.get(origin.nodes[-1]), _found(origin.inputs, nodes)
        if not origin.compares or value is None or inputs is None or not _place(result, path):
            continue
        last = max((value, *_flat(inputs)), key=order.__getitem__)
        with result.graph.inserting_after(last):
            result.graph.call_module(path, inputs, {"output": value})
    result.recompile()
    return result


def _found(names: Any, nodes: dict[str, Node]) -> Any:
    """Names as nodes; None where one is missing."""
    if isinstance(names, str):
        return nodes.get(names)
    if not isinstance(names, (tuple, list)):
        return None
    found = [_found(name, nodes) for name in names]
    return None if any(item is None for item in found) else type(names)(found)


def _flat(value: Any) -> list[Node]:
    if isinstance(value, Node):
        return [value]
    return [node for item in value for node in _flat(item)]


def _place(model: nn.Module, path: str) -> bool:
    """Puts a tap at a path, with the parameters and modules of what is there; False where a tensor
    is in the way.
    """
    parent = model
    *outer, name = path.split(".")
    for part in outer:
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        inner = getattr(parent, part)
        if not isinstance(inner, nn.Module):
            return False
        parent = inner
    before = getattr(parent, name, None)
    tap = Tap()
    if isinstance(before, nn.Module):
        tap._parameters.update(before._parameters)
        tap._buffers.update(before._buffers)
        tap._modules.update(before._modules)
    elif before is not None:
        return False
    parent.add_module(name, tap)
    return True
