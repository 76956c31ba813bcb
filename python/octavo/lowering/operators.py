"""What a node of a graph computes: one name and named arguments for each operator, whether the node
calls an aten overload (``torch.export``), a function such as ``torch.relu`` or a tensor method
(``torch.fx.symbolic_trace``).

Overloads are told by the text of their name, so that no namespace has to be registered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

__all__ = ["Operator", "is_overload", "operator_of", "words"]


def words(text: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Operator:
    """The operator that a node calls.

    Attributes:
        name: aten's name without namespace, overload and the underscore of an in-place form:
            "relu" for ``aten.relu_.default``, ``torch.relu`` and ``Tensor.relu``.
        namespace: "aten", "quantized_decomposed", ...; "torch" for functions and methods.
        overload: "default", "Tensor", ...; "" for functions and methods.
        inplace: whether it writes its first argument.
        arguments: by aten's names; of overloads all, of functions those that were given.
    """

    name: str
    namespace: str
    overload: str
    inplace: bool
    arguments: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, default)

    @property
    def first(self) -> Any:
        """The first argument: the input."""
        return next(iter(self.arguments.values()), None)


def is_overload(target: Any) -> bool:
    """Whether a target is an operator of a ``torch.library`` namespace."""
    return hasattr(target, "_schema") and str(target).count(".") >= 2


def _overload_of(target: Any) -> Any:
    """An overload, or that of an overload packet which has no name; None for other functions."""
    if is_overload(target):
        return target
    default = getattr(target, "default", None) if hasattr(target, "overloads") else None
    return default if default is not None and is_overload(default) else None


def operator_of(node: Node) -> Operator | None:
    """The operator of a node; None for placeholders, constants, modules and unknown functions."""
    if node.op == "call_method":
        return _of_method(node)
    if node.op != "call_function":
        return None
    overload = _overload_of(node.target)
    if overload is not None:
        return _of_overload(node, overload)
    known = _FUNCTIONS.get(node.target)
    if known is None:
        return None
    name, parameters = known
    arguments = dict(zip(parameters, node.args, strict=False))
    arguments.update({_RENAMED.get(key, key): value for key, value in node.kwargs.items()})
    inplace = bool(arguments.pop("inplace", False)) or node.target in _INPLACE
    return Operator(name, "torch", "", inplace, arguments)


def _of_overload(node: Node, target: Any) -> Operator:
    namespace, _, rest = str(target).partition(".")
    name, _, overload = rest.rpartition(".")
    arguments: dict[str, Any] = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(node.args) and not argument.kwarg_only:
            arguments[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            arguments[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            arguments[argument.name] = argument.default_value
    inplace = namespace == "aten" and name.endswith("_") and not name.startswith("_")
    name = name.removesuffix("_") if inplace else name
    return Operator(name, namespace, overload, inplace, arguments)


def _of_method(node: Node) -> Operator | None:
    method = str(node.target)
    inplace = method.endswith("_") and not method.endswith("__")
    name = method.removesuffix("_") if inplace else method
    parameters = _METHODS.get(name)
    if parameters is None:
        return None
    args: list[Any] = list(node.args)
    if name in _SIZES_AS_ARGUMENTS and len(args) > 1 and not isinstance(args[1], (list, tuple)):
        args = [args[0], args[1:]]
    arguments = dict(zip(parameters, args, strict=False))
    arguments.update({_RENAMED.get(key, key): value for key, value in node.kwargs.items()})
    return Operator(name, "torch", "", inplace, arguments)


# Functions and methods, with aten's names of their parameters in their own order.

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = (
    "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
)  # fmt: skip
_MAX_POOL = ("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = (
    "self", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
    "divisor_override",
)  # fmt: skip
_UNARY = ("self", "inplace")
_BINARY = ("self", "other")

_FUNCTIONS: dict[Any, tuple[str, tuple[str, ...]]] = {
    operator.getitem: ("getitem", ("self", "index")),
    operator.add: ("add", _BINARY),
    operator.iadd: ("add", _BINARY),
    operator.mul: ("mul", _BINARY),
    operator.imul: ("mul", _BINARY),
    torch.add: ("add", _BINARY),
    torch.mul: ("mul", _BINARY),
    F.linear: ("linear", ("input", "weight", "bias")),
    torch.cat: ("cat", ("tensors", "dim")),
    torch.mean: ("mean", ("self", "dim", "keepdim")),
    torch.flatten: ("flatten", ("self", "start_dim", "end_dim")),
    torch.reshape: ("reshape", ("self", "shape")),
    torch.permute: ("permute", ("self", "dims")),
    torch.transpose: ("transpose", ("self", "dim0", "dim1")),
    torch.unsqueeze: ("unsqueeze", ("self", "dim")),
    torch.squeeze: ("squeeze", ("self", "dim")),
    torch.relu: ("relu", _UNARY),
    torch.sigmoid: ("sigmoid", _UNARY),
    torch.tanh: ("tanh", _UNARY),
    F.relu: ("relu", _UNARY),
    F.relu6: ("relu6", _UNARY),
    F.hardtanh: ("hardtanh", ("self", "min_val", "max_val", "inplace")),
    F.hardswish: ("hardswish", _UNARY),
    F.hardsigmoid: ("hardsigmoid", _UNARY),
    F.silu: ("silu", _UNARY),
    F.gelu: ("gelu", ("self", "approximate")),
    F.elu: ("elu", ("self", "alpha", "inplace")),
    F.leaky_relu: ("leaky_relu", ("self", "negative_slope", "inplace")),
    F.dropout: ("dropout", ("input", "p", "train", "inplace")),
    F.layer_norm: ("layer_norm", ("input", "normalized_shape", "weight", "bias", "eps")),
    F.group_norm: ("group_norm", ("input", "num_groups", "weight", "bias", "eps")),
    F.embedding: ("embedding", ("indices", "weight", "padding_idx", "max_norm")),
    F.softmax: ("softmax", ("self", "dim")),
    torch.softmax: ("softmax", ("self", "dim")),
    F.max_pool2d: ("max_pool2d", _MAX_POOL),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", ("self", "output_size")),
    F.avg_pool2d: ("avg_pool2d", _AVG_POOL),
    torch.max_pool2d: ("max_pool2d", _MAX_POOL),
}
for _rank in (1, 2, 3):
    for _namespace in (torch, F):
        _FUNCTIONS[getattr(_namespace, f"conv{_rank}d")] = (f"conv{_rank}d", _CONV)
        _FUNCTIONS[getattr(_namespace, f"conv_transpose{_rank}d")] = (
            f"conv_transpose{_rank}d",
            _CONV_TRANSPOSE,
        )

_INPLACE: tuple[Callable[..., Any], ...] = (operator.iadd, operator.imul)

_RENAMED = {"training": "train", "input": "input", "min": "min", "max": "max"}

_METHODS: dict[str, tuple[str, ...]] = {
    "add": _BINARY,
    "mul": _BINARY,
    "relu": ("self",),
    "sigmoid": ("self",),
    "tanh": ("self",),
    "mean": ("self", "dim", "keepdim"),
    "view": ("self", "size"),
    "reshape": ("self", "shape"),
    "permute": ("self", "dims"),
    "transpose": ("self", "dim0", "dim1"),
    "flatten": ("self", "start_dim", "end_dim"),
    "unsqueeze": ("self", "dim"),
    "squeeze": ("self", "dim"),
    "contiguous": ("self",),
    "clone": ("self",),
    "detach": ("self",),
    "size": ("self", "dim"),
    "t": ("self",),
}
_SIZES_AS_ARGUMENTS = ("view", "reshape", "permute")
