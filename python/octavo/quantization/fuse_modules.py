"""Fusing sequences of float modules, so that quantization treats each as one."""

from __future__ import annotations

import difflib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from octavo.quantization.fold import copy_model, fold_weights
from octavo.quantization.fused_calls import carry_calls, count_calls, released_calls
from octavo.quantization.fuser_method_mappings import (
    FUSABLE,
    fuse_conv_bn,
    fuse_conv_bn_relu,
    get_fuser_method,
)
from octavo.quantization.units import canonical_type, find_entry

__all__ = [
    "fuse_conv_bn",
    "fuse_conv_bn_relu",
    "fuse_known_modules",
    "fuse_modules",
    "fuse_modules_qat",
    "get_fuser_method",
]

PRE_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
POST_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

FuserFunc = Callable[..., list[nn.Module]]


def fuse_known_modules(
    mod_list: Sequence[nn.Module],
    is_qat: bool,
    additional_fuser_method_mapping: Mapping[tuple[type, ...], Any] | None = None,
) -> list[nn.Module]:
    """Fuses modules that follow each other into the first; the others become ``nn.Identity``.

    Args:
        mod_list: the modules.
        is_qat: keep a batch norm for training instead of folding it.
        additional_fuser_method_mapping: see :func:`get_fuser_method`.

    Returns:
        As many modules as were given. Pre-hooks of the first and forward hooks of the last module
        go over to the fused one, and so does a qconfig that the first module carries.

    Raises:
        NotImplementedError: an unknown sequence.
        ValueError: modules of which some are in training mode and some not; a batch norm that
            cannot be folded.

    Warns where hooks watch a value between two modules that no longer exists. Source:
    ``torch.ao.quantization.fuse_known_modules``.
    """
    types = _sequence_types(mod_list, additional_fuser_method_mapping or {})
    fuser = get_fuser_method(types, additional_fuser_method_mapping)
    if len({module.training for module in mod_list}) > 1:
        modes = ", ".join(f"{type(m).__name__} {_mode(m)}" for m in mod_list)
        raise ValueError(
            f"fuse_modules: modules must all be in the same mode, got {modes}; call model.eval() "
            "or model.train() first"
        )
    hooks = [take_hooks(module) for module in mod_list]
    try:
        fused = fuser(is_qat, *mod_list)
    except BaseException:
        for module, taken in zip(mod_list, hooks, strict=True):
            vars(module).update(taken)
        raise
    place_hooks(fused, mod_list, hooks)
    fused.training = mod_list[0].training
    if "qconfig" in vars(mod_list[0]):
        fused.qconfig = mod_list[0].qconfig
    result = [fused]
    for _ in mod_list[1:]:
        identity = nn.Identity()
        identity.training = fused.training
        result.append(identity)
    return result


def _mode(module: nn.Module) -> str:
    return "in training mode" if module.training else "in eval mode"


def _sequence_types(
    modules: Sequence[nn.Module], additional: Mapping[tuple[type, ...], Any]
) -> tuple[type, ...]:
    """The classes that the modules count as: their own, or a known base that they do not alter."""
    own = tuple(canonical_type(module) for module in modules)
    if own in additional:
        return own
    entries = [find_entry(module, FUSABLE) for module in modules]
    altered = [
        reason
        for module, (entry, reason) in zip(modules, entries, strict=True)
        if entry is None and isinstance(module, tuple(FUSABLE))
    ]
    if altered:
        raise NotImplementedError(f"fuse_modules: {altered[0]}")
    return tuple(
        cls if entry is None else entry for cls, (entry, _) in zip(own, entries, strict=True)
    )


def take_hooks(module: nn.Module) -> dict[str, Any]:
    """Takes the tables of hooks off a module. Handles that users hold belong to the tables."""
    taken = {name: getattr(module, name) for name in (*PRE_HOOKS, *POST_HOOKS)}
    for name in taken:
        setattr(module, name, OrderedDict())
    return taken


def place_hooks(
    fused: nn.Module,
    modules: Sequence[nn.Module],
    hooks: Sequence[dict[str, Any]],
    caller: str = "fuse_modules",
) -> None:
    """Gives the hooks that were taken off modules to what became of them: pre-hooks of the first
    and hooks of the last to the fused module, the others back to modules that are part of it.

    Warns where hooks watch a value that no longer exists.
    """
    kept = {id(part) for part in fused.modules()}
    lost = []
    for module, taken in zip(modules, hooks, strict=True):
        moved = (PRE_HOOKS if module is modules[0] else ()) + (
            POST_HOOKS if module is modules[-1] else ()
        )
        rest = {name: table for name, table in taken.items() if name not in moved}
        if id(module) in kept:
            vars(module).update(rest)
        elif any(rest.values()):
            lost.append(type(module).__name__)
    for name in PRE_HOOKS:
        setattr(fused, name, hooks[0][name])
    for name in POST_HOOKS:
        setattr(fused, name, hooks[-1][name])
    if lost:
        warnings.warn(
            f"{caller}: hooks on {', '.join(lost)} watched values that no longer exist in the "
            f"fused {type(fused).__name__}; they are gone",
            stacklevel=5,
        )


def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: FuserFunc = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Fuses modules of a model in eval mode; batch norms are folded into the weights before them.

    Args:
        model: a float model.
        modules_to_fuse: paths of modules that follow each other, such as ``["conv1", "bn1",
            "relu1"]``, or a list of such lists. Conv + BatchNorm (+ ReLU), Conv + ReLU, Linear +
            BatchNorm1d, Linear + ReLU, Linear (+ BatchNorm1d) + LeakyReLU, Linear + Tanh,
            BatchNorm + ReLU and transposed Conv + BatchNorm are known.
        inplace: change ``model`` instead of a deep copy.
        fuser_func: takes a list of modules, ``is_qat`` and the additional mapping, and returns a
            list of the same length.
        fuse_custom_config_dict: ``{"additional_fuser_method_mapping": {(A, B): function}}``.

    Returns:
        The model. The first module of each list is the fused one, the others are ``nn.Identity``.
        Weight norm, spectral norm, pruning and parametrizations are folded into plain weights
        first. A module that the model calls in other places too must not be among them: only the
        call behind the first module is part of that, and the others do nothing then. The float
        model warns of it in its second call, :func:`prepare` and :func:`convert` do too.

    Raises:
        ValueError: a path that is not in the model; otherwise as :func:`fuse_known_modules`, with
            the paths.
        NotImplementedError: an unknown sequence.

    Source: ``torch.ao.quantization.fuse_modules``.
    """
    return _fuse(model, modules_to_fuse, False, inplace, fuser_func, fuse_custom_config_dict)


def fuse_modules_qat(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: FuserFunc = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """As :func:`fuse_modules`, for a model that is to be trained: batch norms stay, as parts of
    ConvBn, ConvBnReLU and LinearBn1d modules.

    Source: ``torch.ao.quantization.fuse_modules_qat``.
    """
    return _fuse(model, modules_to_fuse, True, inplace, fuser_func, fuse_custom_config_dict)


def _fuse(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    is_qat: bool,
    inplace: bool,
    fuser_func: FuserFunc,
    config: Mapping[str, Any] | None,
) -> nn.Module:
    groups: list[list[str]] = _groups(modules_to_fuse)
    for path in (path for group in groups for path in group):
        _module_at(model, path)
    if not inplace:
        model = copy_model(model)
    for path in (path for group in groups for path in group):
        fold_weights(_module_at(model, path))
    additional = (config or {}).get("additional_fuser_method_mapping", {})
    away = {}
    for group in groups:
        modules = [_module_at(model, path) for path in group]
        with released_calls(modules) as counts:
            try:
                fused = fuser_func(modules, is_qat, additional)
            except (NotImplementedError, TypeError, ValueError) as error:
                raise _same_kind(error, f"{error} (in {group})") from error
        for path, was, module in zip(group, modules, fused, strict=True):
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = module
            if path != group[0] and module is not was:
                away[path] = (group[0], was)
        carry_calls(fused[0], counts[0])
    count_calls(model, away)
    return model


def _groups(modules_to_fuse: Any) -> list[list[str]]:
    if isinstance(modules_to_fuse, str):
        raise TypeError(
            f"fuse_modules: modules_to_fuse must be a list of paths, got {modules_to_fuse!r}"
        )
    items = list(modules_to_fuse)
    groups = [items] if items and all(isinstance(item, str) for item in items) else items
    groups = [list(group) for group in groups]
    for group in groups:
        if len(group) < 2 or not all(isinstance(path, str) for path in group):
            raise ValueError(
                "fuse_modules: modules_to_fuse must hold lists of at least two paths, got "
                f"{group!r}"
            )
    return groups


def _module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        close = difflib.get_close_matches(path, [name for name, _ in model.named_modules() if name])
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"fuse_modules: the model has no module '{path}'{hint}") from None


def _same_kind(error: Exception, message: str) -> Exception:
    for kind in (NotImplementedError, TypeError):
        if isinstance(error, kind):
            return kind(message)
    return ValueError(message)
