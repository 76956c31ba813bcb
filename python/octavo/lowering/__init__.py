"""Q/DQ graphs, as PT2E quantization makes them, onto int8 kernels."""

from octavo.lowering.lower import lower
from octavo.lowering.report import LoweringReport, NodeReport, lowering_report

__all__ = ["LoweringReport", "NodeReport", "lower", "lowering_report"]
