"""What happened, or would happen, to each module of a model, and why; what each one takes and
loses.

    print(report(int8, float_model, example_inputs))
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization import footprint
from octavo.quantization.fold import computed_weights, folded_weights
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.quantization_mappings import (
    CUSTOM_OBSERVED,
    CUSTOM_QUANTIZED,
    get_default_dynamic_quant_module_mappings,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.swap import lacking
from octavo.quantization.tables import Table, Tabular, as_json, number
from octavo.quantization.units import (
    Unit,
    canonical_type,
    ignored_values,
    is_quantized,
    resolve_qconfigs,
    units_of,
    warn_unknown_names,
)

__all__ = [
    "RUNS_ON_QUANTIZED",
    "ModuleReport",
    "QuantizationReport",
    "explain",
    "int8_name",
    "report",
]

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
    """One module. Beyond ``reason``, what :func:`report` adds; "" or None where it is not known.

    Attributes:
        name: its path in the model, "" for the model itself.
        type: name of its float class.
        becomes: name of the int8 class that replaces it; "" if it is left as it is.
        reason: why it is left as it is; for a replaced module what deserves notice, or "".
        kernel: the kernel that ran it, as :func:`octavo.backend.last_kernel` names it: linear
            layers, convolutions and recurrent layers.
        bytes_before, bytes_after: of parameters and buffers in the float and in the int8 model, as
            in its state dict.
        sqnr, cosine, max_error: of its output, see :func:`compare_layers`.
    """

    name: str
    type: str
    becomes: str
    reason: str
    kernel: str = ""
    bytes_before: int | None = None
    bytes_after: int | None = None
    sqnr: float | None = None
    cosine: float | None = None
    max_error: float | None = None


class QuantizationReport(Tabular, list[ModuleReport]):
    """The modules of a model in the order of the model; prints as a table.

    Attributes:
        isa: the instruction set of the kernels, where the model was run; else "".
        bytes_before, bytes_after: of the whole model, tensors outside of the modules listed
            included; None where they are not known.
    """

    isa: str = ""
    bytes_before: int | None = None
    bytes_after: int | None = None

    @property
    def swapped(self) -> list[ModuleReport]:
        """The modules that are replaced by int8 ones."""
        return [row for row in self if row.becomes]

    @property
    def left_float(self) -> list[ModuleReport]:
        """The modules that are left as they are."""
        return [row for row in self if not row.becomes]

    @property
    def totals(self) -> dict[str, Any]:
        """Numbers of modules, swapped and left float; bytes; and the module of the lowest SQNR."""
        measured = [row for row in self if row.sqnr is not None]
        worst = min(measured, key=lambda row: (row.sqnr == row.sqnr, row.sqnr), default=None)
        return {
            "modules": len(self),
            "swapped": len(self.swapped),
            "left_float": len(self.left_float),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "lowest_sqnr": None if worst is None else {"name": worst.name, "sqnr": worst.sqnr},
        }

    def to_dict(self) -> dict[str, Any]:
        """``{"isa": ..., "modules": [{"name": ..., ...}, ...], "totals": {...}}``."""
        return {
            "isa": self.isa,
            "modules": [asdict(row) for row in self],
            "totals": self.totals,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON; numbers that JSON lacks are null."""
        return json.dumps(as_json(self.to_dict()), indent=2)

    def _table(self) -> Table:
        rows = [
            (
                row.name or "(model)",
                row.type,
                row.becomes or "-",
                row.kernel,
                number(row.bytes_before, ","),
                number(row.bytes_after, ","),
                number(row.sqnr, ".1f"),
                number(row.cosine, ".5f"),
                number(row.max_error, ".4g"),
                row.reason,
            )
            for row in self
        ]
        headers = ("module", "type", "becomes", "kernel", "bytes before", "after", "SQNR, dB")
        table = Table(
            (*headers, "cosine", "max error", ""), rows, frozenset(range(4, 9)), self._footer()
        )
        return table.without_empty_columns()

    def _footer(self) -> list[str]:
        if self.bytes_before is None:
            return []
        count = f"{len(self.swapped)} of {len(self)} modules"
        if self.bytes_after is None:
            return [f"{count} would become int8; the model has {self.bytes_before:,} bytes"]
        times = self.bytes_before / max(self.bytes_after, 1)
        lines = [
            f"{count} are int8; {self.bytes_before:,} bytes became {self.bytes_after:,}, "
            f"{times:.2f} times less"
        ]
        if self.isa:
            lines.append(f"kernels: {self.isa}")
        if (worst := self.totals["lowest_sqnr"]) is not None:
            lines.append(f"lowest SQNR: {worst['sqnr']:.1f} dB, {worst['name']}")
        return lines


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
    table = _with_custom(mapping)
    qconfigs = resolve_qconfigs(model, qconfig_dict)
    return report_of(units_of(model, qconfigs, table, set(CUSTOM_QUANTIZED)), table)


def _with_custom(mapping: Mapping[type, Any] | None = None) -> dict[type, Any]:
    """A mapping, default that of ``convert``, and the modules that are observed in another form."""
    table = get_default_static_quant_module_mappings() if mapping is None else dict(mapping)
    custom = {ours: CUSTOM_QUANTIZED[observed] for ours, observed in CUSTOM_OBSERVED.items()}
    return {**table, **CUSTOM_QUANTIZED, **custom}


def report(
    model: nn.Module,
    float_model: nn.Module | None = None,
    example_inputs: Any = None,
) -> QuantizationReport:
    """Every module of a model: int8 or not and why, its kernel, its size and what it loses.

    Args:
        model: an int8 model, from ``convert``, ``quantize_dynamic`` or ``from_torch_ao``; or a
            prepared or float one, of which it says what ``convert`` would do, and what is missing.
            It is not changed.
        float_model: the float model, fused as the other one, in eval mode. With ``example_inputs``
            it gives SQNR, cosine and largest error of each layer, alone the sizes before.
        example_inputs: the arguments of one call: a tensor, or a tuple. The int8 model is run with
            them, which says which kernels run.

    Returns:
        A list of :class:`ModuleReport`, in the order of the model, with totals. ``print`` shows it
        as plain text, ``rich.print`` as one of rich's tables, notebooks as HTML; ``to_dict()`` and
        ``to_json()`` are for programs.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``example_inputs`` for a model without int8 modules; a float model that has
            none of its layers.

    The reasons are those that ``convert`` or ``quantize_dynamic`` left on the model. Where these
    are gone, as for parts of a converted model, they are what its modules tell.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"report: model must be a torch.nn.Module, got {type(model).__name__}")
    table = _with_custom()
    units = units_of(model, resolve_qconfigs(model), table, set(CUSTOM_QUANTIZED))
    converted = any(is_quantized(unit.module) for unit in units)
    if example_inputs is not None and not converted:
        raise ValueError(
            "report: example_inputs are for an int8 model, and this one has no int8 modules; "
            "convert it first, or leave example_inputs out to see what convert() would do"
        )
    rows = _rows_converted(model, units) if converted else _rows_planned(model, units, table)
    measured = footprint.Run(model, units, float_model, example_inputs, converted)
    result = QuantizationReport(
        ModuleReport(**{**asdict(row), **measured.of(unit)})
        for row, unit in zip(rows, units, strict=True)
    )
    result.isa = measured.isa
    result.bytes_before, result.bytes_after = footprint.totals(
        model, [(row.bytes_before, row.bytes_after) for row in result]
    )
    return result


def _rows_converted(model: nn.Module, units: Iterable[Unit]) -> list[ModuleReport]:
    """What became of each module; what the model itself remembers comes first."""
    stored = {row.name: row for row in getattr(model, "quantization_report", ())}
    sources = _float_names()
    rows = []
    for unit in units:
        cls = type(unit.module)
        known = stored.get(unit.name)
        if is_quantized(unit.module):
            becomes = int8_name(cls)
            if known is None or known.becomes != becomes:
                reason = "" if isinstance(unit.module, QuantizedModule) else "of torch.ao"
                known = ModuleReport(unit.name, sources.get(cls, cls.__name__), becomes, reason)
        elif known is None or known.becomes:
            runs = type(unit.module) in RUN_ON_QUANTIZED
            reason = RUNS_ON_QUANTIZED if runs else unit.reason
            known = ModuleReport(unit.name, canonical_type(unit.module).__name__, "", reason)
        rows.append(known)
    return rows


def _float_names() -> dict[type, str]:
    """The float class that each int8 class stands for; the first where it stands for several."""
    names: dict[type, str] = {}
    for table in (
        _with_custom(),
        get_default_dynamic_quant_module_mappings(),
    ):
        for source, target in table.items():
            names.setdefault(target, source.__name__)
    return names


def _rows_planned(
    model: nn.Module, units: list[Unit], table: Mapping[type, Any]
) -> list[ModuleReport]:
    """What ``convert`` would do, and why it would refuse a prepared model."""
    rows: list[ModuleReport] = list(report_of(units, table))
    if not any(_is_activation_post_process(module) for module in model.modules()):
        return rows
    for i, unit in enumerate(units):
        lack = lacking(unit, table) if rows[i].becomes else ""
        if lack:
            rows[i] = ModuleReport(**{**asdict(rows[i]), "reason": f"convert() refuses it: {lack}"})
    return rows


def report_of(units: list[Unit], table: Mapping[type, Any]) -> QuantizationReport:
    """The report on the decisions about units."""
    rows = []
    for unit in units:
        becomes = ""
        if unit.entry is not None:
            becomes = int8_name(table[unit.entry])
        rows.append(
            ModuleReport(unit.name, canonical_type(unit.module).__name__, becomes, _reason(unit))
        )
    return QuantizationReport(rows)


def int8_name(target: Any) -> str:
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
    ignored = ignored_values(observer)
    notes = [f"{text} was folded" for text in folded_weights(unit.module)]
    notes += [f"{text} will be folded" for text in computed_weights(unit.module)]
    if ignored:
        notes.append(f"{ignored} NaN or Inf values were left out in calibration")
    return "; ".join(notes)
