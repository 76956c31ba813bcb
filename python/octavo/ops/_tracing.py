"""Whether a call is being recorded into a graph, where the extension cannot be called.

``torch.export``, ``torch.compile`` and the meta device run code on tensors without numbers. There
the functions of :mod:`octavo.ops` call the operators of :mod:`octavo.library` instead, which call
the functions again once there are numbers.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["PlainForm", "constant_result", "int_list", "is_dynamo_compiling", "record", "tracing"]

_F = TypeVar("_F", bound=Callable[..., Any])

_PLAIN = (Tensor, nn.Parameter)


def tracing(x: object) -> bool:
    """Whether ``x`` stands for a tensor of a graph, or is a tensor without numbers."""
    if is_dynamo_compiling():
        return True
    if type(x) in _PLAIN:
        return x.is_meta  # type: ignore[attr-defined, no-any-return]
    return isinstance(x, Tensor)


def constant_result(function: _F) -> _F:
    """Mark a function that ``torch.compile`` shall call while it traces, and whose result, of
    constant arguments, it shall take for a constant: ``torch.compiler.assume_constant_result``
    without importing the compiler, which takes longer than all of Octavo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class PlainForm(ABC):
    """What has a tensor that graphs need and that it keeps in another form: the plain weight of a
    packed one.

    The tensor is made when a graph asks for it, and the same as long as a graph holds it.
    """

    __slots__ = ("_kept", "_made")

    def __init__(self) -> None:
        self._made: weakref.ref[Tensor] | None = None
        self._kept: Tensor | None = None

    @abstractmethod
    def _make_plain(self) -> Tensor:
        """A new tensor of the plain form."""

    def plain(self) -> Tensor:
        """The tensor. Compiled graphs read it from here at every call, so it is kept for them;
        exported ones hold it."""
        if is_dynamo_compiling():
            self._keep_plain()
            assert self._kept is not None
            return self._kept
        return self._plain()

    @constant_result
    def _keep_plain(self) -> None:
        self._kept = self._plain()

    def _plain(self) -> Tensor:
        tensor = None if self._made is None else self._made()
        if tensor is None:
            with torch.inference_mode(False), _disable_current_modes():
                tensor = self._make_plain()
            self._made = weakref.ref(tensor)
        return tensor


def record(name: str, *arguments: Any) -> Tensor:
    """A call of the operator of that name with one result (:mod:`octavo.library`)."""
    result: Tensor = getattr(torch.ops.octavo, name)(*arguments)
    return result


def int_list(value: int | Sequence[int], count: int) -> list[int]:
    """``count`` integers, of one or of as many, as schemas take them."""
    values: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * count if len(values) == 1 else values
