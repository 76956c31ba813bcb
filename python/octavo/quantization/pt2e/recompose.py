"""Graphs that were decomposed into core operators (``ExportedProgram.run_decompositions``), back in
the operators that they were exported with, which quantizers and kernels know.

    addmm(bias, view(x), permute(weight)), view  ->  linear(x, weight, bias)
    convolution                                  ->  conv2d and its relatives
    native_layer_norm, getitem 0                 ->  layer_norm, and so on

A part that does not read as one of these stays as it is: attention, which torch takes apart into
products of activations, and linear layers of inputs that are not contiguous, which become ``bmm``
by an expanded weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from octavo.quantization.pt2e.fold import remove_unused
from octavo.quantization.pt2e.graph import (
    argument,
    call,
    is_constant,
    op_name,
    users_of,
    value_of,
)

__all__ = ["recompose"]

_aten: Any = torch.ops.aten
_Call = tuple[Any, tuple[Any, ...]]


def recompose(model: GraphModule) -> None:
    """Rewrites a graph."""
    changed = False
    for node in list(model.graph.nodes):
        name = op_name(node)
        if name in ("addmm", "mm"):
            changed |= _linear(model, node)
        elif name in _SINGLE:
            changed |= _replace(model, node, node, _SINGLE[name](node))
        elif name in _FIRST_OF_SEVERAL:
            results = list(node.users)
            first = results[0] if len(results) == 1 else None
            if first is not None and op_name(first) == "getitem" and first.args[1] == 0:
                changed |= _replace(model, node, first, _FIRST_OF_SEVERAL[name](node))
    if changed:
        remove_unused(model)
        model.recompile()


def _replace(model: GraphModule, node: Node, result: Node, made: _Call | None) -> bool:
    """Puts a call in the place of `node`, whose value is `result`."""
    if made is None:
        return False
    with model.graph.inserting_before(node):
        new = call(model, made[0], made[1], node)
    result.replace_all_uses_with(new)
    return True


def _shape(node: Any) -> tuple[str, ...] | None:
    known = getattr(value_of(node), "shape", None) if isinstance(node, Node) else None
    return None if known is None else tuple(str(size) for size in known)


# Layers


def _linear(model: GraphModule, node: Node) -> bool:
    """`addmm` and `mm` by a constant matrix that is a transposed weight, and the views that make a
    matrix of their input, and of the output what the input was."""
    if op_name(node) == "addmm":
        if argument(node, "beta") != 1 or argument(node, "alpha") != 1:
            return False
        bias, x, second = (argument(node, name) for name in ("self", "mat1", "mat2"))
        if len(_shape(bias) or ()) != 1:
            return False
    else:
        bias, x, second = None, argument(node, "self"), argument(node, "mat2")
    weight = _transposed(second)
    if weight is None or not isinstance(x, Node):
        return False
    result = node
    views = users_of(node)
    whole = x.args[0] if op_name(x) == "view" else None
    if len(node.users) == 1 and op_name(views[0]) == "view" and isinstance(whole, Node):
        shape, out = _shape(whole), _shape(views[0])
        last = _shape(node)
        if shape and out and last and shape[-1] == (_shape(x) or ("",))[-1]:
            wanted = (*shape[:-1], last[-1])
            if wanted == out:
                x, result = whole, views[0]
    with model.graph.inserting_before(result):
        new = call(model, _aten.linear.default, (x, weight, bias), node)
    result.replace_all_uses_with(new)
    return True


def _transposed(node: Any) -> Node | None:
    """The constant matrix that a node transposes."""
    name = op_name(node) if isinstance(node, Node) else ""
    if name == "permute":
        swaps = list(node.args[1]) in ([1, 0], [-1, -2], [-1, 0], [1, -2])
    elif name == "transpose":
        swaps = {int(dim) % 2 for dim in node.args[1:]} == {0, 1}
    else:
        swaps = name == "t"
    weight = node.args[0] if swaps else None
    if not isinstance(weight, Node) or not is_constant(weight) or len(_shape(weight) or ()) != 2:
        return None
    return weight


def _convolution(node: Node) -> _Call | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation")
    x, weight, bias, stride, padding, dilation = (argument(node, name) for name in names)
    rank = len(_shape(weight) or ()) - 2
    groups = argument(node, "groups")
    if rank not in (1, 2, 3):
        return None
    if not argument(node, "transposed"):
        target = getattr(_aten, f"conv{rank}d").default
        return target, (x, weight, bias, stride, padding, dilation, groups)
    packet = getattr(_aten, f"conv_transpose{rank}d")
    target = packet.default if rank == 1 else packet.input
    output_padding = argument(node, "output_padding")
    return target, (x, weight, bias, stride, padding, output_padding, groups, dilation)


def _softmax(node: Node) -> _Call | None:
    if argument(node, "half_to_float"):
        return None
    return _aten.softmax.int, (node.args[0], argument(node, "dim"))


# Operators with further results, which nothing reads


def _layer_norm(node: Node) -> _Call | None:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    return _aten.layer_norm.default, tuple(argument(node, name) for name in names)


def _group_norm(node: Node) -> _Call | None:
    names = ("input", "group", "weight", "bias", "eps")
    return _aten.group_norm.default, tuple(argument(node, name) for name in names)


def _batch_norm(node: Node) -> _Call | None:
    names = ("input", "weight", "bias", "running_mean", "running_var")
    given = tuple(argument(node, name) for name in names)
    last = (argument(node, "momentum"), argument(node, "eps"), False)
    return _aten.batch_norm.default, (*given, False, *last)


def _max_pool(node: Node) -> _Call | None:
    return _aten.max_pool2d.default, tuple(node.args)


_SINGLE: dict[str, Callable[[Node], _Call | None]] = {
    "convolution": _convolution,
    "_softmax": _softmax,
}
_FIRST_OF_SEVERAL: dict[str, Callable[[Node], _Call | None]] = {
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d_with_indices": _max_pool,
}
