"""Functions of one tensor, element by element: look-ups in tables of 256 results; softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from octavo import ops
from octavo.lowering.commuting import clamp_bounds
from octavo.lowering.constants import NoKernel
from octavo.lowering.graph_view import GraphView
from octavo.lowering.modules import LookupTable
from octavo.lowering.operators import Operator, words
from octavo.lowering.patterns import Match, Plan, core
from octavo.lowering.qparams import QParams
from octavo.nn.quantized import modules as nnq

__all__ = ["requantized", "requantizing", "table_of"]

_ELEMENTWISE = words(
    "add sub rsub mul div neg abs exp expm1 log1p sqrt rsqrt reciprocal square pow relu relu6 "
    "hardtanh clamp clamp_min clamp_max hardswish hardsigmoid sigmoid tanh silu gelu elu celu selu "
    "leaky_relu mish softplus softsign log_sigmoid threshold sin cos erf atan sign floor ceil "
    "round minimum maximum clone detach alias contiguous dropout"
)
_MOST_NODES = 32


def _named(make: Callable[[Operator, float, int], Any]) -> Callable[[Match], Plan]:
    """A function that has a module of its own."""

    def match_function(match: Match) -> Plan:
        x = match.op.first
        if not isinstance(x, Node) or x not in match.view.exact:
            return table_of(match)
        module = make(match.op, match.qparams.scale, match.qparams.zero_point)
        if module is None:
            return table_of(match)
        match.set_output(module)
        return match.plan(module, x)

    return match_function


def _elu(op: Operator, scale: float, zero_point: int) -> Any:
    plain = op.get("scale", 1) == 1 and op.get("input_scale", 1) == 1
    return nnq.ELU(scale, zero_point, float(op.get("alpha", 1.0))) if plain else None


for _name, _make in (
    ("hardswish", lambda op, scale, zero_point: nnq.Hardswish(scale, zero_point)),
    ("hardsigmoid", lambda op, scale, zero_point: nnq.Hardsigmoid(scale, zero_point)),
    ("sigmoid", lambda op, scale, zero_point: nnq.Sigmoid(scale, zero_point)),
    ("tanh", lambda op, scale, zero_point: nnq.Tanh(scale, zero_point)),
    ("silu", lambda op, scale, zero_point: nnq.SiLU(scale, zero_point)),
    (
        "gelu",
        lambda op, scale, zero_point: nnq.GELU(scale, zero_point, op.get("approximate", "none")),
    ),
    (
        "leaky_relu",
        lambda op, scale, zero_point: nnq.LeakyReLU(
            scale, zero_point, float(op.get("negative_slope", 0.01))
        ),
    ),
    ("elu", _elu),
):
    core(_name)(_named(_make))


@core("softmax", "_softmax")
def _softmax(match: Match) -> Plan:
    x = match.input(match.op.first)
    if match.op.get("dtype") not in (None, torch.float32) or match.op.get("half_to_float"):
        raise NoKernel("it computes in another dtype")
    module = nnq.Softmax(match.op.get("dim"), match.qparams.scale, match.qparams.zero_point)
    match.set_output(module)
    return match.plan(module, x)


@core("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max")
def _clamp(match: Match) -> Plan:
    """A clamp whose input is quantized: on its integers where the output has the same grid."""
    x, bounds = match.op.first, clamp_bounds(match.op)
    known = isinstance(x, Node) and x in match.view.exact
    if not known or bounds is None or not match.view.exact[x].same_grid(match.qparams):
        return table_of(match)
    lo, hi = bounds
    if lo is not None and hi is not None:
        return match.plan(F.hardtanh, x, lo, hi)
    return match.plan(torch.clamp, x, min=lo, max=hi)


@core(*sorted(_ELEMENTWISE - {"add", "mul", "relu", "relu6", "hardtanh", "clamp", "clamp_min"}
              - {"clamp_max", "hardswish", "hardsigmoid", "sigmoid", "tanh", "silu", "gelu"}
              - {"elu", "leaky_relu"}))  # fmt: skip
def table_of(match: Match) -> Plan:
    """Any elementwise function of one quantized tensor, written in any number of operators.

    The graph's own operators compute it for all 256 values. NoKernel where there are several
    tensors, or something that is not elementwise.
    """
    root = match.nodes[-1]
    nodes, source = _expression(match.view, root)
    values = _evaluated(match.view, nodes, source, match.view.exact[source])
    module = _table(values, match.view.exact[source], match.qparams)
    match.set_output(module)
    return Plan((root, *(node for node in nodes if node is not root)), module, (source,), {})


def requantizing(view: GraphView, quantize: Node) -> Plan | None:
    """The plan of a function that keeps to its input's grid and is then given another one: one
    table for both; None for anything else."""
    op, qparams = view.op(quantize), view.quantized[quantize]
    assert op is not None
    root: Node = op.first
    function = view.op(root)
    if function is None or clamp_bounds(function) is None or view.only_user(root) is not quantize:
        return None
    return table_of(Match(view, root, function, qparams, None, (root,)))


def requantized(view: GraphView, source: Node, qparams: QParams) -> LookupTable:
    """The module that gives the same values other parameters."""
    return _table(_values(view.exact[source]), view.exact[source], qparams)


def _expression(view: GraphView, root: Node) -> tuple[list[Node], Node]:
    """The elementwise operators that compute `root` from one quantized tensor, in order."""
    nodes: set[Node] = set()
    sources: set[Node] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node in view.exact and node is not root:
            sources.add(node)
            continue
        op = view.op(node)
        if op is None or op.name not in _ELEMENTWISE or op.namespace not in ("aten", "torch"):
            raise NoKernel(_unmatched(view, root))
        if node in view.pinned or op.get("train", False):
            raise NoKernel("it writes memory that something else reads")
        nodes.add(node)
        pending.extend(source for source in node.all_input_nodes if source not in nodes)
    if len(sources) != 1 or len(nodes) > _MOST_NODES:
        raise NoKernel(_unmatched(view, root))
    if any(user not in nodes for node in nodes if node is not root for user in node.users):
        raise NoKernel("a float result on its way is used elsewhere too")
    return [node for node in view.nodes if node in nodes], sources.pop()


def _unmatched(view: GraphView, root: Node) -> str:
    op = view.op(root)
    if op is not None and not any(source in view.exact for source in root.all_input_nodes):
        return "its input is not quantized"
    if op is not None and op.name in ("add", "mul", "cat"):
        return "not all of its inputs are quantized"
    return "no int8 kernel computes it"


def _values(qparams: QParams) -> torch.Tensor:
    """The 256 values of a grid, in the order of the bytes that stand for them."""
    ints = torch.arange(256, dtype=torch.uint8).view(qparams.qdtype.storage)
    return ops.dequantize(ints, qparams.scale, qparams.zero_point)


def _evaluated(view: GraphView, nodes: list[Node], source: Node, qparams: QParams) -> torch.Tensor:
    known: dict[Node, Any] = {source: _values(qparams)}
    for node in nodes:
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
        if node.op == "call_method":
            known[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            target: Any = node.target
            known[node] = target(*args, **kwargs)
    result: torch.Tensor = known[nodes[-1]]
    if result.shape != (256,) or result.dtype != torch.float32:
        raise NoKernel("it does not keep the shape and the dtype of its input")
    return result


def _table(values: torch.Tensor, source: QParams, qparams: QParams) -> LookupTable:
    scale, zero_point, qdtype = qparams.scale, qparams.zero_point, qparams.qdtype
    ints = ops.quantize(values.contiguous(), scale, zero_point, qdtype, qparams.lo, qparams.hi)
    table = ints.view(torch.uint8)
    return LookupTable(table, source.scale, source.zero_point, scale, zero_point, qdtype)
