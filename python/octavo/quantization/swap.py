"""Replacing calibrated float modules by int8 ones: what has to hold first, and how it is done.

Users call :func:`octavo.quantization.convert`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from octavo.nn.quantized import FXFloatFunctional
from octavo.nn.quantized.modules.base import QuantizedModule, QuantizedOutput
from octavo.nn.quantized.modules.utils import is_calibrated
from octavo.quantization.fused_calls import carry_calls, release_calls, remove_call_counts
from octavo.quantization.observer import _is_activation_post_process, _SilentObserver
from octavo.quantization.units import (
    OBSERVER_NAME,
    Unit,
    adopt_foreign_modules,
    canonical_type,
    check_units,
    find_entry,
    ignored_values,
    is_quantized,
    units_of,
)

__all__ = ["swap_module"]

_HOOK_TABLES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def observer_forward_hook(self: nn.Module, input: Any, output: Any) -> Any:
    """The forward hook that shows a module's output to its observer."""
    return self.activation_post_process(output)  # type: ignore[operator]


def observer_forward_pre_hook(self: nn.Module, input: tuple[Any, ...]) -> Any:
    """The forward pre-hook that shows a module's first input to its observer."""
    return (self.activation_post_process(input[0]), *input[1:])  # type: ignore[operator]


_OBSERVER_HOOKS = (observer_forward_hook, observer_forward_pre_hook)


# What a unit can lack, and what its message says.
_LACKS = {
    "observer": "have a qconfig but no observer; call prepare() and calibrate first",
    "scale": (
        "have a qconfig whose activation observer gives no scale; use one for static "
        "quantization, such as get_default_qconfig()"
    ),
    "finite": "saw nothing but NaN and Inf in calibration; look at the data and the weights",
    "data": (
        "never saw data, so there is no scale for them; run calibration data through the "
        "prepared model, or, where the model does not call them, set their qconfig to None "
        "before prepare(); a saved int8 state dict needs no data, load_quantized(float_model, "
        "state_dict) takes it"
    ),
}

_SHORT = {
    "observer": "it has no observer",
    "scale": "its activation observer gives no scale",
    "finite": "it saw nothing but NaN and Inf in calibration",
    "data": "it never saw data",
}


def check_calibrated(
    units: Iterable[Unit], table: Mapping[type, Any], caller: str = "convert"
) -> None:
    """Raises where a unit that is to be replaced lacks what its int8 class needs.

    Raises:
        RuntimeError: units without observer, or whose observer has seen nothing or nothing finite;
            names them all.
        ValueError: a weight with NaN or Inf, or that is not on the CPU.
    """
    targets = [(u, table[u.entry]) for u in units if u.entry is not None and u.entry in table]
    found: dict[str, list[str]] = {lack: [] for lack in _LACKS}
    for unit, target in targets:
        lack, detail = _lack(unit.module, target)
        if lack:
            found[lack].append(unit.label + detail)
    texts = [
        f"these modules {_LACKS[lack]}:\n  " + "\n  ".join(labels)
        for lack, labels in found.items()
        if labels
    ]
    if texts:
        raise RuntimeError(f"{caller}: " + "\n".join(texts))
    for unit, target in targets:
        if _is_ours(target):
            _check_parameters(unit, caller)


def lacking(unit: Unit, table: Mapping[type, Any]) -> str:
    """What :func:`check_calibrated` says of a unit that is to be replaced; "" if nothing."""
    if unit.entry is None or unit.entry not in table:
        return ""
    lack, detail = _lack(unit.module, table[unit.entry])
    return _SHORT[lack] + detail if lack else ""


def _lack(module: nn.Module, target: Any) -> tuple[str, str]:
    """What an observed module lacks to become a ``target``, as a key of _LACKS, and a detail; two
    empty strings if nothing.
    """
    observer = getattr(module, OBSERVER_NAME, None)
    if not _wants_scale(target, observer):
        return "", ""
    untouched = isinstance(module, FXFloatFunctional) and type(observer) is nn.Identity
    if observer is None or untouched:
        return "observer", ""
    if isinstance(observer, _SilentObserver) or not hasattr(observer, "calculate_qparams"):
        return "scale", f": {type(observer).__name__}"
    if is_calibrated(observer) or getattr(module, "_scalar_operations", False):
        return "", ""
    if not isinstance(module, FXFloatFunctional) and issubclass(
        canonical_type(module), FXFloatFunctional
    ):
        return "", ""  # torch.ao's do not tell whether only scalar operations were called
    ignored = ignored_values(observer)
    return ("finite", f", {ignored} values") if ignored else ("data", "")


def _is_ours(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, QuantizedModule)


def _wants_scale(target: Any, observer: Any) -> bool:
    """Whether a class takes an output scale from calibration.

    Other classes than Octavo's do if they are observed and do not quantize when they run.
    """
    if _is_ours(target):
        return issubclass(target, QuantizedOutput)
    return observer is not None and not getattr(observer, "is_dynamic", False)


def _check_parameters(unit: Unit, caller: str) -> None:
    for name, parameter in unit.module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            continue
        if parameter.device.type != "cpu":
            raise ValueError(
                f"{caller}: '{name}' of {unit.label} is on {parameter.device}; int8 modules run on "
                "the CPU, so call model.cpu() first"
            )
        finite = torch.isfinite(parameter.detach())  # also of parameters made in inference mode
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise ValueError(f"{caller}: '{name}' of {unit.label} holds {bad} NaN or Inf values")


def make_quantized(
    mod: nn.Module,
    name: str,
    table: Mapping[type, Any],
    custom: Mapping[type, Any],
    use_precomputed_fake_quant: bool,
    caller: str = "convert",
) -> nn.Module:
    """A new int8 module for a calibrated one. Neither the old module nor the model changes."""
    cls = canonical_type(mod)
    mod._qualified_name = name  # type: ignore[assignment]
    try:
        if cls in custom:
            new = custom[cls].from_observed(mod)
        else:
            new = _from_float(mod, table, use_precomputed_fake_quant)
    except (TypeError, ValueError, RuntimeError) as error:
        if f"'{name}'" in str(error):
            raise
        kind = next(
            kind for kind in (TypeError, ValueError, RuntimeError) if isinstance(error, kind)
        )
        place = f"'{name}'" if name else "the model itself"
        raise kind(f"{caller}: {place} ({cls.__name__}): {error}") from error
    finally:
        del mod._qualified_name
    new._qualified_name = name
    return new  # type: ignore[no-any-return]


def _from_float(mod: nn.Module, table: Mapping[type, Any], use_precomputed_fake_quant: bool) -> Any:
    entry, reason = find_entry(mod, table)
    if entry is None:
        raise ValueError(reason)
    make = table[entry].from_float
    if "use_precomputed_fake_quant" in inspect.signature(make).parameters:
        return make(mod, use_precomputed_fake_quant=use_precomputed_fake_quant)
    return make(mod)


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """Gives the hooks and the mode of a module to the one that replaces it.

    The tables of hooks themselves go over, so a handle that the user holds still removes its hook.
    Hooks on parts of a fused module end with the parts, with a warning. A count of calls, see
    :mod:`octavo.quantization.fused_calls`, goes over to float modules only.
    """
    counted = release_calls(old)
    remove_call_counts(old)  # of parts that were fused before
    for table in _HOOK_TABLES:
        hooks = getattr(old, table)
        hooks.update(getattr(new, table))
        setattr(new, table, hooks)
    remove_observer_hooks(new)
    if not is_quantized(new):
        carry_calls(new, counted)
    new.train(old.training)
    if isinstance(new, type(old)):  # has the parts of the old one, with their hooks
        return
    lost = [
        name
        for name, part in old.named_modules()
        if name and (part._forward_hooks or part._forward_pre_hooks)
    ]
    if lost:
        warnings.warn(
            f"'{new._qualified_name}' becomes one module, so the hooks on its parts "
            f"{lost} are gone",
            stacklevel=4,
        )


def replaced(model: nn.Module, made: Mapping[int, nn.Module]) -> nn.Module:
    """Puts new modules, by ``id`` of the old ones, in every place where the old ones are. Returns
    the model.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    return made.get(id(model), model)


def remove_observer_hooks(module: nn.Module) -> None:
    """Takes the hooks of ``prepare`` off one module."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if _shows_to_observer(hook)]:
            del hooks[key]


def _shows_to_observer(hook: Any) -> bool:
    """Whether a hook is one that prepare registered, ours or torch.ao's."""
    if hook in _OBSERVER_HOOKS:
        return True
    names = ("_observer_forward_hook", "_observer_forward_pre_hook")
    home = getattr(hook, "__module__", None)
    return home == "torch.ao.quantization.quantize" and hook.__name__ in names


def remove_qconfig(model: nn.Module) -> None:
    """Takes qconfigs, observers and their hooks off all modules of a model."""
    for module in list(model.modules()):
        vars(module).pop("qconfig", None)
        remove_observer_hooks(module)
        if not _is_activation_post_process(module._modules.get(OBSERVER_NAME)):
            continue
        if isinstance(module, FXFloatFunctional):
            module.activation_post_process = nn.Identity()
        else:
            del module._modules[OBSERVER_NAME]


def swap_module(
    mod: nn.Module,
    mapping: Mapping[type, Any],
    custom_module_class_mapping: Mapping[type, Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """The int8 module for one observed module with a qconfig, or the module itself if there is
    none.

    Args:
        mod: a calibrated module. It must not be used afterwards: its hooks go over to the new one.
        mapping, custom_module_class_mapping, use_precomputed_fake_quant: as in
            :func:`octavo.quantization.convert`.

    Raises: as ``convert``.

    Source: ``torch.ao.quantization.swap_module``.
    """
    custom = custom_module_class_mapping or {}
    qconfigs = {id(mod): getattr(mod, "qconfig", None)}
    units = [
        u for u in units_of(mod, qconfigs, {**mapping, **custom}, set(custom)) if u.module is mod
    ]
    if not units or units[0].entry is None:
        return mod
    check_units(units, "swap_module")
    adopt_foreign_modules(mod)
    check_calibrated(units, mapping)
    name: str = getattr(mod, "_qualified_name", "")
    new = make_quantized(mod, name, mapping, custom, use_precomputed_fake_quant)
    hand_over(mod, new)
    return new
