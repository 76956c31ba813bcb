"""What happened, or would happen, to each module of a model, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization.quantization_mappings import (
    CUSTOM_OBSERVED,
    CUSTOM_QUANTIZED,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.units import (
    Unit,
    canonical_type,
    is_quantized,
    resolve_qconfigs,
    units_of,
    warn_unknown_names,
)

__all__ = ["ModuleReport", "QuantizationReport", "explain"]

RUNS_ON_QUANTIZED = "works on quantized tensors as it is"

RUN_ON_QUANTIZED = (
    nn.Identity,
    nn.ReLU,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Softmax,
    nn.Tanh,
    nn.Threshold,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ZeroPad2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
)
"""Float modules that take quantized tensors too, in eval mode. They keep scale and zero point, or
have fixed ones (Sigmoid, Hardsigmoid, Softmax: 1/256; Tanh: 2/256)."""


@dataclass(frozen=True)
class ModuleReport:
    """One module.

    Attributes:
        name: its path in the model, "" for the model itself.
        type: name of its float class.
        becomes: name of the int8 class that replaces it; "" if it is left as it is.
        reason: why it is left as it is; for a replaced module what deserves notice, or "".
    """

    name: str
    type: str
    becomes: str
    reason: str


class QuantizationReport(list[ModuleReport]):
    """The modules of a model in the order of the model; prints as a table."""

    @property
    def swapped(self) -> list[ModuleReport]:
        """The modules that are replaced by int8 ones."""
        return [row for row in self if row.becomes]

    @property
    def left_float(self) -> list[ModuleReport]:
        """The modules that are left as they are."""
        return [row for row in self if not row.becomes]

    def __str__(self) -> str:
        rows = [("module", "type", "becomes", "")]
        rows += [(row.name or "(model)", row.type, row.becomes or "-", row.reason) for row in self]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join(
                (*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])
            ).rstrip()
            for row in rows
        )


def explain(
    model: nn.Module,
    qconfig_dict: Mapping[Any, Any] | None = None,
    mapping: Mapping[type, Any] | None = None,
) -> QuantizationReport:
    """Says for each module whether ``convert`` replaces it, and by what, or why not.

    Args:
        model: a float model with qconfigs, a prepared model, or a converted one (which carries its
            report as the attribute ``quantization_report``). It is not changed.
        qconfig_dict, mapping: as in ``prepare`` and ``convert``.
    """
    stored = getattr(model, "quantization_report", None)
    if isinstance(stored, QuantizationReport):
        return stored
    warn_unknown_names(model, qconfig_dict)
    table = get_default_static_quant_module_mappings() if mapping is None else dict(mapping)
    table |= CUSTOM_QUANTIZED
    table |= {ours: CUSTOM_QUANTIZED[observed] for ours, observed in CUSTOM_OBSERVED.items()}
    qconfigs = resolve_qconfigs(model, qconfig_dict)
    return report_of(units_of(model, qconfigs, table, set(CUSTOM_QUANTIZED)), table)


def report_of(units: list[Unit], table: Mapping[type, Any]) -> QuantizationReport:
    """The report on the decisions about units."""
    rows = []
    for unit in units:
        becomes = "" if unit.entry is None else _name_of(table[unit.entry])
        rows.append(
            ModuleReport(unit.name, canonical_type(unit.module).__name__, becomes, _reason(unit))
        )
    return QuantizationReport(rows)


def _name_of(target: Any) -> str:
    """``quantized.Linear`` for Octavo's classes, the plain name for others."""
    ours = isinstance(target, type) and issubclass(target, QuantizedModule)
    name: str = getattr(target, "__name__", repr(target))
    if not ours:
        return name
    return f"quantized.dynamic.{name}" if ".dynamic." in target.__module__ else f"quantized.{name}"


def _reason(unit: Unit) -> str:
    if unit.entry is None:
        if type(unit.module) in RUN_ON_QUANTIZED:
            return RUNS_ON_QUANTIZED
        quantized = is_quantized(unit.module)
        return unit.reason if quantized or unit.qconfig is not None else "its qconfig is None"
    observer = getattr(unit.module, "activation_post_process", None)
    ignored = getattr(observer, "nonfinite_count", 0)
    return f"{ignored} NaN or Inf values were left out in calibration" if ignored else ""
