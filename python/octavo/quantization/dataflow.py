"""Which module's output is which module's input, observed while a model runs once.

Graphs need a model that can be traced; this needs one that can be called. Modules are units (see
:mod:`octavo.quantization.units`): leaves, and fused modules as a whole.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Dataflow", "tensors_in"]

# Calls that look at a tensor's form, not at its values.
_FORM_ONLY = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "is_complex"),
    *("storage_offset", "data_ptr", "__len__", "is_contiguous", "is_floating_point", "type"),
    *("get_device", "__hash__", "__format__", "__repr__"),
}


class Dataflow:
    """What one call of a model did.

    Args:
        call: calls the model.
        units: of the model, by name.

    Attributes:
        inputs: for each unit that ran, its first argument of each call.
        producer: by ``id`` of a tensor, the unit that returned it.
        users: by ``id`` of a tensor, the units that computed with it; "" for the model's own code
            and for what it returned.
        outputs: for each unit that ran, what it returned in each call.
        result: what the model returned.
        in_place: units that returned the tensor that they were given: Identity, ReLU in place.
    """

    def __init__(self, call: Callable[[], Any], units: Mapping[str, nn.Module]) -> None:
        self.inputs: dict[str, list[Any]] = defaultdict(list)
        self.outputs: dict[str, list[Any]] = defaultdict(list)
        self.producer: dict[int, str] = {}
        self.users: dict[int, set[str]] = defaultdict(set)
        self.in_place: set[str] = set()
        self._kept: list[Tensor] = []  # so that no id is used twice
        self._running: list[str] = []
        handles: list[Any] = []
        for name, module in units.items():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave(name)))
        try:
            with torch.no_grad(), _Watch(self._use):
                self.result = call()
        finally:
            for handle in handles:
                handle.remove()
        for tensor in tensors_in(self.result):
            self.users[id(tensor)].add("")

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.inputs[name].append(args[0] if args else None)
            self._running.append(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self._running and self._running[-1] == name:
                self._running.pop()
            self.outputs[name].append(output)
            inputs = {id(tensor) for tensor in tensors_in(args)}
            for tensor in tensors_in(output):
                self._kept.append(tensor)
                if id(tensor) in inputs:
                    self.in_place.add(name)
                else:
                    self.producer[id(tensor)] = name

        return hook

    def _use(self, tensors: Iterator[Tensor]) -> None:
        unit = self._running[-1] if self._running else ""
        for tensor in tensors:
            self._kept.append(tensor)
            self.users[id(tensor)].add(unit)


class _Watch(TorchFunctionMode):
    """Reports the tensors that functions take."""

    def __init__(self, use: Callable[[Iterator[Tensor]], None]) -> None:
        super().__init__()
        self._use = use

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        form_only = name in _FORM_ONLY or (name == "__get__" and not isinstance(result, Tensor))
        if not form_only:
            self._use(tensors_in((args, kwargs)))
        return result


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors_in(inner)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
