"""Quantizing a model in one call, or in the steps of Neural Compressor.

What is here is in :mod:`octavo` itself too.
"""

from octavo.workflow.autotune import AutotuneResult, Trial, Trials, autotune
from octavo.workflow.choose import CAPTURES
from octavo.workflow.config import DynamicQuantConfig, QuantConfig, StaticQuantConfig
from octavo.workflow.one_call import QuantizeResult, quantize
from octavo.workflow.report import FallBack, WorkflowReport
from octavo.workflow.save import load, save
from octavo.workflow.steps import convert, prepare

__all__ = [
    "CAPTURES",
    "AutotuneResult",
    "DynamicQuantConfig",
    "FallBack",
    "QuantConfig",
    "QuantizeResult",
    "StaticQuantConfig",
    "Trial",
    "Trials",
    "WorkflowReport",
    "autotune",
    "convert",
    "load",
    "prepare",
    "quantize",
    "save",
]
