"""Capture by torch.fx: functions and operators are seen too, so that additions, concatenations and
the like are int8, and what can be fused is fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization.fold import copy_model
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.qconfig_mapping import QConfigMapping, _default_mapping
from octavo.quantization.stubs import QuantStub
from octavo.quantization.units import canonical_type
from octavo.workflow.calibrate import Batch
from octavo.workflow.capture import Capture, Captured, CaptureError, Configs
from octavo.workflow.config import StaticQuantConfig
from octavo.workflow.fusing import same_outputs

__all__ = ["NOTHING", "FxCapture", "described", "made"]

_FAILURES = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


NOTHING = "the model has no layer that can be quantized statically"


class FxCapture(Capture):
    """Traces the model with ``octavo.quantization.quantize_fx``."""

    name = "fx"
    restores_int8 = True

    def capture(
        self, model: nn.Module, configs: Configs, example: Batch, others: Sequence[Batch] = ()
    ) -> Captured:
        """See :meth:`Capture.capture`."""
        if example.kwargs:
            raise CaptureError(f"the model takes {', '.join(example.kwargs)} by keyword only")
        if any(issubclass(canonical_type(module), QuantStub) for module in model.modules()):
            raise CaptureError("the model has QuantStubs of its own, so it is not traced")
        rules = _rules(configs)
        prepared = _prepared(model, rules, example.args)
        if not any(_is_activation_post_process(module) for module in prepared.modules()):
            raise CaptureError(NOTHING)
        reference = _unobserved(prepared)
        if not same_outputs(reference, example, example.run(model)):
            raise CaptureError("the traced graph computes something else than the model")
        recipe = {
            "capture": self.name,
            "rules": rules,
            "example": [described(value) for value in example.args],
        }
        return Captured(prepared, reference, recipe)

    def convert(self, captured: Captured) -> nn.Module:
        """See :meth:`Capture.convert`.

        Raises:
            RuntimeError: there is nothing to quantize.
        """
        return _converted(captured.prepared)

    def restore(self, model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
        """See :meth:`Capture.restore`."""
        example = tuple(made(value) for value in recipe["example"])
        prepared = _prepared(copy_model(model).eval(), recipe["rules"], example)
        for module in prepared.modules():
            if _is_activation_post_process(module):
                module(torch.tensor([-1.0, 1.0]))  # any scale; the checkpoint has the right one
        return _converted(prepared)


def _converted(prepared: nn.Module) -> nn.Module:
    from octavo.quantization.quantize_fx import convert_fx

    int8: nn.Module = convert_fx(prepared)  # type: ignore[arg-type]
    if not any(isinstance(module, QuantizedModule) for module in int8.modules()):
        raise RuntimeError(NOTHING)
    return int8


def _prepared(model: nn.Module, rules: Mapping[str, Any], example: tuple[Any, ...]) -> nn.Module:
    from octavo.quantization.quantize_fx import prepare_fx

    try:
        return prepare_fx(model, _mapping(rules), example)
    except _FAILURES as error:
        raise CaptureError(f"{type(error).__name__}: {error}") from error


def _unobserved(prepared: nn.Module) -> nn.Module:
    """A copy that computes what a prepared model computes, without its observers."""
    result = copy_model(prepared)
    for parent in list(result.modules()):
        for name, child in parent._modules.items():
            if _is_activation_post_process(child):
                parent._modules[name] = nn.Identity()
    return result


def _rules(configs: Configs) -> dict[str, dict[str, Any] | None]:
    """The settings of the model, "", and of those modules whose config is not that of the module
    they are in; None for float and for what others quantize.
    """
    rules: dict[str, dict[str, Any] | None] = {}
    for name, config in configs.items():
        if name and configs[name.rpartition(".")[0]] is config:
            continue
        static = isinstance(config, StaticQuantConfig)
        rules[name] = config.settings if static and config is not None else None
    return rules


def _mapping(rules: Mapping[str, Any]) -> QConfigMapping:
    """What :func:`_rules` gives as a mapping for graphs; where ranges are fixed, scales are."""
    whole = None if rules[""] is None else StaticQuantConfig(**rules[""]).qconfig()
    mapping = QConfigMapping()
    if whole is not None:
        mapping = _default_mapping(whole, "octavo", is_qat=False)
    for name, settings in rules.items():
        if name:
            own = None if settings is None else StaticQuantConfig(**settings).qconfig()
            mapping.set_module_name(name, own)
    return mapping


def described(value: Any) -> Any:
    """An example argument as plain values, tensors by shape and dtype."""
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [described(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(key): described(item) for key, item in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise CaptureError(f"an argument is a {type(value).__name__}, which no checkpoint can hold")


def made(described: Any) -> Any:
    """An argument of a description; the numbers in tensors are 0."""
    if "tensor" in described:
        return torch.zeros(described["tensor"], dtype=getattr(torch, described["dtype"]))
    if "dict" in described:
        return {key: made(item) for key, item in described["dict"].items()}
    if "value" in described:
        return described["value"]
    (kind,) = described
    items = [made(item) for item in described[kind]]
    return items if kind == "list" else tuple(items)
