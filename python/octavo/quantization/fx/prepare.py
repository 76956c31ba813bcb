"""Preparing a traced model: observers on the values that become int8."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from octavo.nn.qat import dynamic as nnqatd
from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fake_quantize import (
    FakeQuantizeBase,
    default_fixed_qparams_range_0to1_fake_quant,
    default_fixed_qparams_range_neg1to1_fake_quant,
)
from octavo.quantization.fold import fold_weights
from octavo.quantization.fx.custom_config import PrepareCustomConfig, StandaloneModuleConfigEntry
from octavo.quantization.fx.functions import as_modules
from octavo.quantization.fx.fuse import free_name, fuse_graph, set_module
from octavo.quantization.fx.graph_module import (
    ObservedGraphModule,
    ObservedStandaloneGraphModule,
    adopt_hooks,
)
from octavo.quantization.fx.inplace import functionalize
from octavo.quantization.fx.kinds import (
    ADD,
    ATTENTION,
    DIV,
    FROM_ZERO,
    MATMUL,
    MUL,
    SUB,
    Kind,
    keys_of,
    module_of,
)
from octavo.quantization.fx.merge import merge_additions
from octavo.quantization.fx.operations import FloatOperation
from octavo.quantization.fx.origins import note_origins, origin_of
from octavo.quantization.fx.plan import Group, Plan, Settings, Step, make_plan
from octavo.quantization.fx.tracer import trace
from octavo.quantization.fx.values import Value, run_example
from octavo.quantization.observer import (
    FixedQParamsObserver,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)
from octavo.quantization.qconfig import activation_is_memoryless
from octavo.quantization.qconfig_mapping import QConfigMapping
from octavo.quantization.quant_type import QuantType
from octavo.quantization.quantization_mappings import get_default_qat_module_mappings
from octavo.quantization.report import ModuleReport
from octavo.quantization.swap import hand_over, make_quantized
from octavo.quantization.units import canonical_type, find_entry

__all__ = ["below", "prepare_model"]


def prepare_model(
    model: nn.Module,
    mapping: QConfigMapping,
    example_inputs: Any,
    custom: PrepareCustomConfig,
    backend: BackendConfig,
    is_qat: bool,
    caller: str,
    standalone: bool = False,
) -> ObservedGraphModule:
    """Traces, fuses and observes a model that is changed by it.

    Raises: see :func:`octavo.quantization.quantize_fx.prepare_fx`.
    """
    observed = custom.float_to_observed_mapping.get(QuantType.STATIC, {})
    names = [*custom.non_traceable_module_names, *custom.standalone_module_names]
    classes = [
        *custom.non_traceable_module_classes,
        *custom.standalone_module_classes,
        *observed,
    ]
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else None
    graph, scopes = trace(model, names, classes, caller, given)
    traced = fx.GraphModule(model, graph)
    note_origins(graph, model, scopes)
    functionalize(graph, traced, caller)
    as_modules(traced, backend)
    values = run_example(traced, example_inputs, caller)
    fuse_graph(traced, backend, is_qat, mapping, values)
    merge_additions(traced, values, mapping, backend, is_qat)
    entries = _standalone_entries(traced, custom)
    settings = Settings(
        mapping,
        backend,
        observed,
        entries,
        tuple(custom.input_quantized_indexes),
        is_qat,
    )
    plan = make_plan(traced, values, settings)
    for node, entry in entries.items():
        _prepare_standalone(traced, node, entry, settings, caller)
    rows = _rows_of_float(traced, plan, values)
    _Carrier(traced, plan, values, is_qat).run(set(entries))
    _Observers(traced, plan).insert()
    for node in list(graph.nodes):  # parameters that modules hold now
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    graph.lint()
    cls = ObservedStandaloneGraphModule if standalone else ObservedGraphModule
    result = cls(traced, graph)
    adopt_hooks(result, model)
    result.facts.update(
        is_qat=is_qat,
        inputs=tuple(custom.input_quantized_indexes),
        outputs=tuple(custom.output_quantized_indexes),
        rows=rows,
    )
    return result


# Standalone modules.


def _standalone_entries(
    model: fx.GraphModule, custom: PrepareCustomConfig
) -> dict[fx.Node, StandaloneModuleConfigEntry]:
    result = {}
    for node in model.graph.nodes:
        if node.op == "call_module":
            entry = custom.standalone_module_names.get(str(node.target))
            cls = type(module_of(node, model))
            entry = entry or custom.standalone_module_classes.get(cls)
            if entry is not None:
                result[node] = entry
    return result


def _prepare_standalone(
    model: fx.GraphModule,
    node: fx.Node,
    entry: StandaloneModuleConfigEntry,
    settings: Settings,
    caller: str,
) -> None:
    module = module_of(node, model)
    if isinstance(module, ObservedStandaloneGraphModule):
        return  # another call of it
    path = origin_of(node).path
    mapping = entry.qconfig_mapping or below(settings.mapping, path)
    prepared = prepare_model(
        module,
        mapping,
        entry.example_inputs,
        entry.prepare_custom_config or PrepareCustomConfig(),
        entry.backend_config or settings.backend,
        settings.is_qat,
        f"{caller}: standalone module '{path}'",
        standalone=True,
    )
    set_module(model, str(node.target), prepared)


def below(mapping: QConfigMapping, path: str) -> QConfigMapping:
    """A mapping for the inside of a module: rules of modules in it by their paths there."""
    result = copy.copy(mapping)
    names = mapping.module_name_qconfigs
    prefix = f"{path}."
    around = [path]
    while around[-1]:
        around.append(around[-1].rpartition(".")[0])
    result.module_name_qconfigs = type(names)(
        (name.removeprefix(prefix), qconfig)
        for name, qconfig in names.items()
        if name.startswith(prefix)
    )
    outer = next((names[name] for name in around if name in names), None)
    if any(name in names for name in around):
        result.module_name_qconfigs[""] = outer
    return result


# What becomes of each node, carried by the modules of the graph.


def _rows_of_float(
    model: fx.GraphModule, plan: Plan, values: Mapping[fx.Node, Value]
) -> list[ModuleReport]:
    """What is said of modules, and of functions of float tensors, that are left float."""
    rows: dict[str, ModuleReport] = {}
    for node, step in plan.steps.items():
        keeps = step.kind is Kind.KEEPS or not values[node].is_float
        if step.reason and (node.op == "call_module" or not keeps):
            name, kind = describe(node, model)
            rows[name] = ModuleReport(name, kind, "", step.reason)
    return list(rows.values())


def describe(node: fx.Node, model: nn.Module) -> tuple[str, str]:
    """Name and kind of a node, for messages and reports."""
    if node.op == "call_module":
        return str(node.target), canonical_type(module_of(node, model)).__name__
    target = node.target
    return node.name, target if isinstance(target, str) else target.__name__


_NAMES = (
    ("add", ADD),
    ("sub", SUB),
    ("mul", MUL),
    ("div", DIV),
    ("matmul", MATMUL),
    ("attention", (ATTENTION,)),
)


class _Carrier:
    """Gives each int8 node a module with its ``qconfig``: from there ``convert`` knows what it is,
    in copies and pickles too.
    """

    def __init__(
        self,
        model: fx.GraphModule,
        plan: Plan,
        values: Mapping[fx.Node, Value],
        is_qat: bool,
    ) -> None:
        self.model, self.plan, self.values, self.is_qat = model, plan, values, is_qat

    def run(self, but: set[fx.Node]) -> None:
        marked: set[Any] = set()
        for node in list(self.model.graph.nodes):
            step = self.plan.steps[node]
            if not (step.int8 or step.swap) or node in but:
                continue
            if node.op != "call_module":
                self._wrap(node, step)
            elif node.target not in marked:
                marked.add(node.target if self._mark(node, step) else None)

    def _wrap(self, node: fx.Node, step: Step) -> None:
        kind = "call"
        if step.kind in (Kind.OWN, Kind.SCALAR):
            kind = next(name for name, targets in _NAMES if node.target in targets)
            kind += "_scalar" if step.kind is Kind.SCALAR else ""
        elif step.kind is Kind.JOINS:
            group, sources = self.plan.group_of(node), step.data
            if any(self.plan.group_of(source) is not group for source in sources):
                kind = "cat"
        operation = FloatOperation(kind, node.target)
        operation.many = bool(self.values[node].parts)
        operation.training = self.model.training
        operation.qconfig = step.qconfig
        plain = describe(node, self.model)[1]
        name = free_name(self.model, plain.strip("_"))
        self.model.add_module(name, operation)
        node.op, node.target = "call_module", name

    def _mark(self, node: fx.Node, step: Step) -> bool:
        """Marks the module of a node; whether all its calls are marked with it."""
        module = module_of(node, self.model)
        calls = [
            n for n in self.model.graph.nodes if n.op == "call_module" and n.target == node.target
        ]
        mixed = any(not (self.plan.steps[n].int8 or self.plan.steps[n].swap) for n in calls)
        if mixed:  # without parameters: one for int8, one for floats
            module = copy.deepcopy(module)
            name = free_name(self.model, f"{str(node.target).replace('.', '_')}_int8")
            self.model.add_module(name, module)
            node.target = name
        fold_weights(module)
        module.qconfig = step.qconfig
        if step.custom is not None:
            module = self._observed(module, node, step)
        elif self.is_qat:
            module = self._trained(module, node, step)
        module.qconfig = step.qconfig
        return not mixed

    def _observed(self, module: nn.Module, node: fx.Node, step: Step) -> nn.Module:
        name = str(node.target)
        module._qualified_name = name  # type: ignore[assignment]
        observed: nn.Module = step.custom.from_float(module)
        observed._qualified_name = name  # type: ignore[assignment]
        hand_over(module, observed)
        set_module(self.model, name, observed)
        return observed

    def _trained(self, module: nn.Module, node: fx.Node, step: Step) -> nn.Module:
        """The form of a module that rounds its weights in training, in its place."""
        table = get_default_qat_module_mappings()
        if step.swap and activation_is_memoryless(step.qconfig.activation()):
            table[nn.Linear] = nnqatd.Linear
        if find_entry(module, table)[0] is None:
            return module
        name = str(node.target)
        trained = make_quantized(module, name, table, {}, False, "prepare_qat_fx")
        hand_over(module, trained)
        set_module(self.model, name, trained)
        return trained


# Observers.


class _Observers:
    """Puts observers into a graph: one for each group of values that share a scale, called on each
    value that a scaled operation gives or that enters int8.
    """

    def __init__(self, model: fx.GraphModule, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.names: dict[int, str] = {}
        tensors = (*model.parameters(), *model.buffers())
        self.device = next((t.device for t in tensors if t.device.type != "meta"), None)

    def insert(self) -> None:
        edges: dict[fx.Node, fx.Node] = {}
        for node in list(self.model.graph.nodes):
            step = self.plan.steps[node]
            if step.int8:
                for source in step.data:
                    if source in self.plan.edges and source not in self.plan.outputs:
                        if source not in edges:
                            group = self.plan.edges[source].root()
                            edges[source] = self._before(node, source, group)
                        node.replace_input_with(source, edges[source])
                self._observe_output(node, step)
            elif step.swap:
                self._observe_input(node, step)

    def _before(self, user: fx.Node, value: fx.Node, group: Group) -> fx.Node:
        """A call of a group's observer on a value, before it is used: the order in which an
        observer of several values sees them is that of their use.
        """
        name = self._observer(value, group, None)
        with self.model.graph.inserting_before(user):
            return self.model.graph.call_module(name, (value,))

    def _after(self, node: fx.Node, group: Group, factory: Any = None) -> fx.Node:
        """A call of a group's observer on the result of a node."""
        name = self._observer(node, group, factory)
        with self.model.graph.inserting_after(node):
            return self.model.graph.call_module(name, (node,))

    def _observer(self, node: fx.Node, group: Group, factory: Any) -> str:
        """The name of a group's observer, which is made for its first value."""
        if id(group) not in self.names:
            name = f"activation_post_process_{len(self.names)}"
            observer = (factory or group.factory)()
            observer._observed_module = (
                describe(node, self.model)[0] if _is_call(node) else node.name
            )
            observer.train(self.model.training)
            if self.device is not None:
                observer.to(self.device)
            self.model.add_module(name, observer)
            self.names[id(group)] = name
        return self.names[id(group)]

    def _observe_output(self, node: fx.Node, step: Step) -> None:
        own = self.plan.outputs.get(node)
        if own is None or step.kind in (Kind.KEEPS, Kind.SCALAR) or own.factory is None:
            return
        group = own.root()
        if step.kind is Kind.JOINS and group is self.plan.group_of(step.data[0]):
            return
        factory = _fixed_factory(node, step, self.model) if step.kind is Kind.FIXED else None
        users = list(node.users)
        observed = self._after(node, group, factory)
        for user in users:
            user.replace_input_with(node, observed)

    def _observe_input(self, node: fx.Node, step: Step) -> None:
        """Rounds the input of a dynamically quantized module in training."""
        observer = step.qconfig.activation()
        if not isinstance(observer, FakeQuantizeBase):
            return
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node):
            observed = self._before(node, source, Group(lambda: observer, observer.dtype))
            node.replace_input_with(source, observed)


def _is_call(node: fx.Node) -> bool:
    return node.op in ("call_module", "call_function", "call_method")


def _fixed_factory(node: fx.Node, step: Step, model: nn.Module) -> Any:
    """What observes an operation whose scale is its own: as its QConfig says, if that says such a
    scale; else with the scale that the operation has.
    """
    observer = step.qconfig.activation()
    inner = getattr(observer, "activation_post_process", observer)
    if isinstance(inner, FixedQParamsObserver):
        return step.qconfig.activation
    module = module_of(node, model)
    targets = (
        [module.target] if isinstance(module, FloatOperation) else keys_of(node, model, FROM_ZERO)
    )
    from_zero = any(target in FROM_ZERO for target in targets)
    if isinstance(observer, FakeQuantizeBase):
        if from_zero:
            return default_fixed_qparams_range_0to1_fake_quant
        return default_fixed_qparams_range_neg1to1_fake_quant
    if from_zero:
        return default_fixed_qparams_range_0to1_observer
    return default_fixed_qparams_range_neg1to1_observer
