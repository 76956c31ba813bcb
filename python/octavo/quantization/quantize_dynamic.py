"""Dynamic quantization of whole models: int8 weights, activations quantized when the model runs.

    int8 = quantize_dynamic(model, {nn.Linear})

Names, arguments and results are those of ``torch.ao.quantization.quantize_dynamic``. Differences:

* Linear quantizes each row of its input with a scale of its own and all 8 bits, and weights have a
  scale for each output channel; ``torch_compatible_dynamic_qconfig`` is what torch does.
* Convolutions that the spec names are quantized (torch leaves them float without a word), and
  ``nn.MultiheadAttention`` is where ``nn.Linear`` is: its projections are Linears.
* Subclasses count as the class they come from unless they override ``forward``.
* The model itself may be a module that is replaced.
* Nothing stays float in silence: what the spec names and cannot be replaced is in a warning, and
  ``quantization_report`` on the result says it for every module.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from octavo.dtypes import as_qdtype, qint8, quint4x2, quint8
from octavo.nn.quantized.dynamic.modules.linear import is_transposed_linear_class
from octavo.quantization.fold import copy_model
from octavo.quantization.fused_calls import check_calls
from octavo.quantization.qconfig import (
    QConfig,
    check_qconfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)
from octavo.quantization.quantization_mappings import get_default_dynamic_quant_module_mappings
from octavo.quantization.quantize import convert_checked, set_qconfigs
from octavo.quantization.report import RUNS_ON_QUANTIZED, QuantizationReport, report_of
from octavo.quantization.swap import check_calibrated
from octavo.quantization.units import (
    Unit,
    canonical_type,
    check_units,
    has_float16_weights,
    is_quantized,
    resolve_qconfigs,
    units_of,
    warn_unknown_names,
)

__all__ = ["explain_dynamic", "quantize_dynamic"]

_NAME = "quantize_dynamic"

# What is quantized to int8 where the user names nothing. torch leaves convolutions float too then.
_COMPUTING: tuple[type, ...] = (
    nn.Linear,
    nn.MultiheadAttention,
    nn.LSTM,
    nn.GRU,
    nn.LSTMCell,
    nn.GRUCell,
    nn.RNNCell,
)

Spec = Mapping[Any, Any] | Collection[Any]


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Spec | None = None,
    dtype: Any = qint8,
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Replaces layers by ones with int8 weights that quantize their inputs when they run.

    Args:
        model: a float model on the CPU.
        qconfig_spec: what to quantize. A set (or list) of classes and names of modules; or a dict
            of these to a QConfig, or to None, which leaves them float. A name or class of a
            container applies to all in it; names come before classes. Default: ``nn.Linear``,
            ``nn.MultiheadAttention``, the recurrent layers and cells, and the ``Conv1D`` of Hugging
            Face transformers.
        dtype: of the weights, where ``qconfig_spec`` has no QConfigs: ``octavo.qint8``,
            ``torch.qint8`` or ``torch.int8``; ``torch.float16``, for Linear only, which saves
            memory and no time; ``octavo.quint8`` and ``quint4x2`` (or torch's), for embeddings,
            which are what is quantized by default then.
        mapping: float class to quantized class; default:
            :func:`get_default_dynamic_quant_module_mappings`.
        inplace: change ``model`` instead of a deep copy.

    Returns:
        The model, in eval mode, with float inputs and outputs as before; nothing needs data. Its
        ``quantization_report`` says what became of each module, and where weights were computed
        from others (weight norm, parametrizations, pruning) and have been folded.

    Raises:
        TypeError: a spec of another kind; something in it that is no QConfig.
        ValueError: an unknown dtype; weights that are not on the CPU, or hold NaN or Inf;
            ``inplace`` for a model that itself is replaced. Nothing has been changed then.

    Warns about names that the model does not have, about modules that the spec names and that stay
    float, and where nothing is replaced.

    Source: ``torch.ao.quantization.quantize_dynamic``.
    """
    table = dict(get_default_dynamic_quant_module_mappings() if mapping is None else mapping)
    spec = _as_dict(qconfig_spec, dtype, table)
    warn_unknown_names(model, spec)
    units = units_of(model, resolve_qconfigs(model, spec), table)
    check_units(units, _NAME)
    check_calibrated(units, table, _NAME)
    check_calls(model)
    if not inplace:
        model = copy_model(model)
    elif any(unit.module is model and unit.entry is not None for unit in units):
        raise ValueError(
            f"{_NAME}: the model itself is a {canonical_type(model).__name__} and has to be "
            f"replaced; call {_NAME}(model) without inplace and use what it returns"
        )
    _warn_left_float(units, spec)
    model.eval()
    set_qconfigs(model, resolve_qconfigs(model, spec))
    model = convert_checked(model, table, {}, True, False, _NAME)
    report: Any = model.quantization_report
    model.quantization_report = _explained(report, table)  # type: ignore[assignment]
    return model


def explain_dynamic(
    model: nn.Module,
    qconfig_spec: Spec | None = None,
    dtype: Any = qint8,
    mapping: Mapping[type, Any] | None = None,
) -> QuantizationReport:
    """Says for each module what :func:`quantize_dynamic` with these arguments would make of it, or
    why it would stay float. Nothing is changed, and no weight is read.

    Raises:
        TypeError, ValueError: for ``qconfig_spec`` and ``dtype``, as ``quantize_dynamic``.
    """
    table = dict(get_default_dynamic_quant_module_mappings() if mapping is None else mapping)
    spec = _as_dict(qconfig_spec, dtype, table)
    warn_unknown_names(model, spec)
    units = units_of(model, resolve_qconfigs(model, spec), table)
    return _explained(report_of(units, table), table)


def _as_dict(spec: Spec | None, dtype: Any, table: Mapping[type, Any]) -> dict[Any, Any]:
    """Classes and names to qconfigs."""
    if isinstance(spec, (str, type)) or not (spec is None or isinstance(spec, Collection)):
        raise TypeError(
            f"{_NAME}: qconfig_spec must be a set of classes and names such as {{nn.Linear}}, a "
            f"dict of these to QConfigs, or None, got {spec!r}"
        )
    if not isinstance(spec, Mapping):
        qconfig, defaults = _settings(dtype)
        if spec is None:
            transposed = [cls for cls in table if is_transposed_linear_class(cls)]
            spec = (*defaults, *(transposed if defaults is _COMPUTING else ()))
        spec = dict.fromkeys(spec, qconfig)
    for key, qconfig in spec.items():
        if not isinstance(key, (str, type)):
            raise TypeError(
                f"{_NAME}: qconfig_spec must name modules by their class or path, got {key!r} of "
                f"type {type(key).__name__}"
            )
        check_qconfig(qconfig, key if isinstance(key, str) else key.__name__)
    result = dict(spec)
    if nn.Linear in result and not has_float16_weights(result[nn.Linear]):
        result.setdefault(nn.MultiheadAttention, result[nn.Linear])
    return result


def _settings(dtype: Any) -> tuple[QConfig, tuple[type, ...]]:
    """The qconfig for a dtype of weights, and what is quantized with it where the user names
    nothing.
    """
    if dtype == torch.float16:
        return float16_dynamic_qconfig, (nn.Linear,)
    if dtype == quint4x2:
        return float_qparams_weight_only_qconfig_4bit, (nn.EmbeddingBag,)
    try:
        qdtype = as_qdtype(dtype)
    except TypeError:
        qdtype = None
    if qdtype is qint8:
        return default_dynamic_qconfig, _COMPUTING
    if qdtype is quint8:
        return float_qparams_weight_only_qconfig, (nn.Embedding, nn.EmbeddingBag)
    raise ValueError(
        f"{_NAME}: dtype must be octavo.qint8 (or torch.qint8, torch.int8), torch.float16, or for "
        f"embeddings octavo.quint8 or octavo.quint4x2, got {dtype!r}"
    )


def _warn_left_float(units: list[Unit], spec: Mapping[Any, Any]) -> None:
    """Warns about modules that the spec names, by path or class, and that are not replaced."""
    left = [
        f"{unit.label}: {unit.reason}"
        for unit in units
        if unit.entry is None
        and unit.qconfig is not None
        and not is_quantized(unit.module)
        and (unit.name in spec or any(base in spec for base in canonical_type(unit.module).__mro__))
    ]
    if left:
        warnings.warn(
            f"{_NAME}: these modules are named by qconfig_spec and stay float:\n  "
            + "\n  ".join(left),
            stacklevel=3,
        )


def _explained(report: QuantizationReport, table: Mapping[type, Any]) -> QuantizationReport:
    """The report, with the reasons of dynamic quantization why a module stays float."""
    known = {cls.__name__ for cls in table}
    silent = ("its qconfig is None", RUNS_ON_QUANTIZED)
    result = QuantizationReport()
    for row in report:
        if not row.becomes and row.reason in silent:
            reason = "qconfig_spec does not name it" if row.type in known else "has no int8 form"
            row = dataclasses.replace(row, reason=reason)
        result.append(row)
    return result
