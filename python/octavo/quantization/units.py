"""How a model divides into units: the modules that prepare observes and convert replaces as a
whole.

``prepare``, ``convert`` and ``explain`` all decide with the functions here, so what ``explain``
says is what the other two do.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from octavo.nn import intrinsic as nni
from octavo.nn import qat as nnqat
from octavo.nn import quantizable as nnqa
from octavo.nn.intrinsic import qat as nniqat
from octavo.nn.qat import dynamic as nnqatd
from octavo.nn.qat.modules.base import QATModule
from octavo.nn.quantized import FloatFunctional, FXFloatFunctional
from octavo.nn.quantized.modules.base import QuantizedModule
from octavo.quantization.fold import fold_weights
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.qconfig import check_qconfig
from octavo.quantization.qconfig_mapping import QConfigMapping, as_qconfig_mapping
from octavo.quantization.stubs import DeQuantStub, QuantStub, QuantWrapper

OBSERVER_NAME = "activation_post_process"


def _by_name(*classes: type[nn.Module]) -> dict[str, Any]:
    return {cls.__name__: cls for cls in classes}


def _public(package: Any) -> dict[str, Any]:
    names = (name for name in package.__all__ if not name.startswith("_"))
    return {name: cls for name in names if isinstance(cls := getattr(package, name), type)}


# Float modules of torch's own quantization package, which models in the wild are written with. They
# have the attributes and behaviour of Octavo's, so prepare turns them into these.
# Those of quantization-aware training too, where convert meets them. By package, the longer name
# first.
_FOREIGN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("torch.ao.quantization.", _by_name(QuantStub, DeQuantStub, QuantWrapper)),
    ("torch.ao.nn.quantized.", _by_name(FloatFunctional, FXFloatFunctional)),
    ("torch.ao.nn.intrinsic.modules.", _public(nni)),
    ("torch.ao.nn.intrinsic.qat.", _public(nniqat)),
    ("torch.ao.nn.qat.dynamic.", _public(nnqatd)),
    ("torch.ao.nn.qat.", _public(nnqat)),
    ("torch.ao.nn.quantizable.", _by_name(nnqa.LSTM, nnqa.LSTMCell, nnqa.MultiheadAttention)),
)

# Modules that read the weights of their children instead of calling them: nothing inside can be
# replaced.
_OPAQUE = (nn.MultiheadAttention,)

_TRAINING_FORMS = (
    *(getattr(nni, f"Conv{form}{rank}d") for form in ("Bn", "BnReLU") for rank in (1, 2, 3)),
    nni.LinearBn1d,
)

_DYNAMIC_PACKAGES = ("octavo.nn.quantized.dynamic.", "octavo.nn.intrinsic.quantized.dynamic.")

_PLAIN_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OVERRIDES = "overrides"  # in the reason why such a subclass stays float
_COMPUTING_METHODS = ("forward", "_conv_forward")


def canonical_type(module: nn.Module) -> type[nn.Module]:
    """The class that counts: without parametrizations, and Octavo's where torch.ao has one of the
    same name.
    """
    cls: type[nn.Module] = type_before_parametrizations(module)
    return _counterpart(cls) or cls


def _counterpart(cls: type) -> Any:
    """Octavo's class for one of torch.ao that is adopted, or None."""
    if not cls.__module__.startswith("torch.ao."):
        return None
    home = next((ours for prefix, ours in _FOREIGN if cls.__module__.startswith(prefix)), {})
    return home.get(cls.__name__)


def disable_nested_tensors(model: nn.Module) -> None:
    """Keeps every nn.TransformerEncoder in a model from calling its layers with nested tensors.

    In eval mode, given a padding mask, an encoder reads the float weights of its first layer and
    packs the batch into a nested tensor, which neither observers nor int8 modules take. With
    ``enable_nested_tensor=False``, as in training mode, it does not; positions that are padding
    then hold numbers instead of zeros.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False


def adopt_foreign_modules(model: nn.Module) -> None:
    """Turns torch.ao's stubs, functionals, fused float modules and modules of training inside of
    ``model`` into Octavo's, in place.

    The objects stay the same, so hooks, parameters and ties do too.
    """
    for module in list(model.modules()):
        ours = _counterpart(type(module))
        if ours is not None:
            module.__class__ = ours
            if hasattr(ours, "_adopted"):
                ours._adopted(module)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module computes on quantized tensors already, Octavo's or torch's."""
    if isinstance(module, QuantizedModule):
        return True
    home = type(module).__module__
    if home.startswith("torch.ao.nn.intrinsic.quantized."):
        return True
    return (
        home.startswith("torch.ao.nn.quantized.")
        and "reference" not in home
        and _counterpart(type(module)) is None  # FloatFunctional lives there
    )


def find_entry(module: nn.Module, table: Collection[type]) -> tuple[type | None, str]:
    """The class in ``table`` that a module counts as, and, where there is none, why.

    That is its own class, or the nearest base class, unless the module computes something else than
    that base: a subclass with its own ``forward`` is a different operation, and needs an entry of
    its own.
    """
    cls = canonical_type(module)
    for base in cls.__mro__:
        if base not in table or base in _PLAIN_CONTAINERS:
            continue
        changed = [
            name
            for name in _COMPUTING_METHODS
            if name in vars(module) or getattr(cls, name, None) is not getattr(base, name, None)
        ]
        if not changed:
            return base, ""
        return None, (
            f"{cls.__name__} {OVERRIDES} {changed[0]} of {base.__name__}, so it may compute "
            "something else; give it a class of its own in mapping and allow_list if it does not"
        )
    return None, f"{cls.__name__} has no int8 module; it takes and gives float tensors"


@dataclass(frozen=True)
class Unit:
    """A module that is observed and replaced as a whole, or left float.

    Attributes:
        name: its path in the model, "" for the model itself; the first one where it has several.
        module: the module.
        qconfig: what applies to it, or None.
        entry: the class in the table that it counts as, or None.
        reason: why it is left float; "" if it is replaced.
    """

    name: str
    module: nn.Module
    qconfig: Any
    entry: type | None
    reason: str

    @property
    def label(self) -> str:
        """Path and class, for messages."""
        name = f"'{self.name}'" if self.name else "the model itself"
        return f"{name} ({canonical_type(self.module).__name__})"


def iter_modules(model: nn.Module, whole: Collection[type] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Every unit of a model once, with its path, children before the module they are in.

    Fused modules, functionals, opaque modules and the classes in ``whole`` are not looked into;
    observers are not part of the model. Containers are units too: a mapping may have an entry for
    them.
    """
    seen: set[int] = set()

    def visit(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen or _is_activation_post_process(module):
            return
        seen.add(id(module))
        if not is_whole(module, whole):
            for child_name, child in module._modules.items():
                if child is not None and child_name != "parametrizations":
                    yield from visit(f"{name}.{child_name}" if name else child_name, child)
        yield name, module

    yield from visit("", model)


def is_whole(module: nn.Module, whole: Collection[type] = ()) -> bool:
    """Whether a module is never looked into."""
    cls = canonical_type(module)
    if issubclass(cls, (nni._FusedModule, QATModule, FXFloatFunctional, *_OPAQUE)):
        return True
    if is_quantized(module):
        return True
    return cls in whole


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no children but observers and parametrizations."""
    return all(
        child is None or name == "parametrizations" or _is_activation_post_process(child)
        for name, child in module._modules.items()
    )


def units_of(
    model: nn.Module,
    qconfigs: Mapping[int, Any],
    table: Collection[type],
    whole: Collection[type] = (),
) -> list[Unit]:
    """The units of a model that are leaves or whole, or have an entry in the table, with the
    decision about each.
    """
    result = []
    for name, module in iter_modules(model, whole):
        entry, reason = find_entry(module, table)
        if entry is None and not (is_leaf(module) or is_whole(module, whole)):
            continue
        if entry is None and isinstance(module, _PLAIN_CONTAINERS) and not is_whole(module, whole):
            continue
        qconfig = qconfigs.get(id(module))
        if is_quantized(module):
            entry, reason = None, "is quantized already"
        elif isinstance(module, _OPAQUE) and entry is None:
            reason = f"{type(module).__name__} reads its children's weights, and has no int8 module"
        elif entry is not None and qconfig is None:
            entry, reason = None, "its qconfig is None"
        elif entry is not None and (unfit := _unfit_qconfig(entry, qconfig, table)):
            entry, reason = None, unfit
        result.append(Unit(name, module, qconfig, entry, reason))
    return result


def _unfit_qconfig(entry: type, qconfig: Any, table: Collection[type]) -> str:
    """Why the int8 class of an entry cannot be made with a qconfig, or "".

    A qconfig for activations and weights reaches embedding tables too when it is set for a whole
    model. They stay float then, as their outputs are float either way.
    """
    target = table[entry] if isinstance(table, Mapping) else None
    decide = getattr(target, "_unfit_qconfig", None)
    if decide:
        return str(decide(qconfig))
    dynamic = isinstance(target, type) and target.__module__.startswith(_DYNAMIC_PACKAGES)
    if dynamic and has_float16_weights(qconfig) and entry is not nn.Linear:
        return "float16 weights are for Linear only"
    return ""


def has_float16_weights(qconfig: Any) -> bool:
    """Whether a qconfig asks for weights in float16 instead of integers."""
    weight = getattr(qconfig, "weight", None)
    return weight is not None and getattr(weight(), "dtype", None) == torch.float16


def resolve_qconfigs(
    model: nn.Module,
    qconfig_dict: Mapping[Any, Any] | QConfigMapping | None = None,
    left_out: Callable[[str, nn.Module], bool] = lambda name, module: False,
) -> dict[int, Any]:
    """The qconfig of each module, by ``id``. Nothing is changed.

    A module's own attribute ``qconfig`` (None too) comes first, then its name in the dict, then its
    class there, then the module it is in; with a QConfigMapping, its order of rules. Children for
    which ``left_out(name in the parent, child)`` holds get none, nor do theirs.

    Raises:
        TypeError: something that is not a QConfig.
    """
    mapping = as_qconfig_mapping(qconfig_dict)
    if mapping is not None:
        return resolve_mapping(model, mapping, left_out)
    given = {} if qconfig_dict is None else dict(qconfig_dict)  # type: ignore[arg-type]
    result: dict[int, Any] = {}

    def visit(name: str, module: nn.Module, inherited: Any) -> None:
        if id(module) in result or _is_activation_post_process(module):
            return
        qconfig = given.get(_type_key(module, given), inherited)
        qconfig = getattr(module, "qconfig", given.get(name, qconfig))
        check_qconfig(qconfig, name)
        result[id(module)] = qconfig
        for child_name, child in module._modules.items():
            if (
                child is not None
                and child_name != "parametrizations"
                and not left_out(child_name, child)
            ):
                visit(f"{name}.{child_name}" if name else child_name, child, qconfig)

    visit("", model, None)
    return result


def warn_unknown_names(
    model: nn.Module, qconfig_dict: Mapping[Any, Any] | QConfigMapping | None
) -> None:
    """Warns, on behalf of the caller's caller, about names in a dict of qconfigs that the model
    does not have.
    """
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    mapping = as_qconfig_mapping(qconfig_dict)
    given: Any = (qconfig_dict or {}) if mapping is None else mapping.module_name_qconfigs
    unknown = sorted(key for key in given if isinstance(key, str) and key not in names)
    if unknown:
        warnings.warn(f"qconfig_dict: the model has no modules named {unknown}", stacklevel=3)


_NOTHING = object()


def resolve_mapping(
    model: nn.Module, mapping: QConfigMapping, left_out: Callable[[str, nn.Module], bool]
) -> dict[int, Any]:
    """:func:`resolve_qconfigs` with a mapping."""
    types = mapping.object_type_qconfigs
    ordered = mapping.module_name_object_type_order_qconfigs
    result: dict[int, Any] = {}

    def visit(name: str, module: nn.Module, by_type: Any, by_name: Any, by_order: Any) -> None:
        if id(module) in result or _is_activation_post_process(module):
            return
        by_type = types.get(_type_key(module, types), by_type)  # type: ignore[arg-type]
        by_name = mapping.module_name_qconfigs.get(name, by_name)
        matching = (p for p in mapping.module_name_regex_qconfigs if re.match(p, name))
        by_regex = mapping.module_name_regex_qconfigs.get(next(matching, ""), _NOTHING)
        choices = (by_order, by_name, by_regex, by_type)
        qconfig = next(choice for choice in choices if choice is not _NOTHING)
        if "qconfig" in vars(module):
            qconfig = by_type = module.qconfig
            by_name = _NOTHING
        check_qconfig(qconfig, name)
        result[id(module)] = qconfig
        seen: Counter[type] = Counter()
        for child_name, child in module._modules.items():
            if child is None or child_name == "parametrizations" or left_out(child_name, child):
                continue
            cls = canonical_type(child)
            rule = ordered.get((name, cls, seen[cls]), _NOTHING)
            seen[cls] += 1
            visit(f"{name}.{child_name}" if name else child_name, child, by_type, by_name, rule)

    visit("", model, mapping.global_qconfig, _NOTHING, _NOTHING)
    return result


def _type_key(module: nn.Module, given: Mapping[Any, Any]) -> type | None:
    """The class under which a dict of qconfigs knows a module.

    Base classes count for units, not for containers. A fused module that the dict does not know
    counts as its first part, so that ``{nn.Linear: None}`` applies to Linear + ReLU.
    """
    cls = canonical_type(module)
    if cls in given:
        return cls
    if issubclass(cls, nni._FusedModule):
        return _type_key(next(iter(module.children())), given)
    for base in cls.__mro__[1:]:
        if base in given and base is not nn.Module and base not in _PLAIN_CONTAINERS:
            return base
    return None


def check_units(units: list[Unit], caller: str) -> None:
    """Raises ValueError, naming the modules, where a fused batch norm has its training form and no
    entry, so that it cannot be quantized.
    """
    for unit in units:
        trained = unit.entry is None and unit.qconfig is not None
        if trained and issubclass(canonical_type(unit.module), _TRAINING_FORMS):
            raise ValueError(
                f"{caller}: {unit.label} is the form of a fused batch norm for quantization-aware "
                "training, which prepare_qat() takes. For quantization after training call "
                "model.eval() and fuse_modules() on the original model before prepare(); to leave "
                "the module float set its qconfig to None"
            )


def ignored_values(observer: Any) -> int:
    """How many NaN and Inf an observer, or that inside of a fake-quantize, left out."""
    inner = getattr(observer, OBSERVER_NAME, observer)
    return int(getattr(inner, "nonfinite_count", 0))


def fold_units(units: list[Unit]) -> list[str]:
    """Makes the weights of units that are to be replaced plain, in place, where they are computed
    from others; says where.
    """
    said = []
    for unit in units:
        texts = fold_weights(unit.module) if unit.entry is not None else []
        if texts:
            said.append(f"{unit.label}: {', '.join(texts)}")
    return said
