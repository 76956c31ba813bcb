"""What flows through a graph: the kind of every value, found by running the graph once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Value", "in_eval_mode", "run_example"]


@dataclass(frozen=True)
class Value:
    """One value of a graph.

    Attributes:
        shape: of a tensor; None for what is no tensor.
        is_float: a float32 tensor, or a tuple or list of nothing else.
        is_number: an int or float of Python.
        parts: of a tuple or list.
    """

    shape: tuple[int, ...] | None = None
    is_float: bool = False
    is_number: bool = False
    parts: tuple[Value, ...] = ()


NOTHING = Value()


def _describe(value: Any) -> Value:
    if isinstance(value, Tensor):
        return Value(tuple(value.shape), value.dtype is torch.float32)
    if isinstance(value, (tuple, list)):
        parts = tuple(_describe(part) for part in value)
        return Value(None, bool(parts) and all(part.is_float for part in parts), parts=parts)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Value(is_number=number)


class _Recorder(fx.Interpreter):
    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.values: dict[fx.Node, Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n] = _describe(result)
        return result


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """A model in eval mode for a while; each module has its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def run_example(model: fx.GraphModule, inputs: Any, caller: str) -> dict[fx.Node, Value]:
    """The kind of value of each node when the model runs on example inputs, in eval mode.

    Neither the model nor the state of the random generator changes.

    Raises:
        TypeError: ``inputs`` is not a tuple.
        ValueError: the model does not run on them.
    """
    if not isinstance(inputs, (tuple, list)):
        raise TypeError(
            f"{caller}: example_inputs must be a tuple of the model's positional inputs, such as "
            f"(torch.randn(1, 3, 224, 224),), got {type(inputs).__name__}"
        )
    recorder = _Recorder(model)
    recorder.extra_traceback = False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), in_eval_mode(model):
            recorder.run(*inputs)
    except Exception as error:
        raise ValueError(
            f"{caller}: the model does not run on example_inputs "
            f"({', '.join(_shown(value) for value in inputs)}): {type(error).__name__}: {error}"
        ) from error
    return recorder.values


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
