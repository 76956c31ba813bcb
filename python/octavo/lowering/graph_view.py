"""A Q/DQ graph, looked at: which float values are dequantized integers, what may be fused."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch.fx import GraphModule, Node

from octavo.lowering import commuting
from octavo.lowering.constants import Constants
from octavo.lowering.operators import Operator, is_overload, operator_of, words
from octavo.lowering.qparams import QParams, is_dequantize, is_quantize, qparams_of

__all__ = ["GraphView", "module_path"]

_TUPLES = words("split split_with_sizes chunk unbind")


def module_path(node: Node) -> tuple[str, str]:
    """Path and class name of the innermost module that a node comes from; empty where the graph
    does not say.
    """
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1][:2]
    path = re.sub(r"^(L\['self'\]|L__self__|self)\.?", "", str(path)).strip(".")
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return path, name


class GraphView:
    """What is known of a graph before anything is replaced.

    Attributes:
        constants: its constants.
        quantized: the supported quantize nodes, and their parameters.
        unsupported: quantize nodes without kernels, and why.
        exact: nodes whose float values are dequantized integers, bit for bit, and the parameters of
            these: dequantize nodes, and what commutes with them.
        pinned: nodes that share memory with something that is written in place, and those that
            write it: they stay as they are, in their order.
    """

    def __init__(self, module: GraphModule) -> None:
        self.nodes: list[Node] = list(module.graph.nodes)
        self._operators = {node: operator_of(node) for node in self.nodes}
        self._order = {node: i for i, node in enumerate(self.nodes)}
        self.pinned = self._find_pinned()
        written = {str(node.target) for node in self.pinned if node.op == "get_attr"}
        self.constants = Constants(module, written)
        self.quantized: dict[Node, QParams] = {}
        self.unsupported: dict[Node, str] = {}
        self.exact: dict[Node, QParams] = {}
        for node in self.nodes:
            self._classify(node)

    def op(self, node: Any) -> Operator | None:
        """The operator of a node; None for anything else."""
        return self._operators.get(node) if isinstance(node, Node) else None

    def only_user(self, node: Node) -> Node | None:
        """The node that uses this one, if there is just one."""
        users = list(node.users)
        return users[0] if len(users) == 1 and node not in self.pinned else None

    def source_of(self, dequantize: Node) -> Node:
        """The node of the integers that an exact dequantize node reads."""
        op = self.op(dequantize)
        assert op is not None
        source: Node = op.first
        return source

    def undoes_quantize(self, node: Node) -> bool:
        """Whether a dequantize node has the parameters of the quantize node before it."""
        found, source = self.source_grid(node), self.quantized.get(self.source_of(node))
        return found is not None and source is not None and found.same_grid(source)

    def source_grid(self, node: Node) -> QParams | None:
        """The parameters of the 8-bit integers that a node dequantizes; None where it does
        something else. They need not come from a quantize node.
        """
        op = self.op(node)
        if op is None or not is_dequantize(op) or self.constants.is_constant(node):
            return None
        found = qparams_of(op, self.constants.value)
        if isinstance(found, str) or op.first in self.unsupported:
            return None
        source = self.quantized.get(op.first)
        if source is not None and found.same_grid(source):
            return source
        # The operator does not clamp what it dequantizes.
        return replace(found, lo=found.qdtype.qmin, hi=found.qdtype.qmax)

    def is_dequantize(self, node: Node) -> bool:
        return is_dequantize(self.op(node))

    # Memory that is written in place

    def _find_pinned(self) -> set[Node]:
        pinned: set[Node] = set()
        for node in self.nodes:
            written = self._written_by(node)
            for target in written:
                if not self._written_alone(node, target):
                    pinned.add(node)
                    pinned.update(self._sharing_memory(target))
        return pinned

    def _written_by(self, node: Node) -> list[Node]:
        """The nodes whose memory a node writes, or may write: modules are not looked into."""
        op = self.op(node)
        sources = list(node.all_input_nodes)
        if op is not None and op.inplace:
            return sources[:1]
        if node.op == "call_module":
            return sources if node.target != "_guards_fn" else []
        if node.op == "call_method":
            known = op is not None or not str(node.target).endswith("_")
            return [] if known else sources[:1]
        if node.op == "call_function" and is_overload(node.target):
            target: Any = node.target
            aten = op is not None and op.namespace == "aten"
            return sources if aten and target._schema.is_mutable else []
        writes = node.target is operator.setitem or bool(node.kwargs.get("inplace"))
        return sources[:1] if writes else []

    def _written_alone(self, writer: Node, target: Node) -> bool:
        """Whether nobody else sees the memory that `writer` writes: then it is as good as a copy.

        That is memory of an intermediate result which nothing else reads afterwards.
        """
        op, source = self.op(writer), self.op(target)
        if op is None or not op.inplace or target.op not in ("call_function", "call_method"):
            return False
        if source is not None and source.name in commuting.ALIASING:
            return False
        if source is None and target.op == "call_method":
            return False
        for user in target.users:
            if user is writer:
                continue
            other = self.op(user)
            if self._order[user] > self._order[writer] or user.op == "output":
                return False
            if other is None or other.name in commuting.ALIASING:
                return False
        return True

    def _sharing_memory(self, node: Node) -> Iterator[Node]:
        """Everything that may share memory with a node."""
        base, seen = node, {node}
        while (
            (op := self.op(base)) is not None
            and (op.inplace or op.name in commuting.ALIASING)
            and isinstance(op.first, Node)
        ):
            base = op.first
        pending = [base, node]
        while pending:
            current = pending.pop()
            seen.add(current)
            for user in current.users:
                op = self.op(user)
                shares = op is not None and (op.inplace or op.name in commuting.ALIASING)
                if shares and user not in seen and op is not None and op.first is current:
                    pending.append(user)
        yield from seen

    # Quantized values

    def _classify(self, node: Node) -> None:
        op = self.op(node)
        if is_quantize(op):
            assert op is not None
            found = qparams_of(op, self.constants.value)
            if isinstance(found, str):
                self.unsupported[node] = found
            elif not self.constants.is_constant(node):
                self.quantized[node] = found
            return
        qparams = self._exact_qparams(node, op)
        if qparams is not None and node not in self.pinned:
            self.exact[node] = qparams

    def _exact_qparams(self, node: Node, op: Operator | None) -> QParams | None:
        if op is None:
            return None
        if is_dequantize(op):
            return self.source_grid(node)
        if op.name in ("cat", "stack", "concat") and op.namespace in ("aten", "torch"):
            return self._joined(op.first)
        source = self.exact.get(op.first) if isinstance(op.first, Node) else None
        if source is None or not commuting.commutes(op, source):
            return None
        if op.name == commuting.POOL_WITH_INDICES and not self._reads_only_values(node):
            return None
        of = self.op(op.first)
        if op.name == "getitem" and of is not None and of.name in _TUPLES:
            return source if isinstance(op.get("index"), int) else None
        return source

    def _reads_only_values(self, node: Node) -> bool:
        """Whether of a pair of values and indices only the values are read."""
        readers = [self.op(user) for user in node.users]
        return all(
            op is not None and op.name == "getitem" and op.get("index") == 0 for op in readers
        )

    def _joined(self, tensors: Any) -> QParams | None:
        """The parameters that all tensors of a list have; None where they differ."""
        if not isinstance(tensors, (list, tuple)) or not tensors:
            return None
        found = [self.exact.get(t) if isinstance(t, Node) else None for t in tensors]
        first = found[0]
        same = first is not None and all(q is not None and q.same_grid(first) for q in found)
        if not same or first is None:
            return None
        lo, hi = _reach(q for q in found if q is not None)
        return QParams(first.scale, first.zero_point, first.qdtype, lo, hi)


def _reach(qparams: Iterable[QParams]) -> tuple[int, int]:
    ranges = [(q.lo, q.hi) for q in qparams]
    return min(lo for lo, _ in ranges), max(hi for _, hi in ranges)
