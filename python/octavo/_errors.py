"""Kinds of errors that Python has no class of its own for."""

from __future__ import annotations

__all__ = ["ArgumentError"]


class ArgumentError(ValueError, RuntimeError):
    """An argument whose value is wrong.

    It is a ValueError, as Python has it, and a RuntimeError, which torch raises for the same
    mistakes: code that is written for either catches it.
    """
