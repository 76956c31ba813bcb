"""Models that cannot be traced as a whole: the parts that can be are prepared, each as a graph."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fold import copy_model
from octavo.quantization.fx.calls import Calls
from octavo.quantization.fx.custom_config import PrepareCustomConfig
from octavo.quantization.fx.fuse import set_module
from octavo.quantization.fx.graph_module import ObservedGraphModule
from octavo.quantization.fx.prepare import below, prepare_model
from octavo.quantization.fx.tracer import TracingError
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.units import canonical_type, is_leaf

__all__ = ["convert_parts", "prepare_parts"]

_CALLER = "prepare_traceable_fx"


def prepare_parts(
    model: nn.Module,
    mapping: QConfigMapping,
    example_inputs: tuple[Any, ...],
    custom: PrepareCustomConfig,
    backend: BackendConfig,
) -> nn.Module:
    """Prepares a model that is changed by it, or the largest parts of it that can be traced."""
    calls = Calls.of(model, example_inputs)
    left: list[str] = []

    def visit(path: str, module: nn.Module) -> nn.Module:
        read = calls.read_from_outside(path)
        if path in read:
            left.append(f"'{path}' ({canonical_type(module).__name__}): {read[path]}")
            return module
        inputs = calls.inputs.get(path)
        if path in custom.non_traceable_module_names and path in calls.inputs:
            return module
        if inputs is None and is_leaf(module):
            return module
        if inputs is not None and not read:
            try:
                return _prepared(path, module, inputs, mapping, custom, backend)
            except TracingError as error:
                what = f"'{path}'" if path else "the model itself"
                line = f" at {error.line}" if error.line else ""
                left.append(f"{what} ({canonical_type(module).__name__}): {error.__cause__}{line}")
        if canonical_type(module).__module__.startswith("torch.nn") and not isinstance(
            module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        ):
            return module  # it may read the weights of its children
        for name, child in list(module.named_children()):
            child_path = f"{path}.{name}" if path else name
            set_module(module, name, visit(child_path, child))
        return module

    result = visit("", model)
    if left:
        warnings.warn(
            f"{_CALLER}: the code of these modules cannot be traced and stays float; the modules "
            "in them are prepared one by one:\n  " + "\n  ".join(left),
            stacklevel=3,
        )
    return result


def _prepared(
    path: str,
    module: nn.Module,
    inputs: tuple[Any, ...],
    mapping: QConfigMapping,
    custom: PrepareCustomConfig,
    backend: BackendConfig,
) -> nn.Module:
    """A prepared module, or the module itself where nothing in it is quantized."""
    whole = copy_model(module)
    if not isinstance(whole, nn.Sequential) and is_leaf(whole):
        whole = nn.Sequential(whole)
    whole.train(module.training)
    prefix = f"{path}." if path else ""
    inner = PrepareCustomConfig()
    inner.set_non_traceable_module_classes(custom.non_traceable_module_classes)
    inner.set_non_traceable_module_names(
        [
            name.removeprefix(prefix)
            for name in custom.non_traceable_module_names
            if name.startswith(prefix)
        ]
    )
    rules = below(mapping, path) if path else mapping
    prepared = prepare_model(whole, rules, inputs, inner, backend, False, _CALLER)
    quantized = any(getattr(part, "qconfig", None) for part in prepared.modules())
    return prepared if quantized else module


def convert_parts(model: nn.Module, convert: Any) -> nn.Module:
    """Converts, in place, the prepared graphs inside of a model with ``convert``."""
    for path, part in list(model.named_modules()):
        if path and isinstance(part, ObservedGraphModule):
            set_module(model, path, convert(part))
    return model
