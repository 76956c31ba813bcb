"""Tracing a model into a graph, and saying where that is not possible."""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import Scope, ScopeContextManager, TraceError

from octavo.nn import intrinsic as nni
from octavo.nn.quantized import FloatFunctional, FXFloatFunctional
from octavo.quantization.stubs import DeQuantStub, QuantStub, QuantWrapper
from octavo.quantization.units import canonical_type

__all__ = ["QuantizationTracer", "Scope", "ScopeContextManager", "TracingError"]

_LEAF_PACKAGES = ("torch.nn", "torch.ao.nn", "octavo.nn")
_TRACED = (QuantStub, DeQuantStub, QuantWrapper)
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class TracingError(TraceError):
    """A model that cannot be traced: what it does depends on the values of tensors, or Python code
    takes a tensor apart.

    Attributes:
        module_path: the module whose ``forward`` cannot be traced; "" is the model itself.
        line: ``file:line`` and code of the statement, or "".
    """

    def __init__(self, message: str, module_path: str, line: str) -> None:
        super().__init__(message)
        self.module_path = module_path
        self.line = line


class _Sequence(fx.Proxy):
    """``x.shape[:2]`` and the like: a value whose length is known can be iterated over."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, length: int) -> None:
        super().__init__(node, tracer)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        this: Any = self
        return iter([this[index] for index in range(self._length)])


class QuantizationTracer(fx.Tracer):
    """Traces a model down to the modules of ``torch.nn`` and ``octavo.nn``, which are called as
    they are; Sequential and other containers are looked into.

    Args:
        skipped_module_names: paths of modules that are called as they are too.
        skipped_module_classes: classes of such modules.

    Source: ``torch.ao.quantization.quantize_fx.QuantizationTracer``.
    """

    def __init__(
        self,
        skipped_module_names: Collection[str],
        skipped_module_classes: Collection[Callable[..., Any]],
    ) -> None:
        super().__init__()
        self.skipped_module_names = skipped_module_names
        self.skipped_module_classes = skipped_module_classes
        self._failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.skipped_module_names:
            return True
        if type(m) in self.skipped_module_classes or isinstance(m, nni._FusedModule):
            return True
        if isinstance(m, (*_TRACED, nn.Sequential)):
            return False
        return canonical_type(m).__module__.startswith(_LEAF_PACKAGES)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        length = _length_of_slice(node)
        return super().proxy(node) if length is None else _Sequence(node, self, length)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self._failed_in = self._failed_in or self.path_of_module(m)
            raise


def _length_of_slice(node: fx.Node) -> int | None:
    """How many elements a slice of a shape has, if its bounds say so."""
    if node.target is not operator.getitem or not isinstance(node.args[1], slice):
        return None
    shape, part = node.args
    sized = isinstance(shape, fx.Node) and (
        (shape.target is getattr and shape.args[1] == "shape") or shape.target == "size"
    )
    begin, end = part.start or 0, part.stop  # type: ignore[union-attr]
    known = isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end
    return end - begin if sized and known and part.step in (None, 1) else None  # type: ignore[union-attr]


def trace(
    model: nn.Module,
    skipped_names: Collection[str],
    skipped_classes: Collection[Any],
    caller: str,
    given: Sequence[Any] | None = None,
) -> tuple[fx.Graph, dict[str, tuple[str, Any]]]:
    """The graph of a model, and the path and class of the module that each node, by name, is in.

    Args:
        given: positional inputs such as the model will get. Those that are None, a bool or a str
            are the same for every call then, as control flow may depend on them. Further ones whose
            default is None are None, and if that does not suffice all further ones have their
            defaults.

    Raises:
        TracingError: with module and source line.
    """
    defaults = {} if given is None else _defaults_beyond(model, len(given))
    flags = _flags(model, given or ())
    nones = flags | {name: value for name, value in defaults.items() if value is None}
    defaults |= flags
    try:
        return _trace(model, skipped_names, skipped_classes, caller, nones)
    except TracingError:
        if defaults == nones:
            raise
        return _trace(model, skipped_names, skipped_classes, caller, defaults)


def _flags(model: nn.Module, given: Sequence[Any]) -> dict[str, Any]:
    """The inputs that are no numbers and no tensors, by name."""
    parameters = inspect.signature(model.forward).parameters
    return {
        name: value
        for name, value in zip(parameters, given, strict=False)
        if value is None or isinstance(value, (bool, str))
    }


def _defaults_beyond(model: nn.Module, given: int) -> dict[str, Any]:
    """The defaults of the inputs of a model after the first ``given``."""
    simple = (bool, int, float, str, type(None))
    parameters = list(inspect.signature(model.forward).parameters.values())[given:]
    return {p.name: p.default for p in parameters if isinstance(p.default, simple)}


def _trace(
    model: nn.Module,
    skipped_names: Collection[str],
    skipped_classes: Collection[Any],
    caller: str,
    constants: dict[str, Any],
) -> tuple[fx.Graph, dict[str, tuple[str, Any]]]:
    tracer = QuantizationTracer(skipped_names, skipped_classes)
    try:
        graph = tracer.trace(model, constants or None)
    except Exception as error:
        raise _tracing_error(error, tracer._failed_in, model, caller) from error
    for node in graph.nodes:  # a number has been added to the names of such inputs
        name = str(node.target).rpartition("_")[0]
        if node.op == "placeholder" and name in constants:
            node.target = name
    for node in graph.nodes:  # annotations that are strings cannot be pickled
        node.type = node.type if isinstance(node.type, type) else None
    graph._tracer_cls = None  # pickled graph modules are traced again, by torch's own tracer
    return graph, dict(tracer.node_name_to_scope)


def _tracing_error(error: Exception, path: str, model: nn.Module, caller: str) -> TracingError:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_LIBRARIES)
    ]
    line = f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    kind = type(model.get_submodule(path)).__name__
    where = f"'{path}' ({kind})" if path else f"the model itself ({kind})"
    advice = (
        f"list '{path}' in non_traceable_module_name of the prepare_custom_config (it stays float "
        "then), rewrite the line"
        if path
        else "rewrite the line, or move it into a module that non_traceable_module_name lists"
    )
    return TracingError(
        f"{caller}: {where} cannot be traced: {type(error).__name__}: {error}\n  at {line}\n"
        f"Values of tensors are not known in tracing, so code must not depend on them; {advice}, "
        "call prepare_traceable_fx(), which quantizes the parts that can be traced, or use eager "
        "mode (octavo.quantization.prepare)",
        path,
        line,
    )


def trace_through_functionals(model: nn.Module) -> None:
    """Turns FloatFunctionals inside of ``model``, in place, into ones that trace to the functions
    they stand for. Each call then has an observer of its own.
    """
    for module in model.modules():
        if isinstance(module, FloatFunctional):
            module._modules.pop("activation_post_process", None)
            module.__class__ = FXFloatFunctional  # type: ignore[assignment]
