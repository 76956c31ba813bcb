"""Packed forms of the plain tensors that graphs hold.

A graph holds int8 weights as plain tensors, for what is packed depends on the CPU. The first call
of an operator packs; the result lives as long as the weight and is found again by the weight's
identity. A tensor that was changed in place since is packed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

__all__ = ["Packed"]

Arguments = tuple[Any, ...]


class _Entry:
    """What was made of some arguments, as long as they are the same."""

    __slots__ = ("made", "options", "tensors")

    def __init__(
        self, made: Any, tensors: Arguments, options: Arguments, forget: Callable[[Any], None]
    ) -> None:
        self.made = made
        self.options = options
        # Inference tensors do not count their changes.
        self.tensors: tuple[tuple[Callable[[], Any], int | None], ...] = tuple(
            (_nothing, None)
            if tensor is None
            else (ref(tensor, forget), None if tensor.is_inference() else tensor._version)
            for tensor in tensors
        )

    def is_of(self, tensors: Arguments, options: Arguments) -> bool:
        if options != self.options:
            return False
        for (known, version), tensor in zip(self.tensors, tensors, strict=True):
            if known() is not tensor or (version is not None and version != tensor._version):
                return False
        return True

    def is_replaced_by(self, newer: _Entry) -> bool:
        """Whether the other is of the same tensors, changed in place since."""
        mine, others = ([known() for known, _ in entry.tensors] for entry in (self, newer))
        same = all(a is b for a, b in zip(mine, others, strict=True))
        return same and self.options == newer.options


def _nothing() -> None:
    """Stands for the reference to a tensor that is None."""


class Packed:
    """A run of an operator's arguments, and the object that is made of them once.

    Args:
        schema: the arguments as a schema has them: tensors, of which the first is never None, then
            numbers.
        make: the object of the arguments. It must not keep the first of them.
    """

    def __init__(self, schema: str, make: Callable[..., Any]) -> None:
        self.schema = schema
        arguments = [argument.split() for argument in schema.split(",")]
        self.names = [name for _, name in arguments]
        self._count = sum(kind.startswith("Tensor") for kind, _ in arguments)
        self._make = make
        # By the id of the first tensor. Read and written by single operations, which the
        # interpreter makes atomic: no thread waits, and at worst two pack the same weight.
        self._entries: dict[int, tuple[_Entry, ...]] = {}

    def __call__(self, arguments: Arguments) -> Any:
        """The object of these arguments."""
        tensors, options = arguments[: self._count], arguments[self._count :]
        for entry in self._entries.get(id(tensors[0]), ()):
            if entry.is_of(tensors, options):
                return entry.made
        return self._add(tensors, options)

    def _add(self, tensors: Arguments, options: Arguments) -> Any:
        made = self._make(*tensors, *options)
        key = id(tensors[0])

        def forget(dead: Any, entries: dict[int, tuple[_Entry, ...]] = self._entries) -> None:
            entries.pop(key, None)

        entry = _Entry(made, tensors, tuple(map(_copy, options)), forget)
        others = (old for old in self._entries.get(key, ()) if not old.is_replaced_by(entry))
        self._entries[key] = (*others, entry)
        return made

    def first(self, function: Callable[..., Any], at: int) -> Callable[..., Any]:
        """``function``, which takes the object before all others, as a function of the arguments:
        this run of them begins at that number."""
        end = at + len(self.names)

        def kernel(*args: Any) -> Any:
            return function(self(args[at:end]), *args[:at], *args[end:])

        return kernel


def _copy(option: Any) -> Any:
    return list(option) if isinstance(option, list) else option
