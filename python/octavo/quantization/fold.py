"""Weights that are computed from other tensors, made plain: weight norm, spectral norm, pruning and
parametrizations.

A layer is quantized with the weight that it computes with. Folding leaves what it computes as it
is, and takes the parametrization off the module.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

__all__ = ["computed_weights", "copy_model", "fold_weights", "folded_weights"]

_Model = TypeVar("_Model", bound=nn.Module)

_RECORD = "_folded_weights"  # attribute of a folded module: what there was


def copy_model(model: _Model) -> _Model:
    """A deep copy, of models too that hold tensors with a gradient history.

    Weight norm and pruning by hooks leave such a weight on the module after a forward, and
    ``copy.deepcopy`` refuses it. The copy holds its values.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def fold_weights(module: nn.Module) -> list[str]:
    """Makes the weights of a module and its children plain, in place; returns what there was.

    Parameters keep whether they require gradients. Tensors that other modules share are not
    written to.
    """
    folded = []
    for part in module.modules():
        found = _computed(part)
        trained = {name: _is_trained(part, name, hook) for _, name, hook in found}
        values = _take_off(part, found)
        for name, value in values.items():
            for table in (part._buffers, part._parameters, vars(part)):
                table.pop(name, None)
            setattr(part, name, nn.Parameter(value, requires_grad=trained[name]))
        if found:
            texts = [text for text, *_ in found]
            setattr(part, _RECORD, texts)
            folded += texts
    return folded


def folded_weights(module: nn.Module) -> list[str]:
    """What :func:`fold_weights` found in a module and its children when it was called."""
    return [text for part in module.modules() for text in getattr(part, _RECORD, ())]


def computed_weights(module: nn.Module) -> list[str]:
    """What :func:`fold_weights` would fold in a module and its children."""
    return [text for part in module.modules() for text, *_ in _computed(part)]


def _computed(part: nn.Module) -> list[tuple[str, str, Any]]:
    """Description, name of the weight, and the hook or None for a parametrization, of each."""
    found: list[tuple[str, str, Any]] = []
    if parametrize.is_parametrized(part):
        lists: Any = part.parametrizations
        for name, steps in lists.items():
            kinds = ", ".join(type(step).__name__.strip("_") for step in steps)
            found.append((f"parametrization {kinds} of '{name}'", name, None))
    for hook in part._forward_pre_hooks.values():
        kind = type(hook)
        if isinstance(hook, prune.BasePruningMethod):
            found.append((f"pruning of '{hook._tensor_name}'", hook._tensor_name, hook))
        elif kind.__name__ in ("WeightNorm", "SpectralNorm") and kind.__module__.startswith(
            "torch.nn.utils."
        ):
            text = "weight_norm" if kind.__name__ == "WeightNorm" else "spectral_norm"
            known: Any = hook
            found.append((f"{text} of '{known.name}'", known.name, hook))
    return found


def _is_trained(part: nn.Module, name: str, hook: Any) -> bool:
    """Whether a tensor that the weight is computed from requires a gradient."""
    if hook is None:
        lists: Any = part.parametrizations
        return any(original.requires_grad for original in lists[name].parameters())
    sources = [f"{name}{suffix}" for suffix in ("_g", "_v", "_orig")]
    return any(part._parameters[s].requires_grad for s in sources if s in part._parameters)  # type: ignore[union-attr]


def _take_off(part: nn.Module, found: list[tuple[str, str, Any]]) -> dict[str, Tensor]:
    """Takes what computes weights off a module; returns copies of the weights as a forward in eval
    mode would compute them.
    """
    values: dict[str, Tensor] = {}
    for _, name, hook in found:
        if hook is None:
            lists: Any = part.parametrizations
            lists[name].eval()  # spectral norm iterates when it is read in training
            with torch.no_grad():
                values[name] = getattr(part, name).detach().clone()
        elif isinstance(hook, prune.BasePruningMethod):
            with torch.no_grad():
                values[name] = hook.apply_mask(part).detach().clone()  # type: ignore[no-untyped-call]
            prune.remove(part, name)  # type: ignore[no-untyped-call]
        else:
            remove: Any = nn.utils.remove_weight_norm
            if type(hook).__name__ == "SpectralNorm":
                remove = nn.utils.remove_spectral_norm
            remove(part, name)
            values[name] = getattr(part, name).detach().clone()
    if parametrize.is_parametrized(part):
        # torch's remove_parametrizations takes a property off the class, which the module that this
        # one was copied from shares, and writes to tensors, which other modules may share.
        plain_class = parametrize.type_before_parametrizations(part)
        del part._modules["parametrizations"]
        part.__class__ = plain_class
    return values
