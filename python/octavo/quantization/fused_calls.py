"""Noticing where a module that was fused into another one is called in other places too.

``fuse_modules`` leaves an ``nn.Identity`` in the place of a module that is part of the one before
it now. Where the model calls that place more than once, as for a ReLU that serves a convolution and
the sum behind it, the other calls do nothing any more, and nothing else would tell.

Both the fused module and the Identity count their calls, in a pre-hook. One that was fused away
must not have had more of them than the module that it went into. That is looked at when the fused
module is called again, and in ``prepare`` and ``convert``; at any other time, a fused module that
other code has replaced or compiled would look as if the model did not call it. So a float model
tells in its second call, and a prepared one in ``convert`` at the latest.

Counts are plain attributes, and not in state dicts. Calls are not counted in graphs (torch.compile,
torch.export, TorchScript), where modules are recomputed for a backward pass, nor once torch.fx has
traced through a fused module, as its graph calls the parts. What is converted has no hooks.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = [
    "carry_calls",
    "check_calls",
    "count_calls",
    "release_calls",
    "released_calls",
    "remove_call_counts",
    "restart_calls",
]

_COUNTED = "_fused_calls"  # attribute of the modules

_LOCK = threading.Lock()  # replicas of DataParallel count together


class _Away:
    """One module that was fused into another one.

    Attributes:
        path: its path in the model.
        kind: the name of its class.
        bare: whether it had no parameters and no buffers.
        calls: how often what stands in its place has been called.
        told: whether the user has been warned.
    """

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path = path
        self.kind = type(module).__name__
        self.bare = not any(True for _ in (*module.parameters(), *module.buffers()))
        self.calls = 0
        self.told = False

    def called(self, arguments: Any) -> None:
        with _LOCK:
            self.calls += 1


class _Into:
    """One fused module.

    Attributes:
        path: its path in the model.
        model: the name of the class of the model.
        away: what was fused into it.
        calls: how often it has been called.
        stopped: its calls are not all counted any more.
    """

    def __init__(self, path: str, model: str) -> None:
        self.path = path
        self.model = model
        self.away: list[_Away] = []
        self.calls = 0
        self.stopped = False

    def called(self, arguments: Any) -> None:
        if any(isinstance(argument, fx.Proxy) for argument in arguments):
            self.stopped = True
            return
        with _LOCK:
            texts = self._texts()
            self.calls += 1
        _warn(texts, stacklevel=8)  # the line of the model's code

    def check(self) -> None:
        with _LOCK:
            texts = self._texts()
        _warn(texts, stacklevel=4)

    def restart(self) -> None:
        with _LOCK:
            self.calls = 0
            for away in self.away:
                away.calls = 0

    def _texts(self) -> list[str]:
        """What there is to warn about, once."""
        if self.stopped or not self.calls:
            return []
        found = [away for away in self.away if away.calls > self.calls and not away.told]
        for away in found:
            away.told = True
        return [self._text(away) for away in found]

    def _text(self, away: _Away) -> str:
        harmless = " (it has no parameters, so checkpoints stay as they are)" if away.bare else ""
        return (
            f"fuse_modules: '{away.path}' ({away.kind}) was fused into '{self.path}' of "
            f"{self.model}, and is called in other places too: {away.calls} calls so far, against "
            f"{self.calls} of '{self.path}'. Its other calls do nothing now, so the numbers are "
            f"wrong. Give each place a {away.kind} module of its own{harmless}, or leave "
            f"'{away.path}' out of the fusion."
        )


def _warn(texts: Iterable[str], stacklevel: int) -> None:
    for text in texts:
        warnings.warn(text, UserWarning, stacklevel=stacklevel)


def count_fused_call(self: nn.Module, input: tuple[Tensor]) -> None:
    """The pre-hook that counts. Its form is one that TorchScript can compile, to nothing."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _count(self, input)


def _count(module: nn.Module, arguments: Any) -> None:
    if torch.compiler.is_compiling() or _in_backward():
        return
    counted = vars(module).get(_COUNTED)
    if counted is not None:
        counted.called(arguments)


def _in_backward() -> bool:
    """Whether autograd runs, as where checkpointing computes a part of the model once more."""
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is not None and task() != -1


def count_calls(model: nn.Module, fused_away: Mapping[str, tuple[str, nn.Module]]) -> None:
    """Counts the calls of modules that were fused, in place.

    Args:
        model: the model.
        fused_away: path of a module that was fused away to the path of the module that it went
            into, and the module that it was. Those that no plain ``nn.Identity`` of their own
            stands for are left out.
    """
    places: dict[int, int] = {}
    for module in model.modules():
        for child in module._modules.values():
            places[id(child)] = places.get(id(child), 0) + 1
    for path, (into_path, was) in fused_away.items():
        into, stands = model.get_submodule(into_path), model.get_submodule(path)
        if type(stands) is not nn.Identity or type(into) is nn.Identity or places[id(stands)] > 1:
            continue
        count = vars(into).get(_COUNTED)
        if not isinstance(count, _Into):
            count = _Into(into_path, type(model).__name__)
            _put(into, count)
        away = _Away(path, was)
        count.away.append(away)
        count.restart()
        _put(stands, away)


def _put(module: nn.Module, counted: Any) -> None:
    setattr(module, _COUNTED, counted)
    if count_fused_call not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(count_fused_call)


def release_calls(module: nn.Module) -> Any:
    """Takes the count and its hook off one module; returns the count, or None."""
    hooks = module._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is count_fused_call]:
        del hooks[key]
    return vars(module).pop(_COUNTED, None)


def carry_calls(module: nn.Module, counted: Any) -> None:
    """Puts a count that was released, if it was one, on a module."""
    if counted is not None:
        _put(module, counted)


@contextmanager
def released_calls(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Releases the counts of modules, and gives them; where the body fails, they are put back."""
    counts = [release_calls(module) for module in modules]
    try:
        yield counts
    except BaseException:
        for module, counted in zip(modules, counts, strict=True):
            carry_calls(module, counted)
        raise


def remove_call_counts(model: nn.Module) -> None:
    """Takes all counts off a model, in place."""
    for module in model.modules():
        release_calls(module)


def check_calls(model: nn.Module) -> None:
    """Warns about modules that were fused away and have been called in other places too."""
    for module in model.modules():
        counted = vars(module).get(_COUNTED)
        if isinstance(counted, _Into):
            counted.check()


def restart_calls(model: nn.Module) -> None:
    """Counts from zero, under the paths that modules have in ``model``, in place."""
    for name, module in model.named_modules():
        counted = vars(module).get(_COUNTED)
        if counted is None:
            continue
        counted.path = name or counted.path
        if isinstance(counted, _Into):
            counted.model = type(model).__name__
            counted.restart()
