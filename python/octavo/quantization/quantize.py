"""The eager static workflow: prepare a model with observers, let it see data, convert it to int8.

    model.qconfig = get_default_qconfig()
    prepared = prepare(fuse_modules(model.eval(), [["conv", "bn", "relu"]]))
    for batch in data:
        prepared(batch)
    int8_model = convert(prepared)

Names, arguments and results are those of ``torch.ao.quantization``. Differences:

* Subclasses of a known class are treated as that class unless they override ``forward``.
* The model itself may be a module that is replaced (torch replaces children only); a module that
  the model holds under several names is replaced once and stays shared.
* ``convert`` raises where an observer saw nothing, and changes nothing then. It leaves a
  ``quantization_report`` on the result, see :func:`octavo.quantization.explain`.
* Prepared models can be pickled; a module's ``qconfig`` stays the object that was assigned.
* The observer of a fused module sees each output once. In torch it sees it twice (as a member of
  the Sequential and through its hook), which makes moving averages there move twice as fast.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from octavo.nn.quantized import FXFloatFunctional
from octavo.nn.quantized.modules.of_parts import MadeOfParts
from octavo.quantization.fake_quantize import FakeQuantizeBase
from octavo.quantization.fold import copy_model
from octavo.quantization.fused_calls import check_calls, remove_call_counts, restart_calls
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.qconfig import activation_is_memoryless
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.quantization_mappings import (
    CUSTOM_OBSERVED,
    CUSTOM_QUANTIZED,
    DEFAULT_MODULE_TO_ACT_POST_PROCESS,
    get_default_qconfig_propagation_list,
    get_default_static_quant_module_mappings,
    no_observer_set,
)
from octavo.quantization.report import report_of
from octavo.quantization.stubs import DeQuantStub, QuantWrapper
from octavo.quantization.swap import (
    check_calibrated,
    hand_over,
    make_quantized,
    observer_forward_hook,
    observer_forward_pre_hook,
    remove_qconfig,
    replaced,
    swap_module,
)
from octavo.quantization.training_form import warn_training_form
from octavo.quantization.units import (
    OBSERVER_NAME,
    OVERRIDES,
    Unit,
    adopt_foreign_modules,
    canonical_type,
    check_units,
    disable_nested_tensors,
    fold_units,
    is_quantized,
    resolve_qconfigs,
    units_of,
    warn_unknown_names,
)
from octavo.quantization.utils import has_no_children_ignoring_parametrizations

__all__ = [
    "add_quant_dequant",
    "convert",
    "default_eval_fn",
    "get_default_custom_config_dict",
    "prepare",
    "propagate_qconfig_",
    "quantize",
    "swap_module",
]

_TO_OBSERVED = "float_to_observed_custom_module_class"
_TO_QUANTIZED = "observed_to_quantized_custom_module_class"


def get_default_custom_config_dict() -> dict[str, dict[type, type]]:
    """Float class to observed class, and observed class to quantized class, of modules that are
    observed part by part; a copy that may be changed.

    Source: ``torch.ao.quantization.get_default_custom_config_dict``.
    """
    return {_TO_OBSERVED: dict(CUSTOM_OBSERVED), _TO_QUANTIZED: dict(CUSTOM_QUANTIZED)}


def propagate_qconfig_(
    module: nn.Module,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> None:
    """Gives every module inside of ``module`` an attribute ``qconfig``, in place.

    Args:
        module: a model.
        qconfig_dict: names ("" is the model), classes, or both, to QConfig or None. A module's own
            attribute comes first, then its name, then its class (or the nearest base class), then
            what the module it is in has. Or a QConfigMapping, or the dict of one.
        prepare_custom_config_dict: ``non_traceable_module_name`` and ``non_traceable_module_class``
            list children that get none.

    Raises:
        TypeError: something that is not a QConfig.

    Warns where a name is not in the model. Source: ``torch.ao.quantization.propagate_qconfig_``.
    """
    warn_unknown_names(module, qconfig_dict)
    set_qconfigs(module, _resolve(module, qconfig_dict, prepare_custom_config_dict))


def _resolve(
    model: nn.Module,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None,
    custom: Mapping[str, Any] | None,
) -> dict[int, Any]:
    names = (custom or {}).get("non_traceable_module_name", [])
    classes = (custom or {}).get("non_traceable_module_class", [])
    return resolve_qconfigs(
        model, qconfig_dict, lambda name, child: name in names or type(child) in classes
    )


def set_qconfigs(model: nn.Module, qconfigs: Mapping[int, Any]) -> None:
    """Gives the modules of a model their qconfigs, which are by ``id``."""
    for module in model.modules():
        if id(module) in qconfigs:
            module.qconfig = qconfigs[id(module)]


def prepare(
    model: nn.Module,
    inplace: bool = False,
    allow_list: Collection[type] | None = None,
    observer_non_leaf_module_list: Collection[type] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    *,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None = None,
) -> nn.Module:
    """Puts observers on the modules that ``convert`` will replace, for calibration.

    Args:
        model: a float model whose modules carry ``qconfig`` attributes; a module without one has
            that of the module it is in, and None leaves it (and what is in it) float. It should be
            in eval mode.
        inplace: change ``model`` instead of a deep copy.
        allow_list: classes to observe; default: those that have an int8 form.
        observer_non_leaf_module_list: further classes to observe, as a whole.
        prepare_custom_config_dict: ``{"float_to_observed_custom_module_class": {Float:
            Observed}}``; ``Observed`` has a classmethod ``from_float``.
        qconfig_dict: as in :func:`propagate_qconfig_`; torch's ``prepare`` lacks this argument.

    Returns:
        The prepared model. Observed modules have a child ``activation_post_process`` and a forward
        hook before all others; fused modules are observed as a whole, FloatFunctional inside,
        DeQuantStub and Dropout never. Weight norm, spectral norm, pruning and parametrizations of
        what ``convert`` will replace are folded into plain weights, which the report says.

    Raises:
        ValueError: a module that is quantized or prepared already; a fused batch norm in its
            training form; modules on several devices.
        TypeError: a qconfig that is none.

    Warns where modules compute in their training form (batch norms, dropout), which calibration
    should not see; where a module that was fused away is called in other places too; where nothing
    in the model has a qconfig, and where a subclass stays float because it overrides forward.
    Source: ``torch.ao.quantization.prepare``.
    """
    return _prepare(
        model,
        inplace,
        allow_list,
        observer_non_leaf_module_list,
        prepare_custom_config_dict,
        qconfig_dict,
        "prepare",
    )


def prepare_for_training(model: nn.Module, observed_whole: Collection[type]) -> nn.Module:
    """The part of :func:`prepare` that ``prepare_qat`` needs, in place.

    Args:
        model: a float model whose modules have been replaced by those that are trained.
        observed_whole: the classes of these.
    """
    return _prepare(model, True, None, observed_whole, None, None, "prepare_qat")


def _prepare(
    model: nn.Module,
    inplace: bool,
    allow_list: Collection[type] | None,
    observer_non_leaf_module_list: Collection[type] | None,
    prepare_custom_config_dict: Mapping[str, Any] | None,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None,
    caller: str,
) -> nn.Module:
    table = get_default_qconfig_propagation_list() if allow_list is None else set(allow_list)
    custom = (prepare_custom_config_dict or get_default_custom_config_dict()).get(_TO_OBSERVED, {})
    non_leaf = set(observer_non_leaf_module_list or ())
    whole = non_leaf | set(custom)
    warn_unknown_names(model, qconfig_dict)
    qconfigs = _resolve(model, qconfig_dict, prepare_custom_config_dict)
    observable = {*table, *custom}
    _check_preparable(model, qconfigs, observable, whole)
    device = _unique_device(model)
    if caller == "prepare":
        warn_training_form(model, stacklevel=4)
    check_calls(model)
    if not inplace:
        model = copy_model(model)
    restart_calls(model)
    adopt_foreign_modules(model)
    disable_nested_tensors(model)
    qconfigs = _resolve(model, qconfig_dict, prepare_custom_config_dict)
    set_qconfigs(model, qconfigs)
    fold_units(units_of(model, qconfigs, observable, whole))
    if not any(qconfigs.values()):
        warnings.warn(
            "prepare: no module has a qconfig, so nothing will be quantized; set model.qconfig = "
            "octavo.quantization.get_default_qconfig() or pass qconfig_dict",
            stacklevel=3,
        )
    for unit in units_of(model, qconfigs, observable, whole):
        model = _observe(model, unit, custom, non_leaf, device)
    return model


def check_float(model: nn.Module, caller: str) -> None:
    """Raises ValueError where something in a model is quantized, or prepared for it, already.

    The observer inside of a fake-quantize (of a weight, in quantization-aware training) is that
    one's own.
    """
    for name, module in model.named_modules():
        if is_quantized(module):
            raise ValueError(
                f"{caller}: '{name}' ({type(module).__name__}) is quantized already; {caller}() "
                "takes a float model"
            )
        parent, _, last = name.rpartition(".")
        if not _is_activation_post_process(module) or last != OBSERVER_NAME:
            continue
        if not _is_activation_post_process(model.get_submodule(parent)):
            raise ValueError(
                f"{caller}: '{parent}' has an observer already; {caller}() takes a model that was "
                "not prepared before"
            )


def _check_preparable(
    model: nn.Module, qconfigs: Mapping[int, Any], table: Collection[type], whole: Collection[type]
) -> None:
    check_float(model, "prepare")
    check_units(units_of(model, qconfigs, table, whole), "prepare")


def _observe(
    model: nn.Module,
    unit: Unit,
    custom: Mapping[type, Any],
    non_leaf: Collection[type],
    device: torch.device | None,
) -> nn.Module:
    """Observes one unit, if it is to be; returns the model, which is another object where the unit
    is the model.
    """
    module, qconfig = unit.module, unit.qconfig
    cls = canonical_type(module)
    if qconfig is None or issubclass(cls, (DeQuantStub, nn.Dropout)):
        return model
    if unit.entry is not None and unit.entry in custom:
        target = custom[unit.entry]
        module = _observed_form(unit, target)
        model = replaced(model, {id(unit.module): module})
        if issubclass(target, tuple(no_observer_set())):
            hand_over(unit.module, module)
            return model
    observer = qconfig.activation()
    if unit.entry is None and cls not in non_leaf:
        observer = _fixed_fake_quantize(module, observer)
        if OVERRIDES in unit.reason:
            warnings.warn(f"prepare: {unit.label} stays float: {unit.reason}", stacklevel=4)
        if observer is None:
            return model
    if device is not None:
        observer.to(device)
    observer._observed_module = unit.name
    if isinstance(module, FXFloatFunctional):
        module.activation_post_process = observer
        return model
    module.add_module(OBSERVER_NAME, observer)
    if activation_is_memoryless(observer):
        module.register_forward_pre_hook(observer_forward_pre_hook, prepend=True)
    else:
        module.register_forward_hook(observer_forward_hook, prepend=True)
    return model


def _observed_form(unit: Unit, target: Any) -> nn.Module:
    """What a custom class makes of a float module."""
    if "qconfig" not in vars(unit.module):
        unit.module.qconfig = unit.qconfig
    unit.module._qualified_name = unit.name  # type: ignore[assignment]
    module: nn.Module = target.from_float(unit.module)
    module.qconfig = unit.qconfig
    module._qualified_name = unit.name  # type: ignore[assignment]
    return module


def _fixed_fake_quantize(module: nn.Module, observer: Any) -> Any:
    """What rounds the output of a module without an int8 form in training, or None.

    ``observer`` is what its qconfig gives for activations.
    """
    fixed = DEFAULT_MODULE_TO_ACT_POST_PROCESS.get(canonical_type(module))
    trained = module.training and isinstance(observer, FakeQuantizeBase)
    if fixed is None or not trained or activation_is_memoryless(observer):
        return None
    return fixed()


def convert(
    module: nn.Module,
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> nn.Module:
    """Replaces the modules of a calibrated model by int8 ones.

    Args:
        module: a prepared model that has seen data.
        mapping: float class to int8 class; default:
            :func:`get_default_static_quant_module_mappings`. The int8 class has a classmethod
            ``from_float``.
        inplace: change ``module`` instead of a deep copy. Where the model itself is to be replaced
            this cannot be done.
        remove_qconfig: take observers and qconfigs off what stays float.
        is_reference: not supported.
        convert_custom_config_dict: ``{"observed_to_quantized_custom_module_class": {Observed:
            Quantized}}``; ``Quantized`` has a classmethod ``from_observed``.
        use_precomputed_fake_quant: handed to ``from_float`` of classes that know it.

    Returns:
        The int8 model. Forward hooks of replaced modules go on working, on quantized tensors;
        ``_qualified_name`` of the new modules is their path. ``quantization_report`` says what
        became of each module.

    Raises:
        RuntimeError: modules that were not prepared, or whose observers saw nothing, or nothing
            finite; all are named.
        ValueError: see :func:`prepare`; NaN or Inf in a weight; modules that are not on the CPU;
            ``inplace`` for a model that itself is replaced. Nothing has been changed then.

    Warns where there is nothing to replace. Source: ``torch.ao.quantization.convert``.
    """
    if is_reference:
        raise NotImplementedError(
            "convert: there are no reference modules; leave is_reference False"
        )
    table = dict(get_default_static_quant_module_mappings() if mapping is None else mapping)
    custom = dict(
        (convert_custom_config_dict or get_default_custom_config_dict()).get(_TO_QUANTIZED, {})
    )
    units = _prepared_units(module, {**table, **custom}, custom)
    check_units(units, "convert")
    check_calibrated([*units, *_parts_of(units, custom)], table)
    check_calls(module)
    if not inplace:
        module = copy_model(module)
    elif any(unit.module is module and unit.entry is not None for unit in units):
        raise ValueError(
            f"convert: the model itself is a {canonical_type(module).__name__} and has to be "
            "replaced; call convert(model) without inplace and use what it returns"
        )
    return convert_checked(module, table, custom, remove_qconfig, use_precomputed_fake_quant)


def convert_checked(
    model: nn.Module,
    table: Mapping[type, Any],
    custom: Mapping[type, Any],
    remove: bool,
    use_precomputed_fake_quant: bool,
    caller: str = "convert",
) -> nn.Module:
    """Converts a checked model in place and returns it, or what replaces it."""
    adopt_foreign_modules(model)
    disable_nested_tensors(model)
    units = _prepared_units(model, {**table, **custom}, custom)
    fold_units(units)
    report = report_of(units, {**table, **custom})
    to_swap = [unit for unit in units if unit.entry is not None]
    if not to_swap:
        reason = "no module has both a qconfig and an int8 form"
        if caller == "convert" and _forgot_prepare(model):
            reason = (
                "no module has an observer, although there are qconfigs: convert() takes what "
                "prepare() returned, which is a copy of the model unless inplace=True"
            )
        warnings.warn(f"{caller}: {reason}; nothing was replaced", stacklevel=3)
    # All modules are made before any is replaced, so that an error leaves the model as it was.
    # Those that contain others come after these, and find them replaced.
    outer = [unit for unit in to_swap if _contains_any(unit, to_swap)]
    for group in ([unit for unit in to_swap if unit not in outer], *([unit] for unit in outer)):
        made = {
            id(unit.module): make_quantized(
                unit.module, unit.name, table, custom, use_precomputed_fake_quant, caller
            )
            for unit in group
        }
        for unit in group:
            hand_over(unit.module, made[id(unit.module)])
        model = replaced(model, made)
    remove_call_counts(model)
    if remove:
        remove_qconfig(model)
        model.quantization_report = report  # type: ignore[assignment]
    return model


def _prepared_units(
    model: nn.Module, table: Collection[type], custom: Collection[type]
) -> list[Unit]:
    qconfigs = {id(module): getattr(module, "qconfig", None) for module in model.modules()}
    return units_of(model, qconfigs, table, set(custom))


def _parts_of(units: Iterable[Unit], custom: Mapping[type, Any]) -> list[Unit]:
    """The units inside of Octavo's own custom modules, with their paths in the model."""
    table = get_default_static_quant_module_mappings()
    result = []
    for unit in units:
        target = None if unit.entry is None else custom.get(unit.entry)
        if isinstance(target, type) and issubclass(target, MadeOfParts):
            for part in _prepared_units(unit.module, table, ()):
                name = ".".join(filter(None, (unit.name, part.name)))
                result.append(dataclasses.replace(part, name=name))
    return result


def _forgot_prepare(model: nn.Module) -> bool:
    """Whether modules that ``prepare`` would observe have a qconfig, and nothing an observer."""
    if any(map(_is_activation_post_process, model.modules())):
        return False
    table = get_default_static_quant_module_mappings()
    units = units_of(model, resolve_qconfigs(model), table, set())
    return any(unit.entry is not None and unit.qconfig is not None for unit in units)


def _contains_any(unit: Unit, others: Iterable[Unit]) -> bool:
    inside = {id(module) for module in unit.module.modules()} - {id(unit.module)}
    return any(id(other.module) in inside for other in others)


def quantize(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Iterable[Any],
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Prepares a model, calibrates it with ``run_fn(model, *run_args)`` in eval mode, and converts
    it.

    Args:
        model: a float model with qconfigs.
        run_fn: runs the model it is given on calibration data.
        run_args: further arguments of ``run_fn``.
        mapping, inplace: as in :func:`convert`.

    Returns:
        The int8 model.

    Raises: as :func:`prepare` and :func:`convert`.

    Source: ``torch.ao.quantization.quantize``.
    """
    table = get_default_qconfig_propagation_list()
    _check_preparable(model, resolve_qconfigs(model), table, ())
    prepared = prepare((model if inplace else copy_model(model)).eval(), inplace=True)
    run_fn(prepared, *run_args)
    converted: nn.Module = convert(prepared, mapping, inplace=inplace)
    return converted


def default_eval_fn(model: nn.Module, calib_data: Iterable[Any]) -> None:
    """Runs a model on the first element of each pair (input, target).

    Source: ``torch.ao.quantization.default_eval_fn``.
    """
    for data, _target in calib_data:
        model(data)


def add_quant_dequant(module: nn.Module) -> nn.Module:
    """Wraps every leaf that has a qconfig in a :class:`QuantWrapper`, in place.

    Returns:
        The module, or its wrapper if it is a leaf itself.

    Source: ``torch.ao.quantization.add_quant_dequant``.
    """
    wrapped: dict[int, nn.Module] = {}

    def visit(part: nn.Module) -> nn.Module:
        if id(part) not in wrapped:
            wrapped[id(part)] = part
            if has_no_children_ignoring_parametrizations(part):
                if getattr(part, "qconfig", None):
                    wrapped[id(part)] = QuantWrapper(part)
            else:
                for name, child in part._modules.items():
                    part._modules[name] = None if child is None else visit(child)
        return wrapped[id(part)]

    return visit(module)


def _get_unique_devices_(module: nn.Module) -> set[torch.device]:
    """The devices of a module's parameters and buffers, except meta."""
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.device for tensor in tensors if tensor.device.type != "meta"}


def _unique_device(model: nn.Module) -> torch.device | None:
    devices = _get_unique_devices_(model)
    if len(devices) > 1:
        raise ValueError(
            f"prepare: the model must be on one device, got {sorted(str(d) for d in devices)}"
        )
    return next(iter(devices), None)


def __getattr__(name: str) -> Any:
    # In torch these are here; their modules import this one.
    homes = {
        "prepare_qat": "quantize_qat",
        "quantize_dynamic": "quantize_dynamic",
        "quantize_qat": "quantize_qat",
    }
    if name in homes:
        return getattr(importlib.import_module(f"octavo.quantization.{homes[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
