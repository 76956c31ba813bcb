"""Embedding tables of 8-bit rows."""

from __future__ import annotations

import torch
from torch.fx import Node

from octavo import ops
from octavo.dtypes import quint8
from octavo.lowering.constants import NoKernel
from octavo.lowering.graph_view import GraphView, module_path
from octavo.lowering.operators import Operator
from octavo.lowering.patterns import Plan
from octavo.nn.quantized import modules as nnq

__all__ = ["embedding"]


def embedding(view: GraphView, node: Node, op: Operator) -> Plan:
    """A look-up in a quantized table. NoKernel where the table is another."""
    found = view.constants.weight(op.get("weight")).for_axis(0)
    if op.get("max_norm") is not None:
        raise NoKernel("it rescales its rows (max_norm)")
    if found.ints.dim() != 2 or found.ints.numel() == 0:
        raise NoKernel(f"its weight has shape {list(found.ints.shape)}")
    rows, columns = (int(size) for size in found.ints.shape)
    table = ops.EmbeddingWeight(
        (found.ints.to(torch.int16) + 128).to(torch.uint8),
        found.scales.expand(rows).contiguous(),
        (found.zero_points.float() + 128.0).expand(rows).contiguous(),
        columns,
        quint8,
    )
    module = nnq.Embedding(rows, columns, _weight=table)
    module._qualified_name = module_path(node)[0]
    return Plan((node,), module, (op.get("indices"),), {}, None, "")
