"""How operators are made known to ``torch.library``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from octavo.dtypes import as_qdtype
from octavo.library._packed import Packed

__all__ = ["by_name", "operator", "registered"]

_NAMESPACE = "octavo"

Function = Callable[..., Any]


def _library() -> tuple[Any, set[str]]:
    """The library and the names that it has defined. They live as long as the process, beside
    torch's own record of the operators: this module may be loaded again."""
    kept: dict[str, Any] = vars(torch.ops.octavo)
    if "_kept" not in kept:
        new: Any = torch.library.Library
        kept["_kept"] = (new(_NAMESPACE, "FRAGMENT"), set())
    return kept["_kept"]  # type: ignore[no-any-return]


def registered() -> set[str]:
    """The names of the operators."""
    return set(_library()[1])


def operator(
    schema: str,
    kernel: Function,
    like: Function,
    autograd: tuple[Function, Function] | None = None,
    packed: Packed | None = None,
) -> None:
    """Define ``octavo::<schema>``, unless it is there already.

    Args:
        schema: ``name(arguments) -> results``; no result shares memory with an argument.
        kernel: computes on the CPU. It takes the schema's arguments in their order, the argument
            ``dtype`` as a QDType; with ``packed``, what that makes of its arguments comes first and
            they are left out.
        like: results of the same sizes, strides and dtypes, for tensors without numbers. It takes
            those arguments that it needs, by name; what it has a default for need not be there.
        autograd: backward and what sets up its context, as torch.library.register_autograd takes
            them; without them results carry no gradient.
        packed: the arguments of the weight.
    """
    library, names = _library()
    name = schema.partition("(")[0]
    if name in names:
        return
    names.add(name)
    arguments = [argument.name for argument in _arguments(schema)]
    if "dtype" in arguments:
        kernel = _with_qdtype(kernel, arguments.index("dtype"), packed)
    if packed is not None:
        kernel = packed.first(kernel, arguments.index(packed.names[0]))
    library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    library.impl(name, kernel, "CPU")
    qualified = f"{_NAMESPACE}::{name}"
    torch.library.register_fake(qualified, by_name(schema, like), lib=library)
    if autograd is None:
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        backward, setup_context = autograd
        torch.library.register_autograd(
            qualified, backward, setup_context=setup_context, lib=library
        )


def _arguments(schema: str) -> list[Any]:
    return torch._C.parse_schema(f"{_NAMESPACE}::{schema}").arguments


def _with_qdtype(function: Function, at: int, packed: Packed | None) -> Function:
    """``function``, whose argument of that number is a QDType, for the storage type instead."""
    if packed is not None:  # which the function takes as one
        at -= len(packed.names) - 1

    def kernel(*args: Any) -> Any:
        return function(*args[:at], as_qdtype(args[at]), *args[at + 1 :])

    return kernel


def by_name(schema: str, function: Function) -> Function:
    """A function of the schema's arguments that hands ``function`` those that it names.

    Raises:
        TypeError: the schema lacks an argument for which the function has no default.
    """
    names = [argument.name for argument in _arguments(schema)]
    defaults = {a.name: a.default_value for a in _arguments(schema) if a.has_default_value()}
    parameters = inspect.signature(function).parameters
    wanted = [name for name in names if name in parameters]
    for name, parameter in parameters.items():
        if name not in names and parameter.default is parameter.empty:
            raise TypeError(f"{schema}: there is no argument {name}, which {function} needs")

    def named(*args: Any, **kwargs: Any) -> Any:
        values = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        return function(**{name: values[name] for name in wanted})

    return named
