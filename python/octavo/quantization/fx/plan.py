"""Which nodes of a graph run in int8, and which values share a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fx.dtypes import quant_type, unfit
from octavo.quantization.fx.kinds import (
    JOINING,
    Kind,
    argument,
    dynamic_mapping,
    kind_of,
    module_of,
    pattern_of,
)
from octavo.quantization.fx.origins import origin_of, qconfig_of
from octavo.quantization.fx.values import Value
from octavo.quantization.observer import FixedQParamsObserver, ReuseInputObserver
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.quant_type import QuantType
from octavo.quantization.quantization_mappings import no_observer_set
from octavo.quantization.units import _unfit_qconfig, find_entry, is_quantized
from octavo.quantization.utils import observed_dtype

__all__ = ["Group", "Plan", "Step", "make_plan"]


@dataclass(eq=False)
class Group:
    """Values with one scale.

    Attributes:
        factory: makes the observer; None where the scale is not observed.
        dtype: of the values.
        fixed: whether the scale is that of an operation or of an input, and nothing can share it.
        parent: the group that this one has become a part of.
    """

    factory: Any
    dtype: Any
    fixed: bool = False
    parent: Group | None = None

    def root(self) -> Group:
        group = self
        while group.parent is not None:
            group = group.parent
        return group


@dataclass
class Step:
    """What becomes of a node.

    Attributes:
        kind: how it is quantized if it is.
        qconfig: what applies.
        custom: the observed class for a custom module.
        swap: whether it is replaced by itself: dynamic and weight-only modules.
        reason: why it is left float; "" where it is quantized.
        data: its arguments that are quantized tensors when it runs in int8.
    """

    kind: Kind
    qconfig: Any = None
    custom: Any = None
    swap: bool = False
    reason: str = ""
    data: tuple[fx.Node, ...] = ()
    int8: bool = False


@dataclass
class Plan:
    """What becomes of each node.

    Attributes:
        steps: by node.
        outputs: groups of the values that int8 nodes (and quantized inputs) give.
        edges: groups of float values that int8 nodes take.
    """

    steps: dict[fx.Node, Step] = field(default_factory=dict)
    outputs: dict[fx.Node, Group] = field(default_factory=dict)
    edges: dict[fx.Node, Group] = field(default_factory=dict)

    def group_of(self, node: fx.Node) -> Group | None:
        group = self.outputs.get(node) or self.edges.get(node)
        return None if group is None else group.root()


@dataclass
class Settings:
    """What a plan is made for."""

    mapping: QConfigMapping
    backend: BackendConfig
    custom: Mapping[type, Any] = field(default_factory=dict)
    standalone: Mapping[fx.Node, Any] = field(default_factory=dict)
    input_indexes: tuple[int, ...] = ()
    is_qat: bool = False


def make_plan(model: fx.GraphModule, values: Mapping[fx.Node, Value], settings: Settings) -> Plan:
    """Decides about each node of a fused graph."""
    plan = Plan()
    for node in model.graph.nodes:
        plan.steps[node] = _step(node, model, values, settings)
    _same_for_all_calls(model, plan)
    _choose(model.graph, plan, values, settings)
    _group(model.graph, plan, values, settings)
    return plan


# What each node can be.


def _step(
    node: fx.Node, model: fx.GraphModule, values: Mapping[fx.Node, Value], settings: Settings
) -> Step:
    if node.op not in ("call_module", "call_function", "call_method"):
        return Step(Kind.FLOAT)
    qconfig = qconfig_of(origin_of(node), settings.mapping)
    if node in settings.standalone:
        inputs = settings.standalone[node].quantized_inputs
        data = tuple(arg for index, arg in enumerate(node.args) if index in inputs)
        reason = "" if data else "a standalone module, see its own graph"
        return Step(Kind.OWN, qconfig, reason=reason, data=data)  # type: ignore[arg-type]
    if node.op == "call_module":
        special = _special_module(node, model, qconfig, values, settings)
        if special is not None:
            return special
    kind = kind_of(node, model, values)
    step = Step(kind, qconfig)
    if kind is Kind.SHAPE:
        return step
    if kind is Kind.FLOAT:
        step.reason = "has no int8 form, or none for these arguments"
    elif qconfig is None:
        step.reason = "its qconfig is None"
    elif quant_type(qconfig) is not QuantType.STATIC:
        step.reason = "its qconfig is not for activations with calibrated scales"
    else:
        config = pattern_of(node, model, settings.backend)
        if config is None:
            step.reason = f"backend '{settings.backend.name}' does not have it"
        else:
            step.reason = unfit(config, qconfig)
    if not step.reason:
        step.data = _data(node, kind, values)
        if not step.data or not values[node].is_float:
            step.reason = "its inputs and outputs are not all float32 tensors"
    return step


def _special_module(
    node: fx.Node,
    model: fx.GraphModule,
    qconfig: Any,
    values: Mapping[fx.Node, Value],
    settings: Settings,
) -> Step | None:
    """The step of a custom, dynamic or weight-only module, or None."""
    module = module_of(node, model)
    if is_quantized(module):
        return Step(Kind.FLOAT, qconfig, reason="is quantized already")
    if qconfig is None:
        return None
    kind = quant_type(qconfig)
    if type(module) in settings.custom and kind is QuantType.STATIC:
        tensors = tuple(arg for arg in node.all_input_nodes if values[arg].is_float)
        return Step(Kind.OWN, qconfig, settings.custom[type(module)], data=tensors)
    if kind in (QuantType.DYNAMIC, QuantType.WEIGHT_ONLY):
        config = pattern_of(node, model, settings.backend)
        table = dynamic_mapping()
        entry = find_entry(module, table)[0]
        if config is None or entry is None:
            reason = f"backend '{settings.backend.name}' does not quantize it so"
        else:
            reason = unfit(config, qconfig) or _unfit_qconfig(entry, qconfig, table)
        return Step(Kind.FLOAT, qconfig, swap=not reason, reason=reason)
    return None


def _data(node: fx.Node, kind: Kind, values: Mapping[fx.Node, Value]) -> tuple[fx.Node, ...]:
    """The arguments of a node that are quantized; () where they are no float tensors."""
    if kind is Kind.KEEPS:
        first = argument(node, 0, "input")
        found = [first] if isinstance(first, fx.Node) else []
    elif node.target in JOINING:
        joined = argument(node, 0, "tensors")
        found = [joined] if isinstance(joined, fx.Node) else list(joined or ())
        if not all(isinstance(part, fx.Node) for part in found):
            return ()
    elif kind is Kind.SCALAR:
        found = [arg for arg in node.all_input_nodes if values[arg].is_float]
    else:
        found = node.all_input_nodes
    return tuple(found) if all(values[arg].is_float for arg in found) else ()


def _same_for_all_calls(model: fx.GraphModule, plan: Plan) -> None:
    """A module with parameters that one call needs in float is float in all calls."""
    calls: dict[Any, list[Step]] = {}
    for node, step in plan.steps.items():
        if node.op == "call_module" and any(True for _ in module_of(node, model).parameters()):
            calls.setdefault(node.target, []).append(step)
    for steps in calls.values():
        reason = next((step.reason for step in steps if step.reason), "")
        for step in steps:
            step.reason = reason
            step.swap = step.swap and not reason


# Which of those that can run in int8 do.


def _choose(
    graph: fx.Graph, plan: Plan, values: Mapping[fx.Node, Value], settings: Settings
) -> None:
    """Operations with a scale of their own or a fixed one run in int8 if they can. The others do
    where they get int8 values, or where int8 operations take what they give; a tuple of floats is
    not quantized.
    Operations with a number are not quantized for their result's sake, which would round the
    number, nor where all that takes their result is float.
    """
    given = set(_given(graph, settings))
    able = {node for node, step in plan.steps.items() if step.data and not step.reason}
    has_int8 = set(given)
    for node in graph.nodes:
        step = plan.steps[node]
        if node in settings.standalone:
            continue
        if node in able and (step.kind in _SCALED or has_int8.intersection(step.data)):
            has_int8.add(node)
    wanted: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        step = plan.steps[node]
        if step.kind is Kind.SCALAR or any(values[source].parts for source in step.data):
            wanted.discard(node)
        if node not in able:
            continue
        step.int8 = step.kind in _SCALED or node in has_int8 or node in wanted
        if step.kind is Kind.SCALAR:
            step.int8 = step.int8 and any(_takes_int8(user, plan) for user in node.users)
        if step.int8:
            wanted.update(step.data)
        else:
            step.reason = "stands between float operations"


_SCALED = (Kind.OWN, Kind.FIXED)


def _takes_int8(user: fx.Node, plan: Plan) -> bool:
    return user.op == "output" or plan.steps[user].int8


# Scales.


def _group(
    graph: fx.Graph, plan: Plan, values: Mapping[fx.Node, Value], settings: Settings
) -> None:
    for node in _given(graph, settings):
        plan.outputs[node] = Group(None, None, fixed=True)
    for node in graph.nodes:
        step = plan.steps[node]
        if not step.int8:
            continue
        step.reason = _conflict(node, step, plan, settings)
        if step.reason:
            step.int8 = False
            continue
        for source in step.data:
            if plan.group_of(source) is None:
                plan.edges[source] = _new_group(_edge_qconfig(node, plan, settings))
        if node not in settings.standalone:
            plan.outputs[node] = _output_group(node, step, plan, values)


def _given(graph: fx.Graph, settings: Settings) -> list[fx.Node]:
    """Inputs that are quantized tensors, and standalone modules that give such."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    given = [inputs[i] for i in settings.input_indexes if i < len(inputs)]
    return given + [node for node, entry in settings.standalone.items() if entry.quantized_outputs]


def _conflict(node: fx.Node, step: Step, plan: Plan, settings: Settings) -> str:
    """Why a node cannot take the values that it gets, or ""."""
    groups = [plan.group_of(source) for source in step.data]
    known = {group.dtype for group in groups if group is not None and group.dtype is not None}
    if None in groups:
        edge = _edge_qconfig(node, plan, settings)
        if edge is None:
            return "no qconfig says how to quantize its input"
        known.add(_dtype(edge))
    joins = step.kind is Kind.JOINS
    combines = joins or (step.kind is Kind.OWN and len(step.data) > 1 and step.custom is None)
    combines = combines and node not in settings.standalone
    if combines and not _shareable(groups):
        known.add(_dtype(step.qconfig))
        if node.target is torch.stack:
            return "its inputs cannot share one scale"
    if combines and len(known) > 1:
        return f"it would combine {' and '.join(sorted(map(str, known)))}"
    return ""


def _dtype(qconfig: Any) -> Any:
    dtype = qconfig.activation().dtype
    return observed_dtype(dtype)


def _shareable(groups: list[Group | None]) -> bool:
    return not any(group is not None and group.fixed for group in groups)


def _says_range(qconfig: Any) -> bool:
    """Whether a QConfig's observer finds the range of any tensor."""
    observer = qconfig.activation()
    inner = getattr(observer, "activation_post_process", observer)
    return not isinstance(inner, (FixedQParamsObserver, ReuseInputObserver))


def _edge_qconfig(node: fx.Node, plan: Plan, settings: Settings) -> Any:
    """How to quantize a float value that a node takes: as the node's QConfig says, or, where that
    has no range of its own to observe, that of the next int8 operation, or the global one.
    """
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop(0)
        step = plan.steps[current]
        if (step.int8 or current is node) and step.qconfig and _says_range(step.qconfig):
            return step.qconfig
        for user in current.users:
            if user not in seen and plan.steps[user].int8:
                seen.add(user)
                waiting.append(user)
    general = settings.mapping.global_qconfig
    usable = general is not None and quant_type(general) is QuantType.STATIC
    return general if usable and _says_range(general) else None


def _new_group(qconfig: Any) -> Group:
    return Group(qconfig.activation, _dtype(qconfig))


def _output_group(node: fx.Node, step: Step, plan: Plan, values: Mapping[fx.Node, Value]) -> Group:
    groups = [plan.group_of(source) for source in step.data]
    first = groups[0]
    assert first is not None
    if step.custom is not None and (values[node].parts or _observes_itself(step.custom)):
        return Group(None, None, fixed=True)
    if step.kind is Kind.KEEPS:
        return first
    if step.kind is Kind.SCALAR:
        return Group(None, first.dtype, fixed=True)
    if step.kind is Kind.FIXED:
        return Group(step.qconfig.activation, first.dtype, fixed=True)
    if step.kind is not Kind.JOINS or not _shareable(groups):
        return _new_group(step.qconfig)
    for group in groups[1:]:
        assert group is not None
        if group.root() is not first.root():
            group.root().parent = first.root()
    return first


def _observes_itself(observed: type) -> bool:
    return issubclass(observed, tuple(no_observer_set()))
