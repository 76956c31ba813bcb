"""Scaled dot-product attention, and the views that split features into heads and join them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.fx import Node

from octavo.lowering.constants import NoKernel
from octavo.lowering.graph_view import GraphView
from octavo.lowering.operators import Operator
from octavo.lowering.patterns import Match, Plan, core
from octavo.nn.quantized import modules as nnq
from octavo.ops.attention import attention_refusal

__all__ = ["join_heads"]

_INPUTS = ("query", "key", "value")
_OPTIONS = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_SPLITS = ("view", "reshape", "unflatten")
_JOINS = ("view", "reshape", "flatten", "_unsafe_view")
_SAME = ("contiguous", "clone")


@core("scaled_dot_product_attention")
def _attention(match: Match) -> Plan:
    """Where the graph quantizes the result itself. Where it quantizes what views make of it, as the
    input of a layer, only layers are to be rounded, and attention computes in float.
    """
    given = match.op.arguments
    refusal = attention_refusal(**{name: given[name] for name in _OPTIONS if name in given})
    if refusal:
        raise NoKernel(refusal)
    if not any(user in match.view.quantized for user in match.node.users):
        raise NoKernel("its own output is not quantized")
    inputs = [match.input(match.op.get(name), name) for name in _INPUTS]
    _check_shapes(match.view, inputs)
    scale = match.op.get("scale")
    module = nnq.ScaledDotProductAttention(factor=None if scale is None else float(scale))
    match.set_output(module)
    return match.plan(module, *inputs)


def _shape(view: GraphView, node: Any) -> list[str]:
    """Sizes, as far as the graph says; those that depend on its inputs as expressions."""
    op = view.op(node)
    while op is not None and "val" not in node.meta and "quantize_per_tensor" in op.name:
        node = op.first
        op = view.op(node)
    known = getattr(node.meta.get("val"), "shape", None) if isinstance(node, Node) else None
    return [] if known is None else [str(size) for size in known]


def _check_shapes(view: GraphView, inputs: list[Node]) -> None:
    """NoKernel where leading dimensions are broadcast, or the graph does not say."""
    shapes = [_shape(view, node) for node in inputs]
    if any(len(shape) < 2 or shape[:-2] != shapes[0][:-2] for shape in shapes):
        raise NoKernel("the leading dimensions of its query, key and value are not the same")


def join_heads(view: GraphView, quantize: Node, plan: Plan) -> Plan:
    """The plan of attention without the views around it, where these split the features of tokens
    into heads, and join them again: one call from ``[batch, tokens, features]`` to the same.
    """
    module = plan.call
    if not isinstance(module, nnq.ScaledDotProductAttention) or plan.views or plan.clamp:
        return plan
    heads = _shape(view, plan.args[0])[1:2]
    joined = _joined(view, quantize)
    found = [_split(view, node) for node in plan.args]
    if joined is None or not heads or not heads[0].isdigit():
        return plan
    last, absorbed = joined
    sources = []
    for item in found:
        if item is None:
            return plan
        sources.append(item[0])
        absorbed.update(item[1])
    module.heads = int(heads[0])
    return replace(plan, args=tuple(sources), joined=last, absorbed=tuple(absorbed))


def _split(view: GraphView, node: Node) -> tuple[Node, dict[Node, None]] | None:
    """What ``view(batch, tokens, heads, size).transpose(1, 2)`` was taken of, where nothing else
    reads the results, and what is in between."""
    skipped: dict[Node, None] = {}
    turned = _before(view, node, skipped)
    op = view.op(turned)
    if op is None or not _swaps_tokens_and_heads(op) or not isinstance(op.first, Node):
        return None
    apart = _before(view, op.first, skipped)
    op = view.op(apart)
    if op is None or op.name not in _SPLITS or not isinstance(op.first, Node):
        return None
    if view.only_user(turned) is None or view.only_user(apart) is None:
        return None
    skipped[turned] = skipped[apart] = None
    source, shape = op.first, _shape(view, apart)
    exact = source in view.exact and apart in view.exact
    return (source, skipped) if exact and _divides(shape, _shape(view, source)) else None


def _joined(view: GraphView, quantize: Node) -> tuple[Node, dict[Node, None]] | None:
    """What ``transpose(1, 2)`` and ``flatten(2)`` make of a result that nothing else reads, and
    what is in between."""
    skipped: dict[Node, None] = {}
    node = view.only_user(quantize)
    if node is None or not view.is_dequantize(node) or not view.undoes_quantize(node):
        return None
    turned = _behind(view, node, skipped)
    op = view.op(turned)
    if turned is None or op is None or not _swaps_tokens_and_heads(op):
        return None
    skipped[turned] = None
    last = _behind(view, turned, skipped)
    while last is not None and (op := view.op(last)) is not None and op.name in _SAME:
        skipped[last] = None
        last = _behind(view, last, skipped)
    op = view.op(last)
    if last is None or op is None or op.name not in _JOINS or last not in view.exact:
        return None
    return (last, skipped) if _divides(_shape(view, turned), _shape(view, last)) else None


def _divides(shape: list[str], whole: list[str]) -> bool:
    """Whether the last of three dimensions is cut into the last two of four."""
    return len(shape) == 4 and len(whole) == 3 and shape[:2] == whole[:2]


def _repeats(view: GraphView, source: Any, quantize: Any) -> bool:
    """Whether a quantize node gives the integers that its exact source stands for."""
    given, wanted = view.exact.get(source), view.quantized.get(quantize)
    return (
        given is not None
        and wanted is not None
        and wanted.same_grid(given)
        and (wanted.holds(given))
    )


def _before(view: GraphView, node: Node, skipped: dict[Node, None]) -> Node:
    """The node whose value has been quantized again, and dequantized, to what it was; what nothing
    else reads on the way goes to `skipped`."""
    while view.is_dequantize(node) and view.only_user(node) and view.undoes_quantize(node):
        quantize = view.source_of(node)
        op = view.op(quantize)
        if op is None or view.only_user(quantize) is not node:
            break
        if not _repeats(view, op.first, quantize):
            break
        skipped[quantize] = None
        node = op.first
    return node


def _behind(view: GraphView, node: Node, skipped: dict[Node, None]) -> Node | None:
    """The only node that reads a value, or what it is after it was quantized again to the same."""
    user = view.only_user(node)
    while user is not None and _repeats(view, node, user):
        dequantize = view.only_user(user)
        if dequantize is None or not view.is_dequantize(dequantize):
            return None
        if not view.undoes_quantize(dequantize):
            return None
        skipped[user] = None
        node, user = dequantize, view.only_user(dequantize)
    return user


def _swaps_tokens_and_heads(op: Operator) -> bool:
    if op.name == "transpose":
        return {op.get("dim0") % 4, op.get("dim1") % 4} == {1, 2}
    return op.name == "permute" and [dim % 4 for dim in op.get("dims")] == [0, 2, 1, 3]
