"""Where the input of a module came from, for error messages."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

from torch import nn

__all__ = ["upstream_of"]


def upstream_of(module: nn.Module) -> str:
    """Says, from within a call of ``module``, what its input came from: ", the output of 'maxpool'
    (MaxPool2d)" where an nn.Sequential called it, ", the input of the model", or the line of the
    forward that called it. "" where nothing on the stack tells.

    Looked up on the stack, so it costs nothing until there is an error.
    """
    callers = _callers(module)
    if not callers:
        return ""
    model = callers[-1][0]
    current = module
    for caller, frame in callers:
        if frame.f_code is not nn.Sequential.forward.__code__:
            return _line(caller, frame, model)
        children = list(caller.children())
        index = next((i for i, child in enumerate(children) if child is current), 0)
        if index > 0:
            before = children[index - 1]
            return f", the output of {_label(before, model)}"
        current = caller
    return ", the input of the model"


def _callers(module: nn.Module) -> list[tuple[nn.Module, FrameType]]:
    """The other modules whose methods are on the stack above those of ``module``, innermost first,
    with the innermost frame of each.
    """
    result: list[tuple[nn.Module, FrameType]] = []
    frame: FrameType | None = sys._getframe(1)
    inside = False
    while frame is not None:
        owner = frame.f_locals.get("self")
        inside = inside or owner is module
        last = result[-1][0] if result else module
        called = frame.f_code.co_filename == nn.Module._call_impl.__code__.co_filename
        if inside and isinstance(owner, nn.Module) and owner is not last and not called:
            result.append((owner, frame))
        frame = frame.f_back
    return result


def _line(caller: nn.Module, frame: FrameType, model: nn.Module) -> str:
    code = frame.f_code
    text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    place = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
    return f", in the forward of {_label(caller, model)} ({place}{f': {text}' if text else ''})"


def _label(module: nn.Module, model: nn.Module) -> str:
    """Path in the model and class; the class alone for the model itself."""
    name = next((name for name, child in model.named_modules() if child is module), "")
    kind = type(module).__name__
    return f"'{name}' ({kind})" if name else kind
