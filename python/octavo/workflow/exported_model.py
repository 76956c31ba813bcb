"""A graph of torch.export that is called as the model is that it was made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from octavo.ops._tracing import is_dynamo_compiling
from octavo.quantization.pt2e.export_utils import own_copy
from octavo.workflow.calls import CallForm

__all__ = [
    "ExportedModel",
    "InputGuards",
    "flat_graph",
    "range_conditions",
    "result_template",
    "symbols",
]

_FIXED_SIZE = re.compile(r"^L\[.*\]\.size\(\)\[\d+\] == \d+$")
_UNBOUNDED = 2**31


class InputGuards:
    """Refuses calls that a graph was not made for: with other values of arguments that are no
    tensors, or sizes for which the model's own code would have done something else.

    Args:
        example: the arguments by name of the call that the graph was made of.
        conditions: on the arguments ``L``, such as ``"L['x'].size()[0] <= 4"``. Those that say
            nothing of the example are left out, and fixed sizes, which lowered graphs check
            themselves.
    """

    def __init__(self, example: Mapping[str, Any], conditions: Sequence[str]) -> None:
        leaves, self._form = pytree.tree_flatten_with_path(dict(example))
        self.template = pytree.tree_unflatten(list(range(len(leaves))), self._form)
        self.names = [pytree.keystr(path) for path, _ in leaves]
        self.values = [None if isinstance(leaf, Tensor) else (leaf,) for _, leaf in leaves]
        self.conditions: list[str] = []
        for text in dict.fromkeys(conditions):
            if not _FIXED_SIZE.match(text) and _holds(text, example):
                self.conditions.append(text)
        self._compile()

    def _compile(self) -> None:
        self._form = pytree.tree_structure(self.template)
        self._tests = [_function(text) for text in self.conditions]
        self._known: set[tuple[Any, ...]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_form", "_tests", "_known")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compile()

    def leaves(self, bound: Mapping[str, Any]) -> list[Any]:
        """What is in the arguments, for the graph.

        Raises:
            ValueError: arguments that the graph is not for.
        """
        bound = dict(bound)
        leaves, form = pytree.tree_flatten(bound)
        if form != self._form:
            bound = _in_order(bound, self.template)
            leaves, form = pytree.tree_flatten(bound)
        if form != self._form:
            raise ValueError(self._other_form(bound))
        for name, known, leaf in zip(self.names, self.values, leaves, strict=True):
            given = isinstance(leaf, Tensor)
            if known is None and not given:
                raise ValueError(
                    f"argument {name} was a tensor when the model was captured, got {leaf!r}; a "
                    "graph is for calls of one form"
                )
            if known is not None and (
                given or type(leaf) is not type(known[0]) or leaf != known[0]
            ):
                got = "a tensor" if given else repr(leaf)
                raise ValueError(
                    f"argument {name} was {known[0]!r} when the model was captured, got {got}; the "
                    "graph has the former in it. Calibrate with the calls that are wanted"
                )
        if self._tests:
            self._check_sizes(bound, leaves)
        return leaves

    def _other_form(self, bound: Mapping[str, Any]) -> str:
        given = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(dict(bound))[0]]
        more = [name for name in given if name not in self.names]
        fewer = [name for name in self.names if name not in given]
        got = [f"got {', '.join(more)} besides"] if more else []
        got += [f"without {', '.join(fewer)}"] if fewer else []
        return (
            f"the arguments are others than when the model was captured: "
            f"{', '.join(got) or 'nested in another way'}. A graph is for calls of one form; "
            "calibrate with the calls that are wanted"
        )

    def _check_sizes(self, bound: Mapping[str, Any], leaves: list[Any]) -> None:
        sizes = tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))
        plain = not is_dynamo_compiling() and all(
            type(size) is int for shape in sizes for size in shape
        )
        if plain and sizes in self._known:
            return
        for text, test in zip(self.conditions, self._tests, strict=True):
            if not test(bound):
                raise ValueError(
                    f"inputs of shapes {[list(shape) for shape in sizes]} do not fit the graph: it "
                    f"was captured for {_readable(text)}, and the model's code may do something "
                    "else otherwise. Calibrate with batches of the shapes that are wanted"
                )
        if plain:
            self._known.add(sizes)


def _function(text: str) -> Callable[[Mapping[str, Any]], Any]:
    made: Callable[[Mapping[str, Any]], Any] = eval(f"lambda L: {text}", {"min": min, "max": max})
    return made


def _holds(text: str, example: Mapping[str, Any]) -> bool:
    try:
        return bool(_function(text)(example))
    except Exception:
        return False


def _same(value: Any, known: Any) -> bool:
    return type(value) is type(known) and bool(value == known)


def _in_order(value: Any, like: Any) -> Any:
    """Nested values with the keys of dicts in the order of others."""
    if type(value) is dict and type(like) is dict and set(value) == set(like):
        return {key: _in_order(value[key], like[key]) for key in like}
    if type(value) in (list, tuple) and type(value) is type(like) and len(value) == len(like):
        return type(value)(_in_order(a, b) for a, b in zip(value, like, strict=True))
    return value


def _readable(text: str) -> str:
    text = re.sub(r"L\['(\w+)'\]", r"\1", text)
    return re.sub(r"\.size\(\)", ".shape", text)


class ExportedModel(nn.Module):
    """Calls a graph of torch.export as the model that it was made of: with keyword arguments,
    without those that have defaults, with what is nested in arguments and results.

    Args:
        graph: from :func:`flat_graph`, or what was made of it; its modules have the paths of those
            in the model, in ``"graph."``.
        form: how the model is called.
        guards: what the graph is for.
        template: the model's result with any tensors, or numbers, in place of what the graph gives.
    """

    graph: GraphModule

    def __init__(
        self, graph: GraphModule, form: CallForm, guards: InputGuards, template: Any
    ) -> None:
        super().__init__()
        self.graph, self.form, self.guards, self.template = graph, form, guards, template
        self._result = pytree.tree_structure(template)
        self.quantization_report: Any = ()
        self.training = False

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_result"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._result = pytree.tree_structure(self.template)

    def with_graph(self, graph: GraphModule) -> ExportedModel:
        """Another graph, called in the same way."""
        return ExportedModel(graph, self.form, self.guards, self.template)

    def train(self, mode: bool = True) -> ExportedModel:
        """Nothing: a graph has its mode written into it."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = self.form.bind(args, kwargs)
        except TypeError as error:
            raise TypeError(f"the captured model {error}") from None
        values = self.graph(*self.guards.leaves(bound))
        return pytree.tree_unflatten(values, self._result)


def flat_graph(program: Any) -> GraphModule:
    """The graph of an exported program, which takes and returns what is in the model's arguments
    and results one after the other.
    """
    result = own_copy(program.module())
    result.graph.set_codegen(CodeGen())
    result.recompile()
    return result


def result_template(program: Any) -> Any:
    """The result of an exported program, with small tensors in it."""
    form = program.call_spec.out_spec
    return pytree.tree_unflatten([torch.tensor(i) for i in range(form.num_leaves)], form)


def symbols(program: Any, bound: Mapping[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """The sizes that may vary in an exported program: by the name of each the inputs (as Python
    expressions of the arguments ``L``) and dimensions that have it.
    """
    leaves, _ = pytree.tree_flatten_with_path(dict(bound))
    wanted = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]
    found: dict[str, list[tuple[str, int]]] = {}
    tensors = [pytree.keystr(path) for path, leaf in leaves if isinstance(leaf, Tensor)]
    values = [n.meta["val"] for n in nodes if isinstance(n.meta.get("val"), Tensor)]
    for name, value in zip(tensors, values, strict=True):
        for dim, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt) and str(size).isidentifier():
                found.setdefault(str(size), []).append((f"L{name}", dim))
    return found


def range_conditions(
    program: Any, found: Mapping[str, Sequence[tuple[str, int]]], ones: Mapping[str, bool]
) -> list[str]:
    """The ranges of sizes as conditions.

    Args:
        found: from :func:`symbols`.
        ones: whether a size of 1 was seen to work, which torch.export leaves open.
    """
    result = []
    limits = {str(symbol): limit for symbol, limit in program.range_constraints.items()}
    for symbol, places in found.items():
        if symbol not in limits:
            continue
        low, high = limits[symbol].lower, limits[symbol].upper
        name, dim = places[0]
        if low > 2 or (low == 2 and not ones.get(symbol, False)):
            result.append(f"{name}.size()[{dim}] >= {int(low)}")
        if bool(high < _UNBOUNDED):
            result.append(f"{name}.size()[{dim}] <= {int(high)}")
    return result
