"""Converting a calibrated graph to one that runs in int8.

Every value of the prepared graph has up to two forms in the new one, a quantized tensor and a float
one; each is made when something first takes it, so there is no quantization without a user and no
dequantization that is undone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from octavo.nn.quantized import Quantize
from octavo.nn.quantized.modules.base import QuantizedOutput
from octavo.nn.quantized.modules.utils import is_calibrated, output_qparams
from octavo.quantization.fx.dtypes import quant_type
from octavo.quantization.fx.fuse import free_name, set_module
from octavo.quantization.fx.graph_module import ObservedGraphModule, QuantizedGraphModule
from octavo.quantization.fx.kinds import DROPOUT, JOINING, dynamic_mapping
from octavo.quantization.fx.operations import (
    QUANTIZED,
    FloatOperation,
    QConstant,
    dequantize_all,
)
from octavo.quantization.observer import _is_activation_post_process
from octavo.quantization.quant_type import QuantType
from octavo.quantization.report import ModuleReport, QuantizationReport
from octavo.quantization.swap import check_calibrated, hand_over, make_quantized
from octavo.quantization.units import OBSERVER_NAME, Unit, canonical_type, find_entry

__all__ = ["Converter", "convert_model", "is_observer"]

_NOTHING_TO_DO = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)


def is_observer(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node shows a value to an observer or fake-quantize."""
    return node.op == "call_module" and _is_activation_post_process(
        model.get_submodule(str(node.target))
    )


def convert_model(
    model: ObservedGraphModule,
    table: Mapping[type, Any],
    custom: Mapping[type, Any],
    remove_qconfig: bool,
    caller: str,
    kind: Any = None,
) -> QuantizedGraphModule:
    """Converts a prepared model that is changed by it.

    Args:
        kind: the converter; default: :class:`Converter`.
        table: float class to int8 class, for modules with a calibrated output.
        custom: observed class to quantized class.
        remove_qconfig: take qconfigs off what stays float.

    Raises: see :func:`octavo.quantization.quantize_fx.convert_fx`.
    """
    return (kind or Converter)(model, table, custom, caller).run(remove_qconfig)


class Converter:
    """Makes the int8 graph, node by node.

    Attributes:
        folds_constants: whether constants of the model are quantized here.
    """

    folds_constants = True

    def __init__(
        self,
        model: ObservedGraphModule,
        table: Mapping[type, Any],
        custom: Mapping[type, Any],
        caller: str,
    ) -> None:
        self.model, self.table, self.custom, self.caller = model, table, custom, caller
        self.graph = fx.Graph()
        self.graph.set_codegen(model.graph._codegen)
        self.floats: dict[fx.Node, fx.Node] = {}
        self.ints: dict[fx.Node, fx.Node] = {}
        self.observers: dict[fx.Node, nn.Module] = {}  # of float values that enter int8
        self.several: set[fx.Node] = set()  # values that are tuples
        self.made: dict[
            str, tuple[str, nn.Module]
        ] = {}  # int8 modules by the path of the float one
        self.rows: list[ModuleReport] = []
        self.sources = {
            str(node.target): model.get_submodule(str(node.target))
            for node in model.graph.nodes
            if node.op == "call_module"
        }

    def run(self, remove_qconfig: bool) -> QuantizedGraphModule:
        self._check_calibrated()
        facts = self.model.facts
        inputs = [node for node in self.model.graph.nodes if node.op == "placeholder"]
        quantized = {inputs[i] for i in facts.get("inputs", ()) if i < len(inputs)}
        for node in self.model.graph.nodes:
            if node.op == "placeholder":
                forms = self.ints if node in quantized else self.floats
                forms[node] = self.graph.node_copy(node)
            elif node.op == "output":
                self._output(node, facts.get("outputs", ()))
            elif is_observer(node, self.model):
                self._observed(node)
            elif node.op == "call_module":
                self._module(node)
            else:
                self._float(node)
        return self._result(remove_qconfig)

    def _result(self, remove_qconfig: bool) -> QuantizedGraphModule:
        for node in reversed(list(self.graph.nodes)):
            if node.op == "get_attr" and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        result = QuantizedGraphModule(self.model, self.graph)
        if remove_qconfig:
            for module in result.modules():
                vars(module).pop("qconfig", None)
        report = QuantizationReport([*self.rows, *self.model.facts.get("rows", ())])
        result.facts["report"] = report
        return result

    # Forms of values.

    def float_of(self, node: fx.Node) -> fx.Node:
        """The float form of a value."""
        if node not in self.floats:
            source = self.ints[node]
            if node in self.several:
                self.floats[node] = self.graph.call_function(dequantize_all, (source,))
            else:
                self.floats[node] = self.graph.call_method("dequantize", (source,))
            self.floats[source] = self.floats[node]
        return self.floats[node]

    def int_of(self, node: fx.Node) -> fx.Node:
        """The quantized form of a value."""
        if node not in self.ints:
            observer = self.observers.get(node)
            if observer is None:
                raise RuntimeError(
                    f"{self.caller}: '{node.name}' enters an int8 operation, but nothing has "
                    "observed it; prepare the model with prepare_fx(), and do not edit its graph"
                )
            holder = nn.Module()
            holder.add_module(OBSERVER_NAME, observer)
            qparams = output_qparams(holder, f"Quantize of '{node.name}'")
            constant = self._constant(self.floats[node])
            if constant is None:
                self.ints[node] = self._added("quantize", Quantize(*qparams), self.floats[node])
            else:
                self.ints[node] = self._added("constant", QConstant(constant, *qparams))
        return self.ints[node]

    def _added(self, name: str, module: Any, *args: fx.Node) -> fx.Node:
        """A call of a new module."""
        kind, name = "input" if args else name, free_name(self.model, name)
        module._qualified_name = name
        self.model.add_module(name, module)
        self.rows.append(ModuleReport(name, kind, type(module).__name__, ""))
        return self.graph.call_module(name, args)

    def _constant(self, value: fx.Node) -> Tensor | None:
        """The tensor that a node of the new graph reads from the model, or None."""
        if value.op != "get_attr" or not self.folds_constants:
            return None
        found: Any = self.model
        for part in str(value.target).split("."):
            found = getattr(found, part)
        return found if isinstance(found, Tensor) else None

    def either(self, node: fx.Node) -> fx.Node:
        """The form of a value that there is."""
        return self.ints[node] if node in self.ints else self.float_of(node)

    # Nodes.

    def _float(self, node: fx.Node) -> None:
        """A node that computes in float, or reads a shape."""
        shape = node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension")
        if node.op == "call_function" and node.target is getattr:
            shape = True
        new = self.graph.node_copy(node, self.either if shape else self.float_of)
        self.floats[node] = new

    def _observed(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        observer: Any = self.model.get_submodule(str(node.target))
        if source in self.ints:
            self.ints[node] = self.ints[source]
            if source in self.floats:
                self.floats[node] = self.floats[source]
            return
        self.floats[node] = self.floats[source]
        if getattr(observer, "is_dynamic", False):
            return
        self.observers[node] = observer
        for user in source.users:  # another call of the same observer, for this value
            if user in self.ints and user.target == node.target:
                self.ints[node] = self.ints[user]

    def _module(self, node: fx.Node) -> None:
        module = self.sources[str(node.target)]
        if isinstance(module, ObservedGraphModule):
            self._standalone(node, module)
        elif getattr(module, "qconfig", None) is None:
            self._float(node)
        elif type(module) in self.custom:
            self._custom(node, module)
        elif isinstance(module, FloatOperation):
            self._operation(node, module)
        elif quant_type(module.qconfig) is not QuantType.STATIC:
            self._dynamic(node, module)
        elif self._has_own_scale(module):
            self._own(node, module, self.table)
        else:
            self._keeps(node, module)

    def _has_own_scale(self, module: nn.Module) -> bool:
        entry = find_entry(module, self.table)[0]
        target = None if entry is None else self.table[entry]
        if not isinstance(target, type):
            return target is not None
        return issubclass(target, QuantizedOutput) or not target.__module__.startswith("octavo.")

    def _own(self, node: fx.Node, module: nn.Module, table: Mapping[type, Any]) -> None:
        """A module whose output has a scale that was observed."""
        path = str(node.target)
        observer = self._observer_after(node)
        if path in self.made:
            name, new = self._another(path, observer)
        else:
            name, new = path, self._make(path, module, observer, table)
            self.made[path] = name, new
            set_module(self.model, name, new)
        args = tuple(self._data(arg) for arg in node.args)
        kwargs = {key: self._data(value) for key, value in node.kwargs.items()}
        self.ints[node] = self.graph.call_module(name, args, kwargs)

    def _make(
        self, path: str, module: nn.Module, observer: Any, table: Mapping[type, Any]
    ) -> nn.Module:
        module._modules[OBSERVER_NAME] = observer
        entry = find_entry(module, table)[0]
        unit = Unit(path, module, module.qconfig, entry, "")
        check_calibrated([unit], table, self.caller)
        new = make_quantized(module, path, table, {}, False, self.caller)
        del module._modules[OBSERVER_NAME]
        hand_over(module, new)
        kind = canonical_type(module).__name__
        if isinstance(module, FloatOperation):
            kind = module.extra_repr()
        self.rows.append(ModuleReport(path, kind, type(new).__name__, ""))
        return new

    def _another(self, path: str, observer: Any) -> tuple[str, nn.Module]:
        """The int8 module for another call of a float one: the same weights, its own scale."""
        new: Any = copy.deepcopy(self.made[path][1])
        holder = nn.Module()
        holder.add_module(OBSERVER_NAME, observer)
        new._set_output(*output_qparams(holder, f"another call of '{path}'"))
        name = free_name(self.model, f"{path.replace('.', '_')}_call")
        new._qualified_name = name
        self.model.add_module(name, new)
        self.rows.append(ModuleReport(name, f"another call of '{path}'", type(new).__name__, ""))
        return name, new

    def _observer_after(self, node: fx.Node) -> Any:
        for user in node.users:
            if is_observer(user, self.model):
                return self.model.get_submodule(str(user.target))
        raise RuntimeError(
            f"{self.caller}: the output of '{node.target}' has no observer; prepare the model with "
            "prepare_fx(), and do not edit its graph"
        )

    def _data(self, arg: Any) -> Any:
        """An argument of an int8 operation: tensors in their quantized form."""
        if isinstance(arg, fx.Node):
            usable = arg in self.ints or arg in self.observers
            return self.int_of(arg) if usable else self.float_of(arg)
        if isinstance(arg, (tuple, list)):
            return type(arg)(self._data(part) for part in arg)
        return arg

    def _operation(self, node: fx.Node, operation: FloatOperation) -> None:
        path = str(node.target)
        if operation.kind in ("add", "mul", "matmul", "attention", "cat"):
            self._own(node, operation, {FloatOperation: QUANTIZED[operation.kind]})
            return
        args = tuple(self._data(arg) for arg in node.args)
        kwargs = {key: self._data(value) for key, value in node.kwargs.items()}
        if operation.kind != "call":
            new = QUANTIZED[operation.kind].from_float(operation)
            new._qualified_name = path
            new.train(operation.training)
            set_module(self.model, path, new)
            self.rows.append(ModuleReport(path, operation.extra_repr(), type(new).__name__, ""))
            self.ints[node] = self.graph.call_module(path, args, kwargs)
            return
        self.rows.append(
            ModuleReport(path, operation.extra_repr(), "", "works on quantized tensors")
        )
        if operation.target in JOINING and args and isinstance(args[0], tuple):
            args = (list(args[0]), *args[1:])  # torch.compile knows lists of quantized tensors only
        if operation.target in DROPOUT or operation.target == "detach":
            self.ints[node] = args[0]
            return
        method = isinstance(operation.target, str)
        call = self.graph.call_method if method else self.graph.call_function
        target: Any = operation.target
        self.ints[node] = call(target, args, kwargs)
        if operation.many:
            self.several.update((node, self.ints[node]))

    def _keeps(self, node: fx.Node, module: nn.Module) -> None:
        """A module that runs on quantized tensors as it is."""
        path = str(node.target)
        args = tuple(self._data(arg) for arg in node.args)
        hooks = module._forward_hooks or module._forward_pre_hooks
        if isinstance(module, _NOTHING_TO_DO) and not hooks:
            self.ints[node] = args[0]
            return
        if path not in self.made:
            self.made[path] = path, module
            entry = find_entry(module, self.table)[0]
            if entry is not None:
                new = make_quantized(module, path, self.table, {}, False, self.caller)
                hand_over(module, new)
                set_module(self.model, path, new)
            reason = "" if entry is not None else "works on quantized tensors as it is"
            becomes = type(self.model.get_submodule(path)).__name__ if entry is not None else ""
            kind = canonical_type(module).__name__
            self.rows.append(ModuleReport(path, kind, becomes, reason))
        kwargs = {key: self._data(value) for key, value in node.kwargs.items()}
        self.ints[node] = self.graph.call_module(path, args, kwargs)

    def _dynamic(self, node: fx.Node, module: nn.Module) -> None:
        """A module that takes and gives float tensors, with int8 (or float16) weights."""
        path = str(node.target)
        if path not in self.made:
            table = dynamic_mapping()
            new = make_quantized(module, path, table, {}, False, self.caller)
            hand_over(module, new)
            self.made[path] = path, new
            set_module(self.model, path, new)
            kind = canonical_type(module).__name__
            self.rows.append(ModuleReport(path, kind, type(new).__name__, ""))
        self.floats[node] = self.graph.node_copy(node, self.float_of)

    def _custom(self, node: fx.Node, module: nn.Module) -> None:
        path = str(node.target)
        if path not in self.made:
            observed = [user for user in node.users if is_observer(user, self.model)]
            if observed:
                observer = self.model.get_submodule(str(observed[0].target))
                module._modules[OBSERVER_NAME] = observer
            new = make_quantized(module, path, {}, self.custom, False, self.caller)
            hand_over(module, new)
            self.made[path] = path, new
            set_module(self.model, path, new)
            kind = canonical_type(module).__name__
            self.rows.append(ModuleReport(path, kind, type(new).__name__, ""))
        args = tuple(self._data(arg) for arg in node.args)
        kwargs = {key: self._data(value) for key, value in node.kwargs.items()}
        self.ints[node] = self.graph.call_module(path, args, kwargs)
        if not any(is_observer(user, self.model) for user in node.users):
            self.several.update((node, self.ints[node]))

    def _standalone(self, node: fx.Node, module: ObservedGraphModule) -> None:
        path = str(node.target)
        if path not in self.made:
            converted = convert_model(
                module, self.table, self.custom, True, self.caller, type(self)
            )
            self.made[path] = path, converted
            set_module(self.model, path, converted)
            self.rows += [
                ModuleReport(f"{path}.{row.name}", row.type, row.becomes, row.reason)
                for row in converted.quantization_report
            ]
        inputs, outputs = module.facts.get("inputs", ()), module.facts.get("outputs", ())
        args = tuple(
            self._data(arg) if index in inputs else self.graph_arg(arg)
            for index, arg in enumerate(node.args)
        )
        new = self.graph.call_module(path, args, {})
        (self.ints if outputs else self.floats)[node] = new

    def graph_arg(self, arg: Any) -> Any:
        """An argument in its float form."""
        return fx.node.map_arg(arg, self.float_of)

    def _output(self, node: fx.Node, quantized: Any) -> None:
        value: Any = node.args[0]
        several = isinstance(value, (tuple, list))
        parts = list(value) if several else [value]
        forms = [
            self._data(part) if index in quantized else self.graph_arg(part)
            for index, part in enumerate(parts)
        ]
        result = type(value)(forms) if several else forms[0]
        self.graph.output(result)

    def _check_calibrated(self) -> None:
        """Raises where an observer of the graph has seen nothing."""
        blind = {}
        for node in self.model.graph.nodes:
            if not is_observer(node, self.model):
                continue
            observer = self.model.get_submodule(str(node.target))
            dynamic = getattr(observer, "is_dynamic", False)
            if (
                not dynamic
                and hasattr(observer, "calculate_qparams")
                and not is_calibrated(observer)
            ):
                source = node.args[0]
                assert isinstance(source, fx.Node)
                place = source.target if source.op == "call_module" else source.name
                blind[str(node.target)] = f"'{node.target}' (the output of '{place}')"
        if blind:
            raise RuntimeError(
                f"{self.caller}: these observers never saw finite data, so there is no scale for "
                "what they observe; run calibration data through the prepared model:\n  "
                + "\n  ".join(blind.values())
            )
