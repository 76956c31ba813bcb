"""Loading a quantized checkpoint into the architecture of its float model, without data.

int8 = load_quantized(Net(), torch.load("int8.pt", weights_only=True))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from octavo.dtypes import qint8, quint8
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.quantization.fold import copy_model
from octavo.quantization.observer import FixedQParamsObserver, default_per_channel_weight_observer
from octavo.quantization.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)
from octavo.quantization.quantization_mappings import (
    get_default_dynamic_quant_module_mappings,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.quantize import convert, prepare
from octavo.quantization.quantize_dynamic import quantize_dynamic
from octavo.quantization.units import (
    adopt_foreign_modules,
    find_entry,
    iter_modules,
)

__all__ = ["load_quantized"]

# By how a key of the state dict ends, the settings of the dynamic layer or embedding that wrote it.
_DYNAMIC = {
    "_int8": default_dynamic_qconfig,
    "weight_float16": float16_dynamic_qconfig,
    "weight_uint8": float_qparams_weight_only_qconfig,
    "weight_uint4x2": float_qparams_weight_only_qconfig_4bit,
}


def load_quantized(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    inplace: bool = False,
    *,
    dynamic_qconfig: QConfig | None = None,
) -> nn.Module:
    """An int8 model with the architecture of a float one and the state of a quantized one. No data
    is needed.

    Args:
        model: the float model that was once quantized, fused as it was then. Its numbers do not
            matter.
        state_dict: ``state_dict()`` of what :func:`octavo.quantization.convert` or
            :func:`octavo.quantization.quantize_dynamic` returned.
        inplace: change ``model`` instead of a deep copy, unless the model itself is replaced.
        dynamic_qconfig: how dynamic layers quantize their inputs, which a state dict does not
            hold; default: ``default_dynamic_qconfig``.

    Returns:
        The model in eval mode, with those modules replaced that the state dict has quantized.

    Raises:
        ValueError: a state dict without anything quantized.
        RuntimeError: keys of the state dict that no module takes, or of the model that it lacks.

    State dicts of ``torch.ao`` are for :func:`octavo.quantization.load_torch_ao`.
    """
    if not inplace:
        model = copy_model(model)
    model.eval()
    adopt_foreign_modules(model)
    static, dynamic = _static_qconfigs(model, state_dict), _dynamic_qconfigs(model, state_dict)
    if not static and not dynamic:
        raise ValueError(
            "load_quantized: the state dict has no quantized modules of this model; a float one is "
            "for load_state_dict, and one of torch.ao for load_torch_ao"
        )
    if static:
        model = convert(prepare(model, inplace=True, qconfig_dict=static), inplace="" not in static)
    if dynamic:
        if dynamic_qconfig is not None:
            dynamic = {
                name: dynamic_qconfig if qconfig is default_dynamic_qconfig else qconfig
                for name, qconfig in dynamic.items()
            }
        model = quantize_dynamic(model, dynamic, inplace="" not in dynamic)
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise RuntimeError(
            f"load_quantized: {error}\nFuse the model as it was fused for the checkpoint, with "
            "octavo.quantization.fuse_modules"
        ) from error
    return model


def _own(state_dict: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}." if name else ""
    return {key[len(prefix) :]: state_dict[key] for key in state_dict if key.startswith(prefix)}


def _static_qconfigs(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """By name, settings that give the output scales in the state dict; None leaves a module as it
    is.
    """
    table = get_default_static_quant_module_mappings()
    found: dict[str, Any] = {}
    marks: list[str] = []
    for name, module in iter_modules(model):
        own = _own(state_dict, name)
        entry, _ = find_entry(module, table)
        if entry is None:
            continue
        if "scale" in own and "zero_point" in own:
            found[name] = _fixed(own["scale"], own["zero_point"])
        elif own or issubclass(table[entry], QuantizedOutput):
            found[name] = None
        else:  # keeps no state
            marks.append(name)
    if not any(found.values()):
        return {}
    return found | dict.fromkeys(marks, _fixed(torch.ones(1), torch.zeros(1, dtype=torch.uint8)))


def _fixed(scale: Tensor, zero_point: Tensor) -> QConfig:
    signed = zero_point.dtype is torch.int8
    activation = FixedQParamsObserver.with_args(
        scale=float(scale),
        zero_point=int(zero_point),
        dtype=qint8 if signed else quint8,
        quant_min=-128 if signed else 0,
        quant_max=127 if signed else 255,
    )
    return QConfig(activation, default_per_channel_weight_observer)


def _dynamic_qconfigs(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    table = get_default_dynamic_quant_module_mappings()
    found: dict[str, Any] = {}
    for name, module in iter_modules(model):
        own = _own(state_dict, name)
        if "scale" in own or find_entry(module, table)[0] is None:
            continue
        for key in own:
            for ending, qconfig in _DYNAMIC.items():
                if key.endswith(ending):
                    found[name] = qconfig
    return found
