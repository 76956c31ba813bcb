"""Quantization-aware training: a float model that rounds as the int8 one will, while it learns.

    model.qconfig = get_default_qat_qconfig()
    prepared = prepare_qat(fuse_modules_qat(model.train(), [["conv", "bn", "relu"]]))
    for batch, target in data:
        ...  # train it; towards the end prepared.apply(disable_observer), .apply(freeze_bn_stats)
    int8_model = convert(prepared.eval())

In eval mode each layer of the prepared model gives the levels of the int8 layer that ``convert``
makes of it, but for one step where float rounding meets a tie. What training does not round differs
by more, as it does with torch:

* what keeps the scale of its input and computes means (average pooling, bilinear interpolation):
  int8 rounds these to the levels, by up to half a step, and what follows starts from there;
* weights of transposed convolutions and of ConvAdd2d;
* activations of fewer than 8 bits: training clamps at ``quant_min`` and ``quant_max``; int8 layers
  keep the scale, and clamp at the ends of their dtype.

Names, arguments and results are those of ``torch.ao.quantization``. Differences:

* Conv1d, ConvReLU1d, convolutions with ReLU6 and embeddings are trained with rounded weights too.
* Subclasses, root modules and shared modules are treated as ``prepare`` does.
* A batch norm may have gammas of zero; see :mod:`octavo.nn.intrinsic.qat.modules.batch_norm`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from octavo.quantization.fold import copy_model
from octavo.quantization.observer_base import ObserverBase
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.quantization_mappings import get_default_qat_module_mappings
from octavo.quantization.quantize import (
    _unique_device,
    check_float,
    convert,
    prepare_for_training,
    set_qconfigs,
)
from octavo.quantization.swap import hand_over, make_quantized, replaced
from octavo.quantization.units import (
    adopt_foreign_modules,
    check_units,
    fold_units,
    resolve_qconfigs,
    units_of,
    warn_unknown_names,
)

__all__ = ["prepare_qat", "quantize_qat"]


def prepare_qat(
    model: nn.Module,
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
    *,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None = None,
) -> nn.Module:
    """Replaces layers by those that round their weights, and puts fake-quantize modules on what
    ``convert`` will replace.

    Args:
        model: a float model in training mode whose modules carry ``qconfig`` attributes, as for
            :func:`octavo.quantization.prepare`; batch norms fused by
            :func:`octavo.quantization.fuse_modules_qat`.
        mapping: float class to the class that is trained; default:
            :func:`get_default_qat_module_mappings`. That class has a classmethod ``from_float``.
        inplace: change ``model`` instead of a deep copy. Where the model itself is to be replaced
            this cannot be done.
        qconfig_dict: as in :func:`octavo.quantization.propagate_qconfig_`; torch lacks this
            argument.

    Returns:
        The model, to be trained and given to :func:`octavo.quantization.convert`. It has the
        parameters of the model (with ``inplace`` the same objects), and state dicts have torch's
        keys.

    Raises:
        ValueError: a model that is not in training mode; a module that is quantized or prepared
            already; modules on several devices; ``inplace`` for a model that itself is replaced.
            Nothing has been changed then.
        TypeError: a qconfig that is none.

    Warns where nothing in the model has a qconfig, where none rounds, where a subclass stays float
    because it overrides forward, and where weights were computed from others (weight norm,
    parametrizations, pruning) and have been folded. Source: ``torch.ao.quantization.prepare_qat``.
    """
    if not model.training:
        raise ValueError(
            "prepare_qat: the model is in eval mode; call model.train() first (for quantization "
            "after training use prepare())"
        )
    table = dict(get_default_qat_module_mappings() if mapping is None else mapping)
    warn_unknown_names(model, qconfig_dict)
    check_float(model, "prepare_qat")
    units = units_of(model, resolve_qconfigs(model, qconfig_dict), table)
    check_units(units, "prepare_qat")
    _unique_device(model)
    if not inplace:
        model = copy_model(model)
    elif any(unit.module is model and unit.entry is not None for unit in units):
        raise ValueError(
            f"prepare_qat: the model itself is a {type(model).__name__} and has to be replaced; "
            "call prepare_qat(model) without inplace and use what it returns"
        )
    adopt_foreign_modules(model)
    qconfigs = resolve_qconfigs(model, qconfig_dict)
    set_qconfigs(model, qconfigs)
    folded = fold_units(units_of(model, qconfigs, table))
    if folded:
        warnings.warn(
            "prepare_qat: these weights were computed from other parameters; they are plain "
            "parameters now, and are trained as such:\n  " + "\n  ".join(folded),
            stacklevel=2,
        )
    model = _with_rounded_weights(model, qconfigs, table)
    if not any(qconfigs.values()):
        warnings.warn(
            "prepare_qat: no module has a qconfig, so nothing will be quantized; set model.qconfig "
            "= octavo.quantization.get_default_qat_qconfig() or pass qconfig_dict",
            stacklevel=2,
        )
        return model
    if all(map(_only_observes, filter(None, qconfigs.values()))):
        warnings.warn(
            "prepare_qat: the qconfigs observe and round nothing, so training will not see any "
            "rounding; use octavo.quantization.get_default_qat_qconfig(), or a QConfig of "
            "FakeQuantize classes",
            stacklevel=2,
        )
    return prepare_for_training(model, set(table.values()))


def _only_observes(qconfig: Any) -> bool:
    return all(isinstance(make(), ObserverBase) for make in (qconfig.activation, qconfig.weight))


def _with_rounded_weights(
    model: nn.Module, qconfigs: Mapping[int, Any], table: Mapping[type, Any]
) -> nn.Module:
    """Replaces what the table has entries for; the model is as it was where that fails."""
    units = [unit for unit in units_of(model, qconfigs, table) if unit.entry is not None]
    made = {
        id(unit.module): make_quantized(unit.module, unit.name, table, {}, False, "prepare_qat")
        for unit in units
    }
    for unit in units:
        new = made[id(unit.module)]
        new.qconfig = unit.qconfig
        hand_over(unit.module, new)
    return replaced(model, made)


def quantize_qat(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Iterable[Any],
    inplace: bool = False,
) -> nn.Module:
    """Prepares a model, trains it with ``run_fn(model, *run_args)`` from training mode, and
    converts it.

    Args:
        model: a float model with qconfigs.
        run_fn: trains the model it is given.
        run_args: further arguments of ``run_fn``.
        inplace: as in :func:`prepare_qat`.

    Returns:
        The int8 model.

    Raises: as :func:`prepare_qat` and :func:`octavo.quantization.convert`.

    Source: ``torch.ao.quantization.quantize_qat``.
    """
    prepared = prepare_qat((model if inplace else copy_model(model)).train(), inplace=inplace)
    run_fn(prepared, *run_args)
    return convert(prepared, inplace=inplace)
