"""What a part of a graph is matched with: the operators that one call on int8 kernels replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.fx import Node

from octavo.lowering.commuting import MOVES, clamp_bounds, commutes
from octavo.lowering.constants import NoKernel, QuantizedWeight
from octavo.lowering.graph_view import GraphView, module_path
from octavo.lowering.operators import Operator
from octavo.lowering.qparams import QParams

__all__ = [
    "Bounds",
    "Match",
    "Plan",
    "core",
    "has_core",
    "match_clamp_of_rounded",
    "match_quantized",
    "merged",
]

Bounds = tuple[float | None, float | None]

_RELU: Bounds = (0.0, None)


@dataclass(frozen=True)
class Plan:
    """One call in the place of several nodes.

    Attributes:
        nodes: those that it replaces, the quantize node not included.
        call: a module, or a function that takes quantized tensors.
        args, kwargs: its arguments: nodes stand for quantized tensors where their values are
            dequantized integers, else for floats.
        clamp: bounds of the values that are left to a call of its own.
        note: what the report says besides.
        absorbed: quantize nodes and views that only it used.
        views: what moves the result before it is quantized in the graph, in its order. It moves
            the integers.
        joined: the node behind the quantize node whose value the result has, where the call
            includes the views in between, which nothing else reads and which are `absorbed`.
    """

    nodes: tuple[Node, ...]
    call: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    clamp: Bounds | None = None
    note: str = ""
    absorbed: tuple[Node, ...] = ()
    views: tuple[Node, ...] = ()
    joined: Node | None = None

    @property
    def replaced(self) -> tuple[Node, ...]:
        """All nodes that are not computed in float any more."""
        return self.nodes + self.views

    @property
    def main(self) -> Node:
        """What the module is named after."""
        return self.nodes[0]

    @property
    def label(self) -> str:
        return type(self.call).__name__ if isinstance(self.call, nn.Module) else "int8"


@dataclass(frozen=True)
class Match:
    """An operator with a quantized output, and what stands between the two.

    Attributes:
        view: the graph.
        node, op: the operator.
        qparams: of the output.
        bounds: of a clamp or ReLU behind the operator, or the range of the output where that is
            narrower than its dtype; None where there are none.
        nodes: the operator and its activation function.
        activation: the operator of an activation function behind it that is no clamp, or None.
    """

    view: GraphView
    node: Node
    op: Operator
    qparams: QParams
    bounds: Bounds | None
    nodes: tuple[Node, ...]
    activation: Operator | None = None

    @property
    def path(self) -> str:
        return module_path(self.node)[0]

    def input(self, value: Any, what: str = "input") -> Node:
        """An argument whose values are dequantized 8-bit integers. NoKernel for others."""
        if isinstance(value, Node) and value in self.view.exact:
            return value
        raise NoKernel(f"its {what} is not quantized")

    def same_dtype(self, inputs: Iterable[Node]) -> None:
        """NoKernel unless inputs and output have one dtype."""
        found = {self.view.exact[node].qdtype.name for node in inputs}
        if found != {self.qparams.qdtype.name}:
            raise NoKernel(
                f"its inputs are {' and '.join(sorted(found))}, its output is "
                f"{self.qparams.qdtype.name}; the kernel takes one dtype"
            )

    def same_grid(self, node: Node) -> None:
        """NoKernel unless an input has the output's scale, zero point and dtype."""
        if not self.view.exact[node].same_grid(self.qparams):
            raise NoKernel("its output's scale or zero point is not its input's")

    def weight(self, value: Any) -> QuantizedWeight:
        return self.view.constants.weight(value)

    def no_activation(self) -> None:
        if self.activation is not None:
            raise NoKernel(f"{self.activation.name} behind it is not fused")

    @property
    def is_relu(self) -> bool:
        return self.bounds == _RELU

    def set_output(self, module: Any) -> None:
        """Gives a module the qparams of the output, and the name that errors show."""
        module._qualified_name = self.path
        module._set_output(self.qparams.scale, self.qparams.zero_point, self.qparams.qdtype)

    def plan(self, call: Any, *args: Any, clamped: bool = False, **kwargs: Any) -> Plan:
        """The plan to call it; ``clamped``: it keeps to the bounds itself."""
        return Plan(self.nodes, call, args, kwargs, None if clamped else self.bounds)


Core = Callable[[Match], Plan]
_CORES: dict[str, Core] = {}


def core(*names: str) -> Callable[[Core], Core]:
    """Registers what matches operators of these names. It raises NoKernel where it cannot."""

    def register(function: Core) -> Core:
        _CORES.update(dict.fromkeys(names, function))
        return function

    return register


def has_core(op: Operator | None) -> bool:
    """Whether there is a kernel with quantized output for some arguments of an operator."""
    return op is not None and op.namespace in ("aten", "torch") and op.name in _CORES


def merged(first: Bounds | None, second: Bounds | None) -> Bounds | None:
    """Both clamps in one."""
    if first is None or second is None:
        return second if first is None else first
    lows = [bound for bound in (first[0], second[0]) if bound is not None]
    highs = [bound for bound in (first[1], second[1]) if bound is not None]
    return max(lows, default=None), min(highs, default=None)


_FUSED_ACTIVATIONS = ("leaky_relu", "tanh")


def match_quantized(view: GraphView, quantize: Node) -> Plan:
    """How to compute a quantize node from quantized tensors. NoKernel where that cannot be done."""
    op = view.op(quantize)
    assert op is not None
    qparams = view.quantized[quantize]
    root = op.first
    if not isinstance(root, Node) or view.only_user(root) is not quantize:
        raise NoKernel("its float result is used elsewhere too")
    root, views = _before_views(view, root, qparams)
    op = view.op(root)
    inner: Any = op.first if op is not None else None
    between: tuple[Node, ...] = ()
    if op is not None and clamp_bounds(op) is not None and view.only_user(inner) is root:
        inner, between = _before_views(view, inner, qparams)
    found = _with_activation(view, root, inner, qparams)
    if found is None:
        raise NoKernel(_no_int8(op))
    return replace(_planned(found), views=(*between, *views) if len(found.nodes) > 1 else views)


def _before_views(view: GraphView, node: Node, qparams: QParams) -> tuple[Node, tuple[Node, ...]]:
    """What a chain of views that nothing else reads starts from, and the chain in its order."""
    views: list[Node] = []
    op = view.op(node)
    while op is not None and op.name in MOVES and commutes(op, qparams):
        inner = op.first
        if not isinstance(inner, Node) or inner in view.exact or view.only_user(inner) is not node:
            break
        views.insert(0, node)
        node, op = inner, view.op(inner)
    return node, tuple(views)


def match_clamp_of_rounded(view: GraphView, quantize: Node) -> Plan | None:
    """How to compute a clamp of something that was rounded to the same grid before, in one call;
    None where there is no such thing.

    The integers are the same: rounding is monotone, so that clamp and rounding may change places.
    """
    op = view.op(quantize)
    assert op is not None
    qparams = view.quantized[quantize]
    root: Node = op.first
    clamp = view.op(root)
    bounds = None if clamp is None else clamp_bounds(clamp)
    if clamp is None or bounds is None or view.only_user(root) is not quantize:
        return None
    dequantize = clamp.first
    if not (view.is_dequantize(dequantize) and view.only_user(dequantize) is root):
        return None
    given = view.exact.get(dequantize)
    if given is None or not given.same_grid(qparams) or not given.holds(qparams):
        return None
    first = view.source_of(dequantize)
    rounded = view.op(first)
    if rounded is None or not view.undoes_quantize(dequantize):
        return None
    if view.only_user(first) is not dequantize:
        return None
    node = rounded.first
    inner = view.op(node)
    if inner is None or node in view.exact or view.only_user(node) is not first:
        return None
    if inner.name not in _FUSING:
        return None
    match = Match(view, node, inner, qparams, bounds, (node, root))
    try:
        plan = _planned(match)
    except NoKernel:
        return None
    # A table of the clamp alone needs what was rounded first.
    return None if dequantize in plan.args else replace(plan, absorbed=(first,))


def _planned(found: Match) -> Plan:
    # Rounding is monotone: a clamp of values, rounded, is a clamp of rounded values.
    bounds = merged(found.bounds, found.qparams.narrow)
    try:
        return _CORES[found.op.name](replace(found, bounds=bounds))
    except (TypeError, ValueError) as error:  # a module that refuses what the graph gives it
        raise NoKernel(str(error)) from error


def _no_int8(op: Operator | None) -> str:
    return f"no int8 kernel computes {op.name if op else 'it'}"


def _with_activation(view: GraphView, root: Node, inner: Any, qparams: QParams) -> Match | None:
    """The operator at `root`, or where that is an activation function the one at `inner`."""
    op, inner_op = view.op(root), view.op(inner)
    if op is None:
        return None
    if inner_op is not None and inner not in view.exact and len(inner.users) == 1:
        bounds = clamp_bounds(op)
        if inner in view.pinned or root in view.pinned:
            return None
        if bounds is not None and has_core(inner_op):
            return Match(view, inner, inner_op, qparams, bounds, (inner, root))
        if op.name in _FUSED_ACTIVATIONS and inner_op.name in _LINEAR:
            return Match(view, inner, inner_op, qparams, None, (inner, root), op)
    if not has_core(op):
        return None
    return Match(view, root, op, qparams, None, (root,))


_LINEAR = ("linear", "addmm", "mm", "matmul")
_FUSING = (*_LINEAR, "conv1d", "conv2d", "conv3d", "convolution", "add")
