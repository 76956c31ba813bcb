"""Quantizing a model in one call, or in the steps of Neural Compressor.

What is here is in :mod:`octavo` itself too.
"""

from octavo.workflow.autotune import AutotuneResult, Trial, Trials, autotune
from octavo.workflow.choose import CAPTURES
from octavo.workflow.config import DynamicQuantConfig, QuantConfig, StaticQuantConfig
from octavo.workflow.export import export
from octavo.workflow.one_call import QuantizeResult, quantize
from octavo.workflow.report import WorkflowReport
from octavo.workflow.save import load, save
from octavo.workflow.steps import convert, prepare

__all__ = [
    "CAPTURES",
    "AutotuneResult",
    "DynamicQuantConfig",
    "QuantConfig",
    "QuantizeResult",
    "StaticQuantConfig",
    "Trial",
    "Trials",
    "WorkflowReport",
    "autotune",
    "convert",
    "export",
    "load",
    "prepare",
    "quantize",
    "save",
]
