"""Reading and editing exported graphs."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

__all__ = [
    "add_constant",
    "argument",
    "attribute",
    "call",
    "constant_value",
    "copy_graph_module",
    "is_constant",
    "location",
    "module_stack",
    "op_name",
    "set_argument",
    "set_constant",
    "users_of",
    "value_of",
]

_KEPT_META = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn", "from_node")


def copy_graph_module(model: GraphModule, kind: type[GraphModule] = GraphModule) -> GraphModule:
    """A graph module with a graph of its own that shares tensors and submodules with ``model``.

    Setting an attribute of the copy, or editing its graph, leaves ``model`` as it is.
    """
    graph = Graph(tracer_cls=model.graph._tracer_cls)
    graph.output(graph.graph_copy(model.graph, {}))
    graph.set_codegen(copy.copy(model.graph._codegen))
    result = kind(model, graph, "GraphModule")
    result.meta.update(model.meta)
    result.training = model.training
    return result


def op_name(node: Node) -> str:
    """The name of the operator that a node calls, such as "conv2d" for any overload of it in the
    ``aten`` namespace; "octavo::..." for others; "" for nodes that call none.
    """
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    schema = getattr(node.target, "_schema", None)
    name = str(getattr(schema, "name", ""))
    return name.removeprefix("aten::")


def argument(node: Node, name: str) -> Any:
    """What a node that calls an operator passes for an argument, or the argument's default."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    for index, formal in enumerate(schema.arguments):
        if formal.name == name:
            if index < len(node.args):
                return node.args[index]
            return node.kwargs.get(name, formal.default_value)
    raise KeyError(f"{schema.name} has no argument {name!r}")


def set_argument(node: Node, name: str, value: Any) -> None:
    """Changes an argument; those before it that were left out are given their defaults."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    index = next(i for i, formal in enumerate(schema.arguments) if formal.name == name)
    if name in node.kwargs or schema.arguments[index].kwarg_only:
        node.kwargs = {**node.kwargs, name: value}
        return
    args = list(node.args)
    for formal in schema.arguments[len(args) : index + 1]:
        args.append(node.kwargs.get(formal.name, formal.default_value))
    args[index] = value
    names = {formal.name for formal in schema.arguments[: len(args)]}
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in names}
    node.args = tuple(args)


def value_of(node: Node) -> Any:
    """The fake tensor, or whatever else the node is known to return; None where unknown."""
    return node.meta.get("val")


def users_of(node: Node) -> list[Node]:
    """Users of a node's value, without those that only ask for its size."""
    return [user for user in node.users if op_name(user) not in ("sym_size", "_guards")]


_LOCAL = re.compile(r"^L\['self'\]\.?|^L__self__\.?")


def module_stack(node: Node) -> list[tuple[str, str]]:
    """Path and class name of the modules that a node was called in, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    result = []
    for path, kind in stack.values():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        result.append((_LOCAL.sub("", path), name))
    return result


def location(node: Node) -> str:
    """How messages name a node: with its operator and the module it is in."""
    stack = module_stack(node)
    path = stack[-1][0] if stack else ""
    what = str(node.target) if node.op in ("call_function", "get_attr") else node.op
    return f"node '{node.name}' ({what}{f', module {path!r}' if path else ''})"


def call(model: GraphModule, target: Callable[..., Any], args: tuple[Any, ...], like: Node) -> Node:
    """Adds a call at the graph's insertion point. Its value is computed on fake tensors where those
    of its arguments are known, its other metadata are those of ``like``.
    """
    node = model.graph.call_function(target, args)
    node.meta = {key: like.meta[key] for key in _KEPT_META if key in like.meta}
    values = map_arg(args, lambda arg: arg.meta.get("val", arg))
    missing = [arg for arg in _nodes(args) if "val" not in arg.meta]
    mode = next((v.fake_mode for v in map(value_of, _nodes(args)) if hasattr(v, "fake_mode")), None)
    if not missing and mode is not None:
        with mode, torch.no_grad():
            node.meta["val"] = target(*values)
    return node


def _nodes(args: Any) -> list[Node]:
    found: list[Node] = []
    map_arg(args, lambda arg: found.append(arg) or arg)  # type: ignore[func-returns-value]
    return found


def _parent(model: nn.Module, target: str) -> tuple[nn.Module, str]:
    path, _, name = target.rpartition(".")
    return (model.get_submodule(path) if path else model), name


def attribute(model: nn.Module, target: str) -> Any:
    """The tensor or module at a dotted path."""
    parent, name = _parent(model, target)
    return getattr(parent, name)


def set_constant(model: GraphModule, node: Node, value: Tensor) -> None:
    """Gives a get_attr node another tensor: at its own path if no other node reads that, else at a
    new one. Parameters stay parameters.
    """
    target = str(node.target)
    parent, name = _parent(model, target)
    old = getattr(parent, name)
    readers = [n for n in model.graph.nodes if n.op == "get_attr" and n.target == target]
    if len(readers) > 1:
        parent, name = model, _free_name(model, target.replace(".", "_") + "_")
        node.target = name
    if isinstance(old, nn.Parameter):
        setattr(parent, name, nn.Parameter(value.detach(), requires_grad=old.requires_grad))
    else:
        parent.register_buffer(name, value)
    _refresh(node, value)


def _refresh(node: Node, value: Tensor) -> None:
    node.meta.pop("tensor_meta", None)
    mode = getattr(value_of(node), "fake_mode", None)
    if mode is not None:
        node.meta["val"] = mode.from_tensor(value.detach(), static_shapes=True)


def _free_name(model: nn.Module, prefix: str) -> str:
    index = 0
    while hasattr(model, f"{prefix}{index}"):
        index += 1
    return f"{prefix}{index}"


def add_constant(model: GraphModule, prefix: str, value: Tensor, like: Node) -> Node:
    """Registers a buffer under a free name that begins with ``prefix``, and adds a node that reads
    it at the graph's insertion point.
    """
    name = _free_name(model, prefix)
    model.register_buffer(name, value)
    node = model.graph.get_attr(name)
    node.meta = {key: like.meta[key] for key in _KEPT_META if key in like.meta}
    mode = getattr(value_of(like), "fake_mode", None)
    if mode is not None:
        node.meta["val"] = mode.from_tensor(value.detach(), static_shapes=True)
    return node


def is_constant(node: Node) -> bool:
    """Whether a node's value depends on parameters, buffers and numbers only, through operators
    without side effects or randomness.
    """
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "get_attr":
            if any(_writes_to(user, current) for user in current.users):
                return False
        elif current.op == "call_function":
            if not _is_pure(current):
                return False
        else:
            return False
        stack += current.all_input_nodes
    return True


def _is_pure(node: Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable:
        return False
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags


def _writes_to(user: Node, value: Node) -> bool:
    schema = getattr(user.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    names = {a.name for a in written}
    pairs = zip(schema.arguments, user.args, strict=False)
    return any(arg is value for formal, arg in pairs if formal.name in names)


def constant_value(model: GraphModule, node: Node) -> Any:
    """Computes the value of a node for which :func:`is_constant` holds."""
    known: dict[Node, Any] = {}
    for current in _ancestors(node):
        if current.op == "get_attr":
            known[current] = attribute(model, str(current.target))
            continue
        args, kwargs = map_arg((current.args, dict(current.kwargs)), known.__getitem__)
        with torch.no_grad():
            known[current] = current.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def _ancestors(node: Node) -> Iterator[Node]:
    """The node and all that it is computed from, in the graph's order."""
    needed, stack = set(), [node]
    while stack:
        current = stack.pop()
        if current not in needed:
            needed.add(current)
            stack += current.all_input_nodes
    return (current for current in node.graph.nodes if current in needed)
