"""How the modules of a model are called, and which of them other code looks into, found by running
it once.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from octavo.quantization.fx.values import in_eval_mode

__all__ = ["Calls"]

_LIBRARY = ("torch.", "octavo.")


@dataclass
class Calls:
    """What one run of a model shows.

    Attributes:
        inputs: the arguments of the first call of each module by its path, as positional ones; None
            where they cannot all be given by position.
        readings: where the parameters of modules are read by code that is not their own
            (``self.conv.weight.dtype``): path of the module, path of the module whose code it is,
            and what to say about it. An int8 module has no such parameters.
    """

    inputs: dict[str, tuple[Any, ...] | None] = field(default_factory=dict)
    readings: list[tuple[str, str, str]] = field(default_factory=list)

    def read_from_outside(self, path: str) -> dict[str, str]:
        """The modules at and below a path that other code than what is there looks into."""

        def within(name: str) -> bool:
            return not path or name == path or name.startswith(f"{path}.")

        found = reversed(self.readings)  # the first of several is told of
        return {name: text for name, reader, text in found if within(name) and not within(reader)}

    @classmethod
    def of(cls, model: nn.Module, example_inputs: tuple[Any, ...]) -> Calls:
        """Runs a model, in eval mode; neither it nor the random generator's state changes."""
        result = cls()
        handles = [
            module.register_forward_pre_hook(
                functools.partial(result._note_call, path), with_kwargs=True
            )
            for path, module in model.named_modules()
        ]
        try:
            with (
                torch.no_grad(),
                torch.random.fork_rng(devices=[]),
                in_eval_mode(model),
                result._watch_parameters(model),
            ):
                model(*example_inputs)
        finally:
            for handle in handles:
                handle.remove()
        return result

    def _note_call(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if path not in self.inputs:
            self.inputs[path] = _positional(module, args, kwargs)

    @contextmanager
    def _watch_parameters(self, model: nn.Module) -> Iterator[None]:
        paths = {id(module): path for path, module in model.named_modules()}
        plain = nn.Module.__getattr__

        def watched(module: nn.Module, name: str) -> Any:
            value = plain(module, name)
            if isinstance(value, nn.Parameter) and id(module) in paths:
                frame = sys._getframe(1)
                home = str(frame.f_globals.get("__name__", ""))
                owner = frame.f_locals.get("self")
                if owner is not module and not home.startswith(_LIBRARY):
                    reader = paths.get(id(owner), "")
                    text = f"'{name}' is read at {frame.f_code.co_filename}:{frame.f_lineno}"
                    self.readings.append((paths[id(module)], reader, text))
            return value

        nn.Module.__getattr__ = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__getattr__ = plain  # type: ignore[method-assign]


def _positional(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    """The arguments of a call by position, with defaults between those that were given."""
    if not kwargs:
        return tuple(args)
    parameters = inspect.signature(module.forward).parameters
    names = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if not set(kwargs) <= set(names[len(args) :]):
        return None
    last = max(names.index(name) for name in kwargs)
    rest = [kwargs.get(name, parameters[name].default) for name in names[len(args) : last + 1]]
    return None if inspect.Parameter.empty in rest else (*args, *rest)
