"""Annotations become observers.

Tensors are *edges* (producer, consumer) and nodes. Those that share form groups, with one observer
instance each: those that a SharedQuantizationSpec joins, and an input edge together with the
producer's output and its other input edges where their specs agree, since they are one tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from octavo.quantization.fake_quantize import FixedQParamsFakeQuantize
from octavo.quantization.observer import FixedQParamsObserver
from octavo.quantization.pt2e.graph import location
from octavo.quantization.pt2e.observers import (
    DerivedObserverOrFakeQuantize,
    ReusedObserver,
    full_range,
)
from octavo.quantization.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    DerivedQuantizationSpec,
    EdgeOrNode,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)
from octavo.quantization.utils import is_per_channel

__all__ = ["collect_specs", "insert_observers", "make_observers"]

Specs = dict[EdgeOrNode, QuantizationSpecBase]
Observers = dict[EdgeOrNode, nn.Module]

_PREFIX = "activation_post_process_"


def describe(place: EdgeOrNode) -> str:
    """How messages name an edge or a node."""
    if isinstance(place, Node):
        return f"the output of {location(place)}"
    return f"the edge from '{place[0]}' to {location(place[1])}"


def collect_specs(model: GraphModule) -> Specs:
    """The spec of each annotated edge and node, in the graph's order.

    Raises:
        TypeError: an annotation or spec of another class.
        ValueError: an annotated input that is none of the node's inputs.
    """
    specs: Specs = {}
    for node in model.graph.nodes:
        annotation = node.meta.get(Q_ANNOTATION_KEY)
        if annotation is None:
            continue
        if not isinstance(annotation, QuantizationAnnotation):
            raise TypeError(
                f"{location(node)}: the annotation must be an octavo.quantization.quantizer."
                f"QuantizationAnnotation, got {type(annotation).__module__}."
                f"{type(annotation).__name__}; a quantizer made for another library belongs to "
                "that library's prepare_pt2e"
            )
        for source, spec in annotation.input_qspec_map.items():
            if source not in node.all_input_nodes:
                raise ValueError(
                    f"{location(node)}: input_qspec_map names '{source}', which is none of the "
                    f"node's inputs {[n.name for n in node.all_input_nodes]}"
                )
            if spec is not None:
                specs[(source, node)] = spec
        if annotation.output_qspec is not None:
            specs[node] = annotation.output_qspec
    for place, spec in specs.items():
        if not isinstance(spec, QuantizationSpecBase):
            raise TypeError(f"{describe(place)}: {spec!r} is no QuantizationSpecBase")
        if isinstance(spec, SharedQuantizationSpec) and spec.edge_or_node not in specs:
            raise ValueError(
                f"{describe(place)}: shares with {describe(spec.edge_or_node)}, which no "
                "annotation quantizes"
            )
    return specs


class _Groups:
    """Which tensors share, as a union-find structure; the representative of a group is the member
    that decides its spec.
    """

    def __init__(self, specs: Specs) -> None:
        self.specs = specs
        self._parent: dict[EdgeOrNode, EdgeOrNode] = {place: place for place in specs}

    def find(self, place: EdgeOrNode) -> EdgeOrNode:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

    def join(self, first: EdgeOrNode, second: EdgeOrNode) -> None:
        """Puts two tensors in one group. A spec of its own wins over a shared one, then the
        first's.
        """
        one, other = self.find(first), self.find(second)
        if one == other:
            return
        if isinstance(self.specs[one], SharedQuantizationSpec):
            one, other = other, one
        self._parent[other] = one

    def spec(self, place: EdgeOrNode) -> QuantizationSpecBase:
        """The spec of a tensor's group; a SharedQuantizationSpec if no member has its own."""
        return self.specs[self.find(place)]


def _same_quantization(a: QuantizationSpecBase, b: QuantizationSpecBase) -> bool:
    """Whether two specs differ at most in the observer's class."""
    if type(a) is not type(b):
        return False
    names = [f.name for f in fields(a) if f.name != "observer_or_fake_quant_ctr"]  # type: ignore[arg-type]
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _group(specs: Specs) -> _Groups:
    groups = _Groups(specs)
    for place, spec in specs.items():
        if isinstance(spec, SharedQuantizationSpec):
            groups.join(spec.edge_or_node, place)
    for place in specs:
        if isinstance(place, Node):
            continue
        source, user = place
        if not user.meta[Q_ANNOTATION_KEY].allow_implicit_sharing:
            continue
        same: list[EdgeOrNode] = [source, *((source, other) for other in source.users)]
        for candidate in same:
            if candidate == place or candidate not in specs:
                continue
            if _same_quantization(groups.spec(place), groups.spec(candidate)):
                groups.join(candidate, place)
    return groups


def make_observers(specs: Specs, is_qat: bool) -> Observers:
    """One observer for each group of tensors that share.

    Raises:
        ValueError: tensors that share with nothing but one another, or derive from themselves.
    """
    groups = _group(specs)
    made: Observers = {}
    pending: list[EdgeOrNode] = []

    def observer_of(place: EdgeOrNode) -> nn.Module:
        root = groups.find(place)
        if root not in made:
            if root in pending:
                raise ValueError(f"{describe(root)}: its qparams are derived from themselves")
            pending.append(root)
            made[root] = create(root)
            pending.remove(root)
        return made[root]

    def create(place: EdgeOrNode) -> nn.Module:
        spec = specs[place]
        if isinstance(spec, SharedQuantizationSpec):
            raise ValueError(
                f"{describe(place)}: shares with tensors that only share with one another; give "
                "one of them a QuantizationSpec"
            )
        if not isinstance(spec, DerivedQuantizationSpec):
            return _construct(spec, is_qat, place)
        missing = [source for source in spec.derived_from if source not in specs]
        if missing:
            raise ValueError(
                f"{describe(place)}: derives from {describe(missing[0])}, which no annotation "
                "quantizes"
            )
        return DerivedObserverOrFakeQuantize(
            spec.dtype,
            [observer_of(source) for source in spec.derived_from],
            spec.derive_qparams_fn,
            spec.quant_min,
            spec.quant_max,
            spec.qscheme,
            spec.ch_axis,
        )

    return {place: observer_of(place) for place in specs}


def _construct(spec: QuantizationSpecBase, is_qat: bool, place: EdgeOrNode) -> nn.Module:
    if isinstance(spec, FixedQParamsQuantizationSpec):
        lo, hi = full_range(spec.dtype, spec.quant_min, spec.quant_max)
        scheme = {} if spec.qscheme is None else {"qscheme": spec.qscheme}
        factory = functools.partial(
            FixedQParamsObserver, spec.scale, spec.zero_point, spec.dtype, **scheme
        )
        fixed: Any = functools.partial(factory, quant_min=lo, quant_max=hi)
        return FixedQParamsFakeQuantize(fixed) if is_qat else fixed()
    if not isinstance(spec, QuantizationSpec):
        raise TypeError(f"{describe(place)}: no observer is known for a {type(spec).__name__}")
    names = ("dtype", "quant_min", "quant_max", "qscheme")
    kwargs = {name: getattr(spec, name) for name in names if getattr(spec, name) is not None}
    if spec.is_dynamic:
        kwargs["is_dynamic"] = True
    if spec.ch_axis is not None and is_per_channel(spec.qscheme):
        kwargs["ch_axis"] = spec.ch_axis
    constructor = spec.observer_or_fake_quant_ctr
    try:
        result = constructor(**kwargs)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise type(error)(f"{describe(place)}: {error}") from error
    if not isinstance(result, nn.Module):
        raise TypeError(
            f"{describe(place)}: observer_or_fake_quant_ctr must make a module, got "
            f"{type(result).__name__}"
        )
    return result


def insert_observers(model: GraphModule, specs: Specs, observers: Observers) -> None:
    """Calls observers in the graph: after a node for its output, between nodes for an edge. An edge
    whose producer's output has the same observer needs none, and edges that share a tensor and an
    observer share the call.
    """
    _Inserter(model, specs, observers).run()


class _Inserter:
    def __init__(self, model: GraphModule, specs: Specs, observers: Observers) -> None:
        self.model, self.specs, self.observers = model, specs, observers
        self.count = 0
        self.output_of: dict[Node, tuple[Node, nn.Module]] = {}
        self.calls: dict[tuple[Node, int], Node] = {}

    def run(self) -> None:
        for node in list(self.model.graph.nodes):
            if Q_ANNOTATION_KEY not in node.meta:
                continue
            for source in dict.fromkeys(_sources(node, self.observers)):
                self._observe_edge(source, node)
            if node in self.observers and _is_float_tensor(node):
                self._observe_output(node)
        self.model.recompile()

    def _observe_edge(self, source: Node, user: Node) -> None:
        observer = self.observers[(source, user)]
        now, known = self.output_of.get(source, (source, None))
        if known is observer or not _is_float_tensor(source):
            return
        call = self.calls.get((now, id(observer)))
        if call is None:
            with self.model.graph.inserting_before(user):
                call = self._call(now, observer, source, self._observes((source, user)))
            self.calls[(now, id(observer))] = call
        replacement = call
        user.args, user.kwargs = map_arg(
            (user.args, dict(user.kwargs)), lambda arg: replacement if arg is now else arg
        )

    def _observe_output(self, node: Node) -> None:
        users = list(node.users)
        with self.model.graph.inserting_after(node):
            call = self._call(node, self.observers[node], node, self._observes(node))
        for user in users:
            user.replace_input_with(node, call)
        self.output_of[node] = call, self.observers[node]

    def _observes(self, place: EdgeOrNode) -> bool:
        spec = self.specs[place]
        return not isinstance(spec, SharedQuantizationSpec) or spec.observes

    def _call(self, value: Node, observer: nn.Module, like: Node, observes: bool) -> Node:
        name = f"{_PREFIX}{self.count}"
        while hasattr(self.model, name):
            self.count += 1
            name = f"{_PREFIX}{self.count}"
        self.model.add_module(name, observer if observes else ReusedObserver(observer))
        call = self.model.graph.call_module(name, (value,))
        dropped = (Q_ANNOTATION_KEY,)
        call.meta = {key: item for key, item in like.meta.items() if key not in dropped}
        return call


def _sources(node: Node, observers: Observers) -> Iterator[Node]:
    annotation = node.meta[Q_ANNOTATION_KEY]
    return (source for source in annotation.input_qspec_map if (source, node) in observers)


def _is_float_tensor(node: Node) -> bool:
    """Whether a node returns one float tensor, as far as is known."""
    value = node.meta.get("val")
    if value is None:
        return True
    return isinstance(value, torch.Tensor) and value.is_floating_point()
