"""How a model is called: its arguments by name, whichever way they are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["CallForm"]

_Kind = inspect.Parameter


class CallForm:
    """The parameters of a function, with which calls are brought into one form.

    It does what :meth:`inspect.Signature.bind` does, and can be pickled and compiled.

    Args:
        function: its parameters count; of a model give ``forward``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.positional: list[str] = []
        self.keywords: list[str] = []
        self.defaults: dict[str, Any] = {}
        self.rest = self.others = ""
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is _Kind.VAR_POSITIONAL:
                self.rest = name
            elif parameter.kind is _Kind.VAR_KEYWORD:
                self.others = name
            elif parameter.kind is _Kind.KEYWORD_ONLY:
                self.keywords.append(name)
            else:
                self.positional.append(name)
            if parameter.default is not _Kind.empty:
                self.defaults[name] = parameter.default

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, without those that are the parameters' defaults; a tuple for
        ``*args``, a dict for ``**kwargs``.

        Raises:
            TypeError: an argument that is missing, given twice, or not known.
        """
        count = len(self.positional)
        if len(args) > count and not self.rest:
            raise TypeError(f"takes {count} positional arguments ({self}), got {len(args)}")
        left = dict(kwargs)
        bound = dict(zip(self.positional, args, strict=False))
        for name in bound:
            if name in left:
                raise TypeError(f"got two values for argument {name!r}")
        for name in (*self.positional[len(args) :], *self.keywords):
            if name in left:
                bound[name] = left.pop(name)
            elif name not in self.defaults:
                raise TypeError(f"misses the argument {name!r}; takes {self}")
        if left and not self.others:
            raise TypeError(f"got unexpected arguments {sorted(left)}; takes {self}")
        bound = {name: value for name, value in bound.items() if not self._is_default(name, value)}
        if args[count:]:
            bound[self.rest] = tuple(args[count:])
        if left:
            bound[self.others] = dict(sorted(left.items()))
        order = [*self.positional, self.rest, *self.keywords, self.others]
        return {name: bound[name] for name in order if name in bound}

    def _is_default(self, name: str, value: Any) -> bool:
        if name not in self.defaults or isinstance(value, Tensor):
            return False
        default = self.defaults[name]
        return value is default or (type(value) is type(default) and bool(value == default))

    def call(self, bound: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments of a call with what :meth:`bind` returned."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        rest = bound.get(self.rest, ()) if self.rest else ()
        for name in self.positional:
            if name in bound and len(kwargs) == 0 and len(args) == self.positional.index(name):
                args.append(bound[name])
            elif rest:
                args.append(bound.get(name, self.defaults.get(name)))
            elif name in bound:
                kwargs[name] = bound[name]
        kwargs.update({name: bound[name] for name in self.keywords if name in bound})
        kwargs.update(bound.get(self.others, {}) if self.others else {})
        return (*args, *rest), kwargs

    def signature(self) -> inspect.Signature:
        """The parameters, positional ones as such that can be given by name."""

        def made(name: str, kind: Any) -> inspect.Parameter:
            default = self.defaults.get(name, _Kind.empty)
            return inspect.Parameter(name, kind, default=default)

        found = [made(name, _Kind.POSITIONAL_OR_KEYWORD) for name in self.positional]
        found += [made(self.rest, _Kind.VAR_POSITIONAL)] if self.rest else []
        found += [made(name, _Kind.KEYWORD_ONLY) for name in self.keywords]
        found += [made(self.others, _Kind.VAR_KEYWORD)] if self.others else []
        return inspect.Signature(found)

    def __str__(self) -> str:
        rest = [f"*{self.rest}"] if self.rest else []
        others = [f"**{self.others}"] if self.others else []
        return ", ".join([*self.positional, *rest, *self.keywords, *others])
