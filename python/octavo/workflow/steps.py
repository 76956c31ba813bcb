"""Quantizing in steps, for those who run the calibration themselves.

    prepared = octavo.prepare(model, StaticQuantConfig(), example_inputs=(x,))
    for batch in data:
        prepared(batch)
    int8 = octavo.convert(prepared)
    print(int8.workflow_report)

The verbs are those of Neural Compressor. :mod:`octavo.quantization` has functions of the same names
with torch's arguments, for models that are written for quantization.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from octavo.quantization.fold import copy_model
from octavo.workflow.calibrate import Batch, keyword_call
from octavo.workflow.capture import Capture, Captured, CaptureError
from octavo.workflow.choose import captures
from octavo.workflow.config import DynamicQuantConfig, QuantConfig, StaticQuantConfig
from octavo.workflow.one_call import check_model, dynamic_model, static_model
from octavo.workflow.recipe import leave
from octavo.workflow.report import FallBack

__all__ = ["convert", "prepare"]


_STATE = "octavo_prepared"


@dataclass
class _Prepared:
    """What ``convert`` has to know of a prepared model."""

    model: nn.Module
    config: QuantConfig
    example: Batch | None
    way: Capture | None = None
    captured: Captured | None = None
    fallbacks: tuple[FallBack, ...] = ()


def prepare(
    model: nn.Module,
    quant_config: QuantConfig,
    example_inputs: Any = None,
    *,
    capture: str | None = None,
) -> nn.Module:
    """A copy of a float model with observers, to run calibration data through.

    Args:
        model: a float model on the CPU; its copy is put into eval mode.
        quant_config: a :class:`StaticQuantConfig`, or a :class:`DynamicQuantConfig`, which needs no
            calibration.
        example_inputs: the arguments of one call: a tensor, a tuple of them, or a dict of keyword
            arguments. For static quantization they show which module feeds which; their values are
            not calibrated with.
        capture: as in :func:`octavo.quantize`.

    Returns:
        The model for :func:`convert`. Until then it computes what the float model does.

    Raises:
        TypeError: arguments of another kind.
        ValueError: no example inputs for static quantization, or such that the model fails; a model
            that is quantized already; local rules that match nothing.
        RuntimeError: no capture does for the model, with the reason for each.

    Source: Neural Compressor's ``prepare``, which changes the model itself.
    """
    check_model(model, "prepare")
    if not isinstance(quant_config, (StaticQuantConfig, DynamicQuantConfig)):
        raise TypeError(
            "prepare: quant_config must be a StaticQuantConfig or a DynamicQuantConfig, got "
            f"{type(quant_config).__name__}; qconfigs of torch are for octavo.quantization.prepare"
        )
    plain = copy_model(model).eval()
    configs = quant_config.resolve(plain)
    example = None if example_inputs is None else _example(plain, example_inputs)
    if isinstance(quant_config, DynamicQuantConfig):
        prepared = copy_model(plain)
        leave(prepared, _STATE, _Prepared(plain, quant_config, example))
        return prepared
    if example is None:
        raise ValueError(
            "prepare: static quantization needs example_inputs, the arguments of one call, to see "
            "which module feeds which"
        )
    failed: list[FallBack] = []
    for way in captures(capture):
        try:
            captured = way.capture(plain, configs, example)
        except CaptureError as error:
            failed.append(FallBack(way.name, str(error)))
            continue
        state = _Prepared(plain, quant_config, example, way, captured, tuple(failed))
        leave(captured.prepared, _STATE, state)
        return captured.prepared
    tried = "\n".join(f"  {item.capture}: {item.reason}" for item in failed)
    raise RuntimeError(f"prepare: the model could not be captured:\n{tried}")


def _example(model: nn.Module, inputs: Any) -> Batch:
    """Example inputs as a call, which the model has to take."""
    if isinstance(inputs, Mapping):
        batch = keyword_call(inspect.signature(model.forward), inputs)
    else:
        batch = Batch(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {})
    try:
        batch.run(model)
    except Exception as error:
        raise ValueError(
            f"prepare: the model fails on example_inputs: {type(error).__name__}: {error}; give a "
            "tensor, a tuple of the arguments, or a dict of keyword arguments"
        ) from error
    return batch


def convert(model: nn.Module, quant_config: QuantConfig | None = None) -> nn.Module:
    """The int8 model of a prepared one.

    Args:
        model: what :func:`prepare` returned, after calibration; it is not changed. Or a float
            model, with a DynamicQuantConfig.
        quant_config: for a float model only.

    Returns:
        The int8 model. Its ``workflow_report`` says what became of each module.

    Raises:
        TypeError: a model that was not prepared.
        RuntimeError: layers that no calibration data reached; all are named.

    Source: Neural Compressor's ``convert``.
    """
    state = getattr(model, _STATE, None)
    if state is None and isinstance(quant_config, DynamicQuantConfig):
        model = prepare(model, quant_config)
        state = getattr(model, _STATE)
    if not isinstance(state, _Prepared):
        raise TypeError(
            "convert: expected what octavo.prepare() returned, got a "
            f"{type(model).__name__} that was not prepared with it; models from "
            "octavo.quantization.prepare() are for octavo.quantization.convert()"
        )
    if state.way is None or state.captured is None:
        return dynamic_model(state.model, state.config, state.example).model
    result = static_model(state.way, state.captured, state.model, state.config, state.example)
    result.report.fallbacks = list(state.fallbacks)
    return result.model
