"""What :func:`octavo.quantize` did, and what it costs in accuracy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.dataflow import tensors_in
from octavo.quantization.numeric_suite import cosine_similarity, sqnr
from octavo.quantization.report import ModuleReport, QuantizationReport, report
from octavo.quantization.units import is_leaf, is_quantized, is_whole
from octavo.workflow.calibrate import Batch
from octavo.workflow.capture import Captured

__all__ = ["WorkflowReport", "layer_report", "output_error"]


_BORDERS = ("quantized.Quantize", "quantized.DeQuantize")
_GONE = "part of a fused layer, or not in the graph"


@dataclass(frozen=True)
class FallBack:
    """A way of capturing that was tried before the one that was taken.

    Attributes:
        capture: its name.
        reason: why it did not do.
    """

    capture: str
    reason: str


class WorkflowReport(QuantizationReport):
    """Every module of the user's model: int8 or not and why, its kernel, bytes and SQNR; and how
    the model was quantized.

    Attributes:
        mode: ``"static"`` or ``"dynamic"``.
        mode_reason: why, where ``mode="auto"`` chose; else "".
        capture: how the model's structure was found, "" for dynamic quantization.
        fallbacks: what was tried before, with the reasons.
        batches: of calibration data.
        sqnr, cosine: of the model's outputs against the float model's, over the batches that were
            compared; None without data.
        notes: what else deserves notice.

    Attributes of :class:`octavo.quantization.QuantizationReport`, and its methods, are here too.
    """

    mode: str = ""
    mode_reason: str = ""
    capture: str = ""
    batches: int = 0
    sqnr: float | None = None
    cosine: float | None = None

    def __init__(self, rows: Iterable[ModuleReport] = ()) -> None:
        super().__init__(rows)
        self.fallbacks: list[FallBack] = []
        self.notes: list[str] = []

    def worst_layers(self, count: int = 3) -> list[ModuleReport]:
        """The measured modules with the lowest SQNR, worst first."""
        measured = [row for row in self if row.sqnr is not None and row.sqnr == row.sqnr]
        return sorted(measured, key=lambda row: row.sqnr or 0.0)[:count]

    def to_dict(self) -> dict[str, Any]:
        """As :meth:`QuantizationReport.to_dict`, with the attributes above under their names."""
        names = ("mode", "mode_reason", "capture", "batches", "sqnr", "cosine", "notes")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        own["fallbacks"] = [dataclasses.asdict(item) for item in self.fallbacks]
        return {**super().to_dict(), **own}

    def _footer(self) -> list[str]:
        lines = super()._footer()
        chosen = f" ({self.mode_reason})" if self.mode_reason else ""
        lines.append(f"mode: {self.mode}{chosen}")
        if self.capture:
            data = f", calibrated with {self.batches} batches" if self.batches else ""
            lines.append(f"capture: {self.capture}{data}")
        for item in self.fallbacks:
            reason = " ".join(line.strip() for line in item.reason.splitlines()[:2])
            lines.append(f"not captured by {item.capture}: {reason}")
        if self.sqnr is not None and self.cosine is not None:
            lines.append(
                f"outputs against float: SQNR {self.sqnr:.1f} dB, cosine {self.cosine:.5f}"
            )
        return lines + self.notes


def layer_report(
    int8: nn.Module,
    captured: Captured | None,
    reference: nn.Module,
    example: Batch | None,
    reasons: Mapping[str, str],
    model: nn.Module,
) -> WorkflowReport:
    """The modules of the user's model, with what became of each.

    Args:
        int8, reference: with the same paths.
        captured: where these come from; None if their paths are those of ``model``.
        example: one call, which layers are compared on.
        reasons: why modules stay float, by their path in ``model``.
        model: the user's model.
    """
    inputs = None if example is None or example.kwargs else example.args
    whole = is_quantized(int8)  # the model is one layer: it is compared as a model
    rows = report(int8, None if whole else reference, inputs)
    told = {row.name: row for row in getattr(int8, "quantization_report", ())}
    paths = {} if captured is None else captured.paths
    result = WorkflowReport()
    theirs = {path: type(module).__name__ for path, module in model.named_modules()}
    for row in rows:
        path = paths.get(row.name, row.name)
        border = path not in theirs and row.becomes in _BORDERS
        if path is None or border:
            continue
        reason = row.reason if row.becomes else reasons.get(path, row.reason)
        kind = row.type if row.becomes else theirs.get(path, row.type)
        if path not in theirs and row.name in told:  # an operation of the graph
            kind = told[row.name].type
        result.append(dataclasses.replace(row, name=path, type=kind, reason=reason))
    result += _others(told, {row.name for row in (*rows, *result)}, model)
    _sort(result, list(theirs))
    result.isa = rows.isa
    result.bytes_before, result.bytes_after = rows.bytes_before, rows.bytes_after
    if example is not None and example.kwargs:
        result.notes.append(
            "layers were not compared: the model takes arguments by keyword only "
            f"({', '.join(example.kwargs)})"
        )
    return result


def _sort(rows: WorkflowReport, paths: list[str]) -> None:
    """Brings rows into the order of the model: operators behind the module that they are in, and
    those of the model itself last.
    """
    order = {path: index for index, path in enumerate(paths)}

    def place(row: ModuleReport) -> tuple[int, bool]:
        name = row.name
        while name and name not in order:
            name = name.rpartition(".")[0]
        own = name == row.name
        return (order[name] if name or own else len(order)), not own

    rows.sort(key=place)


def _others(
    told: Mapping[str, ModuleReport], known: set[str], model: nn.Module
) -> list[ModuleReport]:
    """What is no module of the int8 model: functions in its graph, and modules that are gone."""
    rows = [row for name, row in told.items() if name not in known and not row.becomes]
    said = known | {row.name for row in rows}
    inside = [name for name, module in model.named_modules() if is_whole(module)]
    for name, module in model.named_modules():
        part = any(name.startswith(f"{outer}.") for outer in inside)
        operators = name and any(other.startswith(f"{name}.") for other in said)
        if is_leaf(module) and not part and not operators and name not in said:
            rows.append(ModuleReport(name, type(module).__name__, "", _GONE))
    return rows


def output_error(
    reference: nn.Module, int8: nn.Module, batches: Iterable[Batch]
) -> tuple[float, float]:
    """SQNR in dB and cosine of all float outputs, over all batches together.

    Raises:
        RuntimeError: the int8 model gives NaN where the float one gives none; other outputs than
            the float one.
    """
    wanted: list[Tensor] = []
    got: list[Tensor] = []
    for index, batch in enumerate(batches):
        before, after = list(_floats(batch.run(reference))), list(_floats(batch.run(int8)))
        if [x.shape for x in before] != [x.shape for x in after]:
            raise RuntimeError(
                f"the int8 model's outputs for batch {index} have shapes "
                f"{[tuple(x.shape) for x in after]}, the float model's "
                f"{[tuple(x.shape) for x in before]}"
            )
        for a, b in zip(before, after, strict=True):
            finite = torch.isfinite(a)  # masked scores are -inf in both
            if bool(torch.isnan(b[finite]).any()):
                raise RuntimeError(
                    f"the int8 model returns NaN for batch {index} of the calibration data, and "
                    "the float model does not"
                )
            wanted.append(a[finite].reshape(-1))
            got.append(b[finite].reshape(-1))
    if not wanted:
        return math.nan, math.nan
    a, b = torch.cat(wanted), torch.cat(got)
    return sqnr(a, b), cosine_similarity(a, b)


def _floats(value: Any) -> Iterable[Tensor]:
    return (x.detach().float() for x in tensors_in(value) if x.is_floating_point())
