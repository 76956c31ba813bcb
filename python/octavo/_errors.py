"""Kinds of errors that Python has no class of its own for."""

from __future__ import annotations

__all__ = ["ArgumentError", "HeadsError"]


class ArgumentError(ValueError, RuntimeError):
    """An argument whose value is wrong.

    It is a ValueError, as Python has it, and a RuntimeError, which torch raises for the same
    mistakes: code that is written for either catches it.
    """


class HeadsError(ValueError, AssertionError):
    """Sizes of which no multi-head attention can be made.

    torch.nn.MultiheadAttention raises a ValueError for some of them and an AssertionError for
    others.
    """
