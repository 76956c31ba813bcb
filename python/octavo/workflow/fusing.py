"""Sequences of modules that can be fused, found by running the model once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavo.quantization.dataflow import Dataflow, tensors_in
from octavo.quantization.fuse_modules import fuse_modules
from octavo.quantization.fuser_method_mappings import FUSABLE, get_fuser_method
from octavo.quantization.units import find_entry, is_leaf, is_whole, iter_modules
from octavo.workflow.calibrate import Batch

__all__ = ["flow_of", "fused", "same_outputs"]

_LONGEST = 3
_PASS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_IN_PLACE = "inplace"


def units(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that compute, by path: leaves, and what is never looked into."""
    return {n: m for n, m in iter_modules(model) if is_leaf(m) or is_whole(m)}


def flow_of(model: nn.Module, batch: Batch) -> Dataflow:
    """Which module's output is which one's input in one call."""
    return Dataflow(partial(batch.run, model), units(model))


def users_of(flow: Dataflow, tensor: Tensor, parts: Mapping[str, nn.Module]) -> set[str]:
    """The units that compute with a tensor, without those that only hand it on."""
    names = flow.users.get(id(tensor), set())
    return {n for n in names if not (n in flow.in_place and isinstance(parts.get(n), _PASS))}


def fused(
    model: nn.Module, batch: Batch, wanted: Callable[[str], bool]
) -> tuple[nn.Module, list[list[str]]]:
    """A copy of a float model in eval mode with what can be fused fused, and the paths of what was.

    Args:
        model: not changed.
        batch: one call.
        wanted: whether a sequence may begin with the module of a path.

    Sequences are such that each module is called once and only the next one takes its output. The
    copy gives what the model gives, to rounding; otherwise nothing is fused.
    """
    before = batch.run(model)
    plain = _out_of_place(fuse_modules(model, []), batch, before)
    parts = units(plain)
    groups = [group for group in _sequences(parts, flow_of(plain, batch)) if wanted(group[0])]
    if not groups:
        return plain, []
    try:
        result = fuse_modules(plain, groups)
    except (NotImplementedError, TypeError, ValueError):  # batch norms without statistics, ...
        return plain, []
    return (result, groups) if same_outputs(result, batch, before) else (plain, [])


def _out_of_place(model: nn.Module, batch: Batch, before: Any) -> nn.Module:
    """The model with activations that do not work in place, which hides who takes what; as it was
    where it needs them to.
    """
    changed = [m for m in model.modules() if getattr(m, _IN_PLACE, False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    if changed and not same_outputs(model, batch, before):
        for module in changed:
            module.inplace = True  # type: ignore[assignment]
    return model


def _sequences(parts: Mapping[str, nn.Module], flow: Dataflow) -> list[list[str]]:
    taken: set[str] = set()
    result = []
    for name in flow.outputs:  # in the order of the calls
        if name in taken or name not in parts:
            continue
        chain = _chain(name, parts, flow, taken)
        while len(chain) > 1 and not _known([parts[n] for n in chain]):
            chain.pop()
        if len(chain) > 1:
            taken.update(chain)
            result.append(chain)
    return result


def _chain(name: str, parts: Mapping[str, nn.Module], flow: Dataflow, taken: set[str]) -> list[str]:
    chain = [name]
    while len(chain) < _LONGEST and len(flow.outputs[chain[-1]]) == 1:
        output = flow.outputs[chain[-1]][0]
        users = users_of(flow, output, parts) if isinstance(output, Tensor) else set()
        if len(users) != 1:
            break
        (after,) = users
        once = len(flow.inputs.get(after, ())) == 1 and flow.inputs[after][0] is output
        if after not in parts or after in chain or after in taken or not once:
            break
        chain.append(after)
    return chain if len(flow.outputs[name]) == 1 else chain[:1]


def _known(modules: list[nn.Module]) -> bool:
    entries = tuple(find_entry(module, FUSABLE)[0] for module in modules)
    if None in entries or any(module.training for module in modules):
        return False
    try:
        get_fuser_method(entries)  # type: ignore[arg-type]
    except NotImplementedError:
        return False
    return True


def same_outputs(model: nn.Module, batch: Batch, wanted: Any, tolerance: float = 1e-3) -> bool:
    """Whether a model runs and gives what it gave before, to rounding."""
    try:
        got = list(tensors_in(batch.run(model)))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    before = list(tensors_in(wanted))
    return len(got) == len(before) and all(
        _close(a, b, tolerance) for a, b in zip(got, before, strict=True)
    )


def _close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if not got.is_floating_point():
        return bool(torch.equal(got, wanted))
    a, b = got.double(), wanted.double()
    limit = float(b.abs().nan_to_num(posinf=0.0).max()) if b.numel() else 0.0
    if got.dtype not in (torch.float32, torch.float64):
        tolerance = max(tolerance, 5e-2)
    return bool(torch.allclose(a, b, rtol=0.0, atol=tolerance * limit, equal_nan=True))
