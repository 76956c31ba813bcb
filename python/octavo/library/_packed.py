"""Packed forms of the plain tensors that graphs hold.

A graph holds int8 weights as plain tensors, for what is packed depends on the CPU. The first call
of an operator packs; the result lives as long as the weight and is found again by the weight's
identity. A tensor that was changed in place since is packed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from torch import Tensor

from octavo.ops import ConvTransposeWeight, ConvWeight, LinearWeight
from octavo.ops.shared import shared_weight

__all__ = ["packed"]

Make = Callable[..., Any]

_SHARED: tuple[Make, ...] = (LinearWeight, ConvWeight, ConvTransposeWeight)


class _Entry:
    """What was made of some tensors, as long as they are the same."""

    __slots__ = ("made", "tensors", "versions")

    def __init__(self, made: Any, tensors: tuple[Tensor | None, ...], forget: Any) -> None:
        self.made = made
        self.tensors = tuple(None if t is None else ref(t, forget) for t in tensors)
        self.versions = tuple(map(_version, tensors))

    def is_of(self, tensors: tuple[Tensor | None, ...]) -> bool:
        for known, version, tensor in zip(self.tensors, self.versions, tensors, strict=True):
            if (None if known is None else known()) is not tensor or version != _version(tensor):
                return False
        return True


# Read and written by single operations, which the interpreter makes atomic: no thread waits, and at
# worst two pack the same weight.
_ENTRIES: dict[tuple[Any, ...], _Entry] = {}


def _version(tensor: Tensor | None) -> int:
    """Inference tensors do not count their changes."""
    return -1 if tensor is None or tensor.is_inference() else tensor._version


def packed(make: Make, tensors: tuple[Tensor | None, ...], *options: Any) -> Any:
    """``make(*tensors, *options)``, or what it returned for these very tensors before.

    The first tensor must not be None; options must be hashable.
    """
    key = (id(tensors[0]), make, options)
    entry = _ENTRIES.get(key)
    if entry is not None and entry.is_of(tensors):
        return entry.made
    made = _make(make, tensors, options)

    def forget(dead: Any, entries: dict[tuple[Any, ...], _Entry] = _ENTRIES) -> None:
        # Not the global, which is gone when the interpreter ends.
        entry = entries.get(key)
        if entry is not None and any(known is dead for known in entry.tensors):
            entries.pop(key, None)

    _ENTRIES[key] = _Entry(made, tensors, forget)
    return made


def _make(make: Make, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> Any:
    """Modules that live beside the graph have the same packed weight already."""
    if make in _SHARED:
        return shared_weight(make, *tensors, *options)  # type: ignore[arg-type]
    return make(*tensors, *options)
