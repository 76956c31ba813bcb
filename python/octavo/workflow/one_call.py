"""Quantizing a model in one call.

model, report = octavo.quantize(model, loader, transform_fn=lambda item: item[0])
print(report)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from octavo.quantization.fold import copy_model
from octavo.quantization.quantize import check_float
from octavo.workflow.calibrate import Batch, CalibrationData, calibrate, has_nan
from octavo.workflow.capture import Capture, Captured, CaptureError
from octavo.workflow.choose import captures, choose_mode
from octavo.workflow.config import DynamicQuantConfig, QuantConfig
from octavo.workflow.dynamic import dynamic_spec, float_reasons, quantize_named, quantize_parts
from octavo.workflow.exported import ExportCapture
from octavo.workflow.fusing import same_outputs
from octavo.workflow.recipe import dynamic_recipe, leave, remember
from octavo.workflow.report import FallBack, WorkflowReport, layer_report, output_error

__all__ = ["QuantizeResult", "quantize"]

MIN_SQNR = 10.0
"""Below this SQNR of the outputs, in dB, :func:`quantize` warns."""

_UNPACK = "write `model, report = octavo.quantize(...)`, or take `.model` of the result"

_FAILURES = (
    *(AttributeError, AssertionError, KeyError, NotImplementedError, RuntimeError),
    *(TypeError, ValueError),
)


@dataclass
class QuantizeResult:
    """``model, report = result``; printed, it is the report.

    Attributes:
        model: the int8 model, in eval mode.
        report: what became of each module, and how near the outputs are.
        reference: the float model whose modules have the paths of the int8 one's, for
            :func:`octavo.quantization.compare_layers`.
        paths: of these modules to those in the user's model, where they differ; None for what that
            one does not have.
    """

    model: nn.Module
    report: WorkflowReport
    reference: nn.Module
    paths: Mapping[str, str | None] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.report))

    def __getitem__(self, index: int) -> Any:
        return (self.model, self.report)[index]

    def __str__(self) -> str:
        return str(self.report)

    def __getattr__(self, name: str) -> Any:  # only for names that a result lacks
        hint = ""
        if not name.startswith("__") and hasattr(self.__dict__.get("model"), name):
            hint = f". The model has it: {_UNPACK}"
        raise AttributeError(f"'QuantizeResult' object has no attribute '{name}'{hint}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"this is a QuantizeResult, not the model: {_UNPACK}")


def quantize(
    model: nn.Module,
    calibration_data: Iterable[Any] | None = None,
    config: QuantConfig | None = None,
    transform_fn: Callable[[Any], Any] | None = None,
    mode: str | None = None,
    *,
    capture: str | None = None,
    max_batches: int | None = None,
    min_sqnr: float = MIN_SQNR,
    progress: bool | None = None,
) -> QuantizeResult:
    """An int8 form of a float model that nobody edited, calibrated and compared with the float one.

    Args:
        model: a float model on the CPU. It is not changed; its copy is put into eval mode.
        calibration_data: an iterable of batches: tensors, tuples or lists of the arguments of one
            call, dicts of keyword arguments; a DataLoader. Pairs for a model with one argument are
            (input, label). Static quantization needs it; dynamic quantization uses it for the
            comparison only. Of an iterator the first 128 batches are kept and used.
        config: :class:`StaticQuantConfig` or :class:`DynamicQuantConfig`; default: one of the mode,
            with its defaults.
        transform_fn: makes the argument(s) of one call from an element of ``calibration_data``.
        mode: ``"static"``, ``"dynamic"`` (no calibration; activations are quantized when the model
            runs), or ``"auto"``, which takes static for models whose layers are mostly convolutions
            and dynamic for others. Default: what ``config`` is, and static without one.
        capture: how the model's structure is found: ``"fx"``, ``"export"``, ``"eager"`` or
            ``"layers"``; default: the first of these, in this order, that does for the model, and
            the report says why others did not. See ``octavo.workflow.CAPTURES``. With
            ``mode="dynamic"`` ``"export"`` gives a graph; modules are replaced without it.
        max_batches: how many batches to use; default: all.
        min_sqnr: of the outputs, in dB, below which a warning names the worst layers.
        progress: show a progress bar; default: where standard error is a terminal.

    Returns:
        A :class:`QuantizeResult`; ``model, report = quantize(...)``.

    Raises:
        TypeError: arguments of another kind; batches that are none.
        ValueError: empty calibration data; NaN in the float model's outputs; an unknown mode or
            capture; local rules that match nothing; a model that is quantized already, or that has
            nothing to quantize.
        RuntimeError: no capture does for the model, with the reason for each; NaN in the int8
            model's outputs.

    Warns where the outputs have an SQNR below ``min_sqnr``.
    """
    check_model(model, "quantize")
    mode, why, config = choose_mode(model, mode, config)
    if mode == "dynamic" and capture not in (None, ExportCapture.name):
        raise ValueError(
            f"capture={capture!r} is for static quantization; dynamic quantization replaces "
            "modules where they are, or with capture='export' linear layers of a graph"
        )
    plain = copy_model(model).eval()
    data = None
    if calibration_data is not None or mode == "static" or capture is not None:
        data = CalibrationData(calibration_data, plain, transform_fn, max_batches)  # type: ignore[arg-type]
        check_runs(plain, data.first)
    if mode == "dynamic" and capture is None:
        result = dynamic_model(plain, config, None if data is None else data.first)
    else:
        assert data is not None
        result = _static(plain, config, data, capture, progress)
    result.report.mode_reason = why
    if data is not None:
        result.report.notes += data.notes
        _compare(result, plain, data, min_sqnr)
    return result


def check_model(model: Any, caller: str) -> None:
    """Raises unless ``model`` is a float module."""
    if isinstance(model, type):
        raise TypeError(
            f"{caller}: model must be a torch.nn.Module, got the class {model.__name__}; make a "
            "model of it first"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller}: model must be a torch.nn.Module, got {type(model).__name__}")
    check_float(model, caller)


def check_runs(model: nn.Module, batch: Batch | None) -> None:
    """Raises where the float model itself fails on a batch, or gives NaN."""
    assert batch is not None
    try:
        output = batch.run(model)
    except Exception as error:
        kinds = [type(argument).__name__ for argument in batch.args]
        raise ValueError(
            f"the float model fails on the first batch of calibration_data (arguments: {kinds}): "
            f"{type(error).__name__}: {error}. A batch must be the arguments of one call; "
            "transform_fn can make them"
        ) from error
    if has_nan(output):
        raise ValueError(
            "the float model returns NaN for the first batch of calibration_data; look for it "
            "before quantizing"
        )


def dynamic_model(model: nn.Module, config: QuantConfig, example: Batch | None) -> QuantizeResult:
    """A copy of a float model in eval mode, quantized dynamically; layers are compared on the
    example.
    """
    configs = config.resolve(model)
    spec = dynamic_spec(model, configs, config)
    if not spec:
        raise ValueError(
            "quantize: nothing in the model is quantized dynamically by this config; Linear, "
            "attention and recurrent layers are by default, convolutions and embeddings where "
            "set_local gives them a DynamicQuantConfig"
        )
    int8 = quantize_named(model, spec)
    report = layer_report(int8, None, model, example, float_reasons(model, configs), model)
    report.mode = "dynamic"
    remember(int8, {"capture": "", "dynamic": dynamic_recipe(spec)})
    leave(int8, "workflow_report", report)
    return QuantizeResult(int8, report, model)


def static_model(
    way: Capture, captured: Captured, model: nn.Module, config: QuantConfig, example: Batch | None
) -> QuantizeResult:
    """The int8 model of a calibrated one, with those modules quantized dynamically whose config
    says so; layers are compared on the example.
    """
    int8 = way.convert(captured)
    spec = {}
    if not way.quantizes_dynamically:
        spec = dynamic_spec(model, config.resolve(model), config)
    reasons = {name: text for name, text in captured.reasons.items() if name not in spec}
    if spec:
        int8 = quantize_parts(int8, spec)
    remember(int8, {**captured.recipe, "dynamic": dynamic_recipe(spec)})
    report = layer_report(int8, captured, captured.reference, example, reasons, model)
    report.mode = "dynamic" if isinstance(config, DynamicQuantConfig) else "static"
    report.capture = way.name
    report.notes += captured.notes
    leave(int8, "workflow_report", report)
    return QuantizeResult(int8, report, captured.reference, captured.paths)


def _static(
    model: nn.Module,
    config: QuantConfig,
    data: CalibrationData,
    capture: str | None,
    progress: bool | None,
) -> QuantizeResult:
    """Tries the captures one after the other."""
    configs = config.resolve(model)
    example = data.first
    assert example is not None
    fallbacks: list[FallBack] = []
    shown = data.head()
    for way in captures(capture):
        try:
            captured = way.capture(model, configs, example, shown)
            batches = calibrate(captured.prepared, data, progress)
        except CaptureError as error:
            fallbacks.append(FallBack(way.name, str(error)))
            continue
        try:
            result = static_model(way, captured, model, config, example)
            _check_runs_alike(captured.reference, result.model, model, data)
        except _FAILURES as error:
            fallbacks.append(FallBack(way.name, f"{type(error).__name__}: {error}"))
            continue
        result.report.batches, result.report.fallbacks = batches, fallbacks
        return result
    tried = "\n".join(f"  {item.capture}: {item.reason}" for item in fallbacks)
    raise RuntimeError(f"quantize: the model could not be quantized statically:\n{tried}")


def _check_runs_alike(
    reference: nn.Module, int8: nn.Module, model: nn.Module, data: CalibrationData
) -> None:
    """Raises where what was captured of a model is not the model for other batches than the first;
    fails where the int8 model does.
    """
    for index, batch in enumerate(data.head()):
        if not same_outputs(reference, batch, batch.run(model)):
            raise RuntimeError(f"what was captured computes something else for batch {index}")
        batch.run(int8)


def _compare(
    result: QuantizeResult, model: nn.Module, data: CalibrationData, min_sqnr: float
) -> None:
    """Compares the outputs with those of the float model."""
    report = result.report
    report.sqnr, report.cosine = output_error(model, result.model, data.head())
    if not report.sqnr >= min_sqnr:
        worst = [f"'{row.name}' ({row.sqnr:.1f} dB)" for row in report.worst_layers()]
        layers = f"; the layers with the lowest SQNR are {', '.join(worst)}" if worst else ""
        warnings.warn(
            f"quantize: the int8 model's outputs have an SQNR of {report.sqnr:.1f} dB against the "
            f"float model's, below {min_sqnr:g} dB{layers}. Leave such layers float with "
            "config.set_local(name, None), or let octavo.autotune find them",
            stacklevel=3,
        )
