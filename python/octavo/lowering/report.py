"""What became of each operator of a lowered graph, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from octavo.quantization.tables import Table, Tabular

__all__ = ["LoweringReport", "NodeReport", "lowering_report"]

KEY = "octavo_lowering_report"


@dataclass(frozen=True)
class NodeReport:
    """One operator of a Q/DQ graph.

    Attributes:
        node: its name in the graph.
        op: the operator, "conv2d".
        module: path of the module that it came from; "" where the graph does not say.
        becomes: the class of the module that computes it now, or "int8" where the operator runs on
            quantized tensors as it is; "" if it is left float.
        reason: why it is left float; else what deserves notice, or "".
    """

    node: str
    op: str
    module: str
    becomes: str
    reason: str


class LoweringReport(Tabular, list[NodeReport]):
    """The operators of a graph in its order; prints as a table."""

    @property
    def lowered(self) -> list[NodeReport]:
        """Those that run on int8 kernels."""
        return [row for row in self if row.becomes]

    @property
    def left_float(self) -> list[NodeReport]:
        """Those that stay as they are."""
        return [row for row in self if not row.becomes]

    def _table(self) -> Table:
        rows = [(row.node, row.op, row.module, row.becomes or "float", row.reason) for row in self]
        footer = (f"{len(self.lowered)} of {len(self)} operators run on int8 kernels",)
        table = Table(("node", "operator", "module", "becomes", ""), rows, frozenset(), footer)
        return table.without_empty_columns() if rows else table


def lowering_report(module: Any) -> LoweringReport:
    """The report of a graph module that :func:`octavo.lower` made, or of a copy of it.

    Raises:
        ValueError: the module is none.
    """
    found = getattr(module, "meta", {}).get(KEY) or getattr(module, KEY, None)
    if found is None:
        raise ValueError(
            f"{type(module).__name__} has no lowering report; octavo.lower() makes modules that do"
        )
    return LoweringReport(found)
