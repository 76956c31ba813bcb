"""The lowered graph, node by node."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from octavo.lowering import commuting
from octavo.lowering.attention import join_heads
from octavo.lowering.constants import NoKernel, attribute
from octavo.lowering.dynamic import dynamic_layer
from octavo.lowering.embedding import embedding
from octavo.lowering.functions import requantized, requantizing
from octavo.lowering.graph_view import GraphView, module_path
from octavo.lowering.input_shapes import InputShapes
from octavo.lowering.modules import OfIntegers
from octavo.lowering.naming import module_names, wanted_name
from octavo.lowering.operators import Operator, is_overload, words
from octavo.lowering.origins import ORIGIN, origin_of
from octavo.lowering.patterns import Bounds, Plan, has_core, match_clamp_of_rounded, match_quantized
from octavo.lowering.qparams import QParams
from octavo.lowering.report import LoweringReport, NodeReport
from octavo.lowering.weighted import float_output
from octavo.nn.quantized.modules.quantize import DeQuantize, Quantize

__all__ = ["Lowering"]

_LAYERS = words(
    "linear addmm mm matmul conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d"
)
_BOOKKEEPING = words("getitem sym_size size sym_numel sym_stride")


class Lowering:
    """Builds a graph on int8 kernels from a Q/DQ graph.

    Two values of the old graph may have two forms in the new one: a quantized tensor and floats.
    Either is made where something asks for it, once.
    """

    def __init__(self, module: GraphModule) -> None:
        self._module = module
        self.view = GraphView(module)
        self._graph = Graph()
        self._graph.set_codegen(copy.copy(module.graph._codegen))
        self._int8: dict[Node, Node] = {}
        self._float: dict[Node, Node] = {}
        self._dequantized: dict[Node, Node] = {}
        self._modules: list[tuple[Node, nn.Module, str]] = []
        self._reasons: dict[Node, str] = {}
        self._plans: dict[Node, Plan] = {}
        self._inside: dict[Node, Plan] = {}
        self._absorbed: set[Node] = set()
        self._wanted: set[Node] = set()

    def run(self) -> tuple[GraphModule, LoweringReport]:
        self._plan()
        inputs = [node for node in self.view.nodes if node.op == "placeholder"]
        for node in inputs:
            self._float[node] = self._copied(node)
        self._check_shapes(inputs)
        for node in self.view.nodes:
            if node.op != "placeholder":
                self._emit(node)
        self._erase_unused()
        return self._finished(), self._report()

    # Which operators become which calls

    def _plan(self) -> None:
        for quantize in reversed(self.view.quantized):
            self._plan_quantized(quantize)
        for node in self.view.nodes:
            if node not in self._inside and node not in self.view.exact:
                self._plan_float(node)
        self._find_wanted()

    def _find_wanted(self) -> None:
        """Finds the exact nodes that something reads as quantized tensors."""
        for plan in self._plans.values():
            torch.fx.map_arg((plan.args, plan.kwargs), self._wanted.add)
        for quantize in self.view.quantized:
            op = self.view.op(quantize)
            if op is not None and quantize not in self._plans and quantize not in self._absorbed:
                self._wanted.add(op.first)
        for node in reversed(self.view.nodes):
            if node in self._wanted and node in self.view.exact:
                self._wanted.update(node.all_input_nodes)

    def _plan_quantized(self, quantize: Node) -> None:
        op = self.view.op(quantize)
        assert op is not None
        if quantize in self.view.pinned or quantize in self._absorbed:
            return
        given = self.view.exact.get(op.first)
        plan = match_clamp_of_rounded(self.view, quantize)
        try:
            if plan is None and given is None:
                plan = match_quantized(self.view, quantize)
            elif plan is None and given and not given.same_grid(self.view.quantized[quantize]):
                plan = requantizing(self.view, quantize)
        except NoKernel as reason:
            if isinstance(op.first, Node):
                self._reasons[op.first] = str(reason)
        if plan is None or any(node in self._inside for node in plan.replaced):
            return
        plan = join_heads(self.view, quantize, plan)
        self._absorbed.update(plan.absorbed)
        self._plans[quantize] = plan
        self._inside.update(dict.fromkeys(plan.replaced, plan))

    def _plan_float(self, node: Node) -> None:
        """Layers whose output stays float, and embeddings."""
        op = self.view.op(node)
        if op is None or node in self.view.pinned or op.namespace not in ("aten", "torch"):
            return
        plan: Plan | None = None
        try:
            if op.name in _LAYERS:
                plan = dynamic_layer(self.view, node, op) or float_output(self.view, node, op)
            elif op.name == "embedding":
                plan = embedding(self.view, node, op)
        except (NoKernel, TypeError, ValueError) as reason:  # modules refuse with the latter
            self._reasons[node] = str(reason)
        if plan is not None and not any(member in self._inside for member in plan.nodes):
            self._plans[plan.nodes[-1]] = plan
            self._inside.update(dict.fromkeys(plan.nodes, plan))

    # The nodes, in their order

    def _check_shapes(self, inputs: list[Node]) -> None:
        """A check of the inputs in the place of the one that torch.export made, which cannot be
        pickled."""
        self._guards: nn.Module | None = InputShapes.of(inputs)
        if self._guards is not None:
            values = tuple(self._float[node] for node in inputs)
            self._call_module(self._guards, values, inputs[0], "input_shapes")

    def _emit(self, node: Node) -> None:
        if node.op == "call_module" and node.target == "_guards_fn" and self._guards is not None:
            return
        if node in self._absorbed:
            return
        if node in self.view.quantized:
            self._int8[node] = self._quantized(node)
        elif node in self._plans:
            self._float[node] = self._called(self._plans[node])
        elif node in self._inside or node in self.view.exact or self._is_lazy(node):
            return
        else:
            self._float[node] = self._copied(node)

    def _is_lazy(self, node: Node) -> bool:
        """Constants are read where they are needed."""
        return self.view.constants.is_constant(node)

    def _quantized(self, node: Node) -> Node:
        """The new node of a quantize node."""
        plan, op, qparams = self._plans.get(node), self.view.op(node), self.view.quantized[node]
        assert op is not None
        if plan is not None:
            result = self._called(plan)
            if plan.joined is not None:
                self._int8[plan.joined] = result
            return result
        source = op.first
        if source not in self.view.exact:
            return self._clamped(self._quantize(node, source, qparams), qparams.narrow)
        given = self.view.exact[source]
        if given.same_grid(qparams):
            same = self.int8(source)
            return same if qparams.holds(given) else self._clamped(same, qparams.narrow)
        module = requantized(self.view, source, qparams)
        return self._call_module(module, (self.int8(source),), node, "requantize")

    def _quantize(self, node: Node, source: Any, qparams: QParams) -> Node:
        module = Quantize(qparams.scale, qparams.zero_point, qparams.qdtype)
        name = f"{source.name}_quantize" if isinstance(source, Node) else "quantize"
        return self._call_module(module, (self.floats(source),), node, name)

    def _called(self, plan: Plan) -> Node:
        args, kwargs = torch.fx.map_arg((plan.args, plan.kwargs), self._argument)
        if isinstance(plan.call, nn.Module):
            result = self._call_module(plan.call, args, plan.main, wanted_name(plan.main))
            result.meta[ORIGIN] = origin_of(self.view, plan)
        else:
            result = self._described(self._graph.call_function(plan.call, args, kwargs), plan.main)
        result = self._clamped(result, plan.clamp)
        for view in plan.views:
            op = self.view.op(view)
            assert op is not None
            result = self._moved(view, op, result)
        return result

    def _clamped(self, node: Node, bounds: Bounds | None) -> Node:
        if bounds is None:
            return node
        kwargs: dict[str, Any] = {"min": bounds[0], "max": bounds[1]}
        return self._graph.call_function(torch.clamp, (node,), kwargs)

    def _argument(self, node: Node) -> Node:
        return self.int8(node) if node in self.view.exact else self.floats(node)

    def _call_module(self, module: nn.Module, args: Any, old: Node, name: str) -> Node:
        target = f"_{len(self._modules)}"
        node = self._graph.create_node(
            "call_module", target, tuple(args), name=name.replace(".", "_")
        )
        self._modules.append((node, module, name))
        return self._described(node, old)

    def _described(self, node: Node, old: Node) -> Node:
        for key in ("nn_module_stack", "stack_trace", "source_fn_stack"):
            if key in old.meta:
                node.meta[key] = old.meta[key]
        return node

    def _copied(self, node: Node) -> Node:
        """The node as it is, on floats."""
        if node.op == "output":
            done: Node = self._graph.output(torch.fx.map_arg(node.args[0], self.floats))
            return done
        op = self.view.op(node)
        if self.view.source_grid(node) is not None:  # pinned: a tensor of its own
            quantized = self._integers(node)
            name = f"{quantized.name.strip('_')}_dequantize"
            return self._call_module(DeQuantize(), (quantized,), node, name)
        if op is not None and commuting.is_inference_dropout(op) and node not in self.view.pinned:
            return self.floats(op.first)
        new = self._graph.node_copy(node, self.floats)
        if op is not None and op.inplace and node not in self.view.pinned:
            self._make_functional(new)
        return new

    def _make_functional(self, node: Node) -> None:
        """Turns an in-place operator that writes memory of its own into one that writes none: in
        the new graph its input may have other readers.
        """
        target: Any = node.target
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
        elif is_overload(target):
            _, name, overload = str(target).rsplit(".", 2)
            packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
            function = getattr(packet, overload, None)
            if function is not None:
                node.target = function
                return
        with self._graph.inserting_before(node):
            own = self._graph.call_method("clone", (node.args[0],))
        node.args = (own, *node.args[1:])

    # The two forms of a value

    def int8(self, node: Node) -> Node:
        """The quantized tensor whose values an exact node has."""
        if node not in self._int8:
            op = self.view.op(node)
            assert op is not None
            if self.view.is_dequantize(node):
                self._int8[node] = self._integers(node)
            else:
                self._int8[node] = self._on_integers(node, op)
        return self._int8[node]

    def _integers(self, dequantize: Node) -> Node:
        """The quantized tensor that a dequantize node reads."""
        source = self.view.source_of(dequantize)
        if self.view.undoes_quantize(dequantize):
            return self._int8[source]
        qparams = self.view.source_grid(dequantize)
        assert qparams is not None
        module = OfIntegers(qparams.scale, qparams.zero_point)
        args = (self.floats(source),)
        return self._call_module(module, args, dequantize, f"{source.name}_quantized")

    def _on_integers(self, node: Node, op: Operator) -> Node:
        if op.name in ("cat", "stack", "concat"):
            tensors = [self.int8(tensor) for tensor in op.first]
            function = torch.stack if op.name == "stack" else torch.cat
            made = self._graph.call_function(function, (tensors, op.get("dim", 0)))
            return self._described(made, node)
        source = self.view.op(op.first)
        if source is not None and source.name == commuting.POOL_WITH_INDICES:
            return self.int8(op.first)
        return self._moved(node, op, self.int8(op.first))

    def _moved(self, node: Node, op: Operator, q: Node) -> Node:
        """An operator that commutes, on a quantized tensor in the place of its first argument."""
        _, *rest = op.arguments.items()
        arguments = {key: torch.fx.map_arg(value, self._argument) for key, value in rest}
        kind, call, args, kwargs = commuting.form_of(op, q, arguments)
        if kind == "same":
            same: Node = args[0]
            return same
        if kind == "module":
            return self._call_module(call, args, node, wanted_name(node))
        create = self._graph.call_method if kind == "method" else self._graph.call_function
        return self._described(create(call, args, kwargs), node)

    def floats(self, node: Node) -> Node:
        """The node with a value as the old graph has it."""
        if node not in self._float:
            if node in self.view.quantized:
                self._float[node] = self._graph.call_method("int_repr", (self._int8[node],))
            elif node in self.view.exact and not self._is_float_view(node):
                self._float[node] = self._dequantize(self.int8(node), node)
            else:  # a constant, or a view
                self._float[node] = self._copied(node)
        return self._float[node]

    def _is_float_view(self, node: Node) -> bool:
        """Whether to dequantize before a view: where nothing reads the integers, or has made them,
        so that one dense tensor is dequantized; and where the result is a tuple."""
        op = self.view.op(node)
        if op is None or self.view.is_dequantize(node) or op.name not in commuting.ALIASING:
            return False
        if node in self._int8:
            return False
        tuples = ("split", "split_with_sizes", "chunk", "unbind")
        return op.name in tuples or node not in self._wanted

    def _dequantize(self, quantized: Node, old: Node) -> Node:
        if quantized not in self._dequantized:
            name = f"{quantized.name.strip('_')}_dequantize"
            made = self._call_module(DeQuantize(), (quantized,), old, name)
            self._dequantized[quantized] = made
        return self._dequantized[quantized]

    # The whole

    def _erase_unused(self) -> None:
        """Takes out quantization that nothing reads any more, and what was made and not needed."""
        own = {node for node, module, _ in self._modules if module is not self._guards}
        for node in reversed(list(self._graph.nodes)):
            if node.users or node.op in ("placeholder", "output"):
                continue
            quantization = node.op == "call_function" and (
                "quantize" in str(node.target) or "choose_qparams" in str(node.target)
            )
            getter = node.op == "call_function" and "getitem" in str(node.target)
            if node.op == "get_attr" or node in own or quantization or getter:
                self._graph.erase_node(node)
        alive = set(self._graph.nodes)
        self._modules = [entry for entry in self._modules if entry[0] in alive]

    def _finished(self) -> GraphModule:
        own = {node for node, _, _ in self._modules}
        root: dict[str, Any] = {
            str(node.target): attribute(self._module, str(node.target))
            for node in self._graph.nodes
            if node.op in ("get_attr", "call_module") and node not in own
        }
        names = module_names((name for _, _, name in self._modules), root)
        for (node, module, _), name in zip(self._modules, names, strict=True):
            node.target = name
            root[name] = module
        self._graph.lint()
        result = GraphModule(root, self._graph, type(self._module).__name__)
        return result.eval()

    # What became of each node

    def _report(self) -> LoweringReport:
        rows = LoweringReport()
        for node in self.view.nodes:
            op = self.view.op(node)
            if op is None or not self._counts(node, op):
                continue
            becomes, reason = self._fate(node, op)
            rows.append(NodeReport(node.name, op.name, module_path(node)[0], becomes, reason))
        return rows

    def _counts(self, node: Node, op: Operator) -> bool:
        """Whether a node computes something: no quantization, constants, sizes."""
        if self.view.constants.is_constant(node) or op.name in _BOOKKEEPING:
            return False
        return not any(word in op.name for word in ("quantize", "qparams", "dropout"))

    def _fate(self, node: Node, op: Operator) -> tuple[str, str]:
        plan = self._inside.get(node)
        if plan is not None:
            return ("int8", "") if node in plan.views else (plan.label, plan.note)
        if node in self._int8 or node in self._absorbed:
            return "int8", ""
        if node in self._reasons:
            return "", self._reasons[node]
        if node in self.view.pinned:
            return "", "it shares memory with something that is changed in place"
        if not any(source in self.view.exact for source in node.all_input_nodes):
            return "", "its input is not quantized"
        if node in self.view.exact:
            return "", "nothing reads it as int8"
        known = has_core(op)
        return "", "its result is not quantized" if known else f"no int8 kernel computes {op.name}"
