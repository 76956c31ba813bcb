"""What became of the modules and operators of a model that torch.export captured."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from octavo.lowering.commuting import ALIASING
from octavo.lowering.graph_view import module_path
from octavo.lowering.report import NodeReport, lowering_report
from octavo.quantization.pt2e.graph import op_name
from octavo.quantization.report import (
    RUNS_ON_QUANTIZED,
    ModuleReport,
    QuantizationReport,
    int8_name,
)
from octavo.workflow.capture import Captured
from octavo.workflow.exported_model import ExportedModel
from octavo.workflow.taps import origins

__all__ = ["describe_rows"]

_MOVING = {*ALIASING, "clone", "copy", "cat", "stack", "index", "repeat"}


def describe_rows(model: ExportedModel, converted: GraphModule, captured: Captured) -> None:
    """Leaves on an int8 model what its report says of operators, and fills in the paths and reasons
    of ``captured``.

    Args:
        model: around the lowered graph.
        converted: the graph that was lowered.
    """
    nodes = {node.name: node for node in converted.graph.nodes}
    told = {row.node: row for row in lowering_report(model.graph)}
    rows: dict[str, ModuleReport] = {}
    fused: dict[str, str] = {}
    for path, origin in origins(model.graph).items():
        first = nodes[origin.nodes[0]]
        row = told.get(first.name)
        leaf, kind = module_path(first)
        name = kind.rpartition(".")[2] if leaf == path else "" if row is None else row.op
        becomes = int8_name(type(model.graph.get_submodule(path)))
        rows[path] = ModuleReport(f"graph.{path}", name, becomes, "" if row is None else row.reason)
        fused.update(dict.fromkeys(origin.nodes, path))
    reasons: dict[str, str] = {}
    for node, row in told.items():
        name, reason = _named(nodes[node], row), row.reason
        if node in fused:
            reason = f"part of '{fused[node]}'"
        elif row.becomes:
            reason = RUNS_ON_QUANTIZED
        known = name in rows or name in reasons
        if not known and (_is_leaf(nodes[node]) or (not row.becomes and _computes(nodes[node]))):
            reasons[name] = reason
            rows[name] = ModuleReport(name, row.op, "", reason)
    captured.reasons = reasons
    captured.paths = {
        f"graph.{path}": path if path in rows or _has_tensors(module) else None
        for path, module in model.graph.named_modules()
        if path
    }
    model.quantization_report = QuantizationReport(rows.values())


def _named(node: Any, row: NodeReport) -> str:
    """An operator's name in reports: that of its module where this is one of torch's own."""
    return row.module if _is_leaf(node) else ".".join(filter(None, (row.module, row.node)))


def _is_leaf(node: Any) -> bool:
    path, kind = module_path(node)
    return bool(path) and kind.startswith("torch.nn.modules.") and "container" not in kind


def _computes(node: Any) -> bool:
    """Whether a node makes new float values of others."""
    moves = op_name(node) in _MOVING
    return _is_float(node) and not moves and any(map(_is_float, node.all_input_nodes))


def _is_float(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.named_parameters()) or any(True for _ in module.named_buffers())
