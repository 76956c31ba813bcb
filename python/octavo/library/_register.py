"""How operators are made known to ``torch.library``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["operator", "registered"]

_NAMESPACE = "octavo"


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
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    autograd: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
) -> None:
    """Define ``octavo::<schema>``, unless it is there already.

    Args:
        schema: ``name(arguments) -> results``; no result shares memory with an argument.
        kernel: computes on the CPU.
        fake: results of the same sizes, strides and dtypes, for tensors without numbers.
        autograd: backward and what sets up its context, as torch.library.register_autograd takes
            them; without them results carry no gradient.
    """
    library, names = _library()
    name = schema.partition("(")[0]
    if name in names:
        return
    names.add(name)
    library.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
    library.impl(name, kernel, "CPU")
    qualified = f"{_NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=library)
    if autograd is None:
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        backward, setup_context = autograd
        torch.library.register_autograd(
            qualified, backward, setup_context=setup_context, lib=library
        )
