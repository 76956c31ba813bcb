"""Operations in place, made to return their results instead.

A graph has values, which do not change. What reads a value after an operation has changed it in
place reads the result of that operation here.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

__all__ = ["functionalize"]

_FUNCTIONS: dict[Any, Any] = {
    torch.relu_: torch.relu,
    getattr(F, "relu_", torch.relu_): torch.relu,
    F.hardtanh_: F.hardtanh,
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}
_METHODS = {
    f"{name}_": name
    for name in ("add", "mul", "relu", "sigmoid", "tanh", "clamp", "sub", "div", "detach")
} | {"squeeze_": "squeeze", "unsqueeze_": "unsqueeze"}
_VIEWS = (
    "view",
    "reshape",
    "permute",
    "transpose",
    "chunk",
    "split",
    "squeeze",
    "unsqueeze",
    "select",
    "narrow",
    "expand",
    "t",
    "flatten",
    "unbind",
    "detach",
)
_VIEW_FUNCTIONS = (
    operator.getitem,
    *(getattr(torch, name) for name in _VIEWS if hasattr(torch, name)),
)


def functionalize(graph: fx.Graph, model: nn.Module, caller: str) -> None:
    """Takes operations in place out of a graph, and the flag ``inplace`` off modules of ``model``.

    Raises:
        ValueError: an operation changes a tensor of which the graph uses a view afterwards.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _is_in_place(node, model):
            continue
        changed = node.args[0] if node.args else node.kwargs.get("input")
        if isinstance(changed, fx.Node):
            _check_no_alias(changed, node, order, caller)
            for user in list(changed.users):
                if order[user] > order[node]:
                    user.replace_input_with(changed, node)
        _make_plain(node, model)


def _is_in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op == "call_function":
        return node.target in _FUNCTIONS or node.kwargs.get("inplace", False) is True
    return False


def _make_plain(node: fx.Node, model: nn.Module) -> None:
    if node.op == "call_module":
        model.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
    elif node.op == "call_method":
        node.target = _METHODS[str(node.target)]
    else:
        node.target = _FUNCTIONS.get(node.target, node.target)
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}


def _is_view(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _VIEWS
    return node.op == "call_function" and node.target in _VIEW_FUNCTIONS


def _check_no_alias(
    changed: fx.Node, node: fx.Node, order: dict[fx.Node, int], caller: str
) -> None:
    """Raises ValueError where a view of the changed tensor, or what it is a view of, is read after
    the change.
    """
    aliases = {changed}
    base = changed
    while _is_view(base) and isinstance(base.args[0], fx.Node):
        base = base.args[0]
        aliases.add(base)
    for other in order:
        if _is_view(other) and other.args[0] in aliases and order[other] < order[node]:
            aliases.add(other)
    late = [
        user
        for alias in aliases - {changed}
        for user in alias.users
        if order[user] > order[node] and user is not node
    ]
    if late:
        raise ValueError(
            f"{caller}: '{node.format_node()}' changes a tensor in place, and '{late[0].name}' "
            "reads the same memory through a view afterwards; write that operation so that it "
            "returns a new tensor"
        )
