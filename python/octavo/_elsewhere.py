"""Names that torch has in one module and Octavo in another."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["elsewhere"]


def elsewhere(here: str, home: str, *names: str, **renamed: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for the module ``here``, for where ``home`` imports ``here`` itself: its
    names are looked up when they are asked for.

    Args:
        names: of ``home``, which ``here`` has too.
        renamed: names that ``here`` has, each with the one it has in ``home``.
    """
    known = {**dict(zip(names, names, strict=True)), **renamed}

    def lookup(name: str) -> Any:
        if name in known:
            return getattr(importlib.import_module(home), known[name])
        raise AttributeError(f"module {here!r} has no attribute {name!r}")

    return lookup
