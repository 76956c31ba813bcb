"""Linear layers and convolutions: their weights out of the graph, and the modules that run them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from octavo.lowering import modules
from octavo.lowering.commuting import clamp_bounds
from octavo.lowering.constants import NoKernel, QuantizedWeight
from octavo.lowering.graph_view import GraphView, module_path
from octavo.lowering.operators import Operator
from octavo.lowering.patterns import Bounds, Match, Plan, core
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import modules as nnq

__all__ = ["Layer", "float_output", "layer_of"]

_CONVS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}

_CONV: dict[str, tuple[Any, ...]] = {
    "plain": (nnq.Conv1d, nnq.Conv2d, nnq.Conv3d),
    "relu": (nniq.ConvReLU1d, nniq.ConvReLU2d, nniq.ConvReLU3d),
    "clamp": (nniq.ConvHardtanh1d, nniq.ConvHardtanh2d, nniq.ConvHardtanh3d),
    "float": (modules.FloatConv1d, modules.FloatConv2d, modules.FloatConv3d),
    "float transposed": (
        modules.FloatConvTranspose1d,
        modules.FloatConvTranspose2d,
        modules.FloatConvTranspose3d,
    ),
    "transposed": (nnq.ConvTranspose1d, nnq.ConvTranspose2d, nnq.ConvTranspose3d),
}


class Layer:
    """A linear layer or a convolution with a constant int8 weight.

    Attributes:
        kind: "linear", "conv" or "conv_transpose".
        rank: spatial dimensions; 0 of linear layers.
        input: the node of the input.
        geometry: of convolutions: arguments of the constructor.
    """

    def __init__(self, view: GraphView, node: Node, op: Operator) -> None:
        self.path = module_path(node)[0]
        self.kind, self.rank = "linear", 0
        self.geometry: dict[str, Any] = {}
        axis = 0
        if op.name in ("linear", "addmm", "mm", "matmul"):
            self.input, weight, bias = _linear_arguments(op)
        else:
            self.input, weight, bias = op.get("input"), op.get("weight"), op.get("bias")
        constants = view.constants
        found = constants.weight(weight)
        if op.name in ("addmm", "mm", "matmul"):
            found = _transposed(found)
        elif op.name != "linear":
            self.rank = found.ints.dim() - 2
            self.kind = "conv_transpose" if _is_transposed(op) else "conv"
            axis = 1 if self.kind == "conv_transpose" else 0
            self.geometry = _geometry(op, self.kind, self.rank)
        self.weight = found.for_axis(axis)
        if found.ints.numel() == 0 or found.ints.dim() != self.rank + 2:
            raise NoKernel(f"its weight has shape {list(found.ints.shape)}")
        self.bias = constants.floats(bias, "bias")

    def sizes(self) -> tuple[int, int]:
        """Inputs and outputs: features or channels."""
        first, second = (int(size) for size in self.weight.ints.shape[:2])
        groups = self.geometry.get("groups", 1)
        if self.kind == "linear":
            return second, first
        return (second * groups, first) if self.kind == "conv" else (first, second * groups)

    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of a convolution's constructor."""
        return (*self.sizes(), tuple(self.weight.ints.shape[2:]))

    def fill(self, module: Any) -> Any:
        """Gives a module weight and bias. NoKernel where it refuses them."""
        weight = self.weight
        module._qualified_name = self.path
        try:
            bias = module._checked_bias(self.bias)
            module._packed = module._pack(
                weight.ints, weight.scales, _integral(weight.zero_points), bias
            )
        except (TypeError, ValueError) as error:
            raise NoKernel(str(error)) from error
        return module


def layer_of(view: GraphView, node: Node, op: Operator) -> Layer:
    """The layer at a node. NoKernel where its weight is no constant of 8 bits."""
    return Layer(view, node, op)


def _linear_arguments(op: Operator) -> tuple[Any, Any, Any]:
    if op.name == "linear":
        return op.get("input"), op.get("weight"), op.get("bias")
    if op.name == "addmm":
        if op.get("beta", 1) != 1 or op.get("alpha", 1) != 1:
            raise NoKernel("its alpha or beta is not 1")
        return op.get("mat1"), op.get("mat2"), op.get("self")
    second = "mat2" if op.name == "mm" else "other"
    return op.get("self"), op.get(second), None


def _transposed(weight: QuantizedWeight) -> QuantizedWeight:
    if weight.ints.dim() != 2:
        raise NoKernel(f"its second factor has shape {list(weight.ints.shape)}, no matrix")
    return weight.permuted((1, 0))


def _integral(zero_points: Tensor) -> Tensor:
    rounded = zero_points.to(torch.int32)
    if zero_points.is_floating_point() and not torch.equal(rounded.to(zero_points), zero_points):
        raise NoKernel("its weight has zero points that are no integers")
    return rounded


def _is_transposed(op: Operator) -> bool:
    return op.name in _TRANSPOSED or bool(op.get("transposed", False))


def _geometry(op: Operator, kind: str, rank: int) -> dict[str, Any]:
    padding = op.get("padding", 0)
    found = {
        "stride": _ints(op.get("stride", 1), rank),
        "padding": padding if isinstance(padding, str) else _ints(padding, rank),
        "dilation": _ints(op.get("dilation", 1), rank),
        "groups": op.get("groups", 1),
    }
    if kind == "conv_transpose":
        found["output_padding"] = _ints(op.get("output_padding", 0), rank)
    return found


def _ints(value: Any, rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(v, int) for v in values):
        raise NoKernel(f"its geometry {values} is not known before it runs")
    return values * rank if len(values) == 1 else values


def _made(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """A module; NoKernel where its constructor refuses the arguments."""
    try:
        return kind(*args, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NoKernel(str(error)) from error


def _two_activations(view: GraphView, op: Operator) -> None:
    """NoKernel where a matrix product has no constant factor."""
    second = op.get("mat2", op.get("other"))
    if op.name in ("mm", "matmul") and not view.constants.is_constant(second):
        raise NoKernel("no int8 kernel multiplies two activations")


@core("linear", "addmm", "mm", "matmul")
def _linear(match: Match) -> Plan:
    _two_activations(match.view, match.op)
    layer = layer_of(match.view, match.node, match.op)
    x = match.input(layer.input)
    sizes, bias = layer.sizes(), layer.bias is not None
    if match.activation is not None and match.activation.name == "leaky_relu":
        slope = match.activation.get("negative_slope", 0.01)
        module: Any = _made(nniq.LinearLeakyReLU, *sizes, slope, bias)
    elif match.activation is not None:
        module = _made(nniq.LinearTanh, *sizes, bias)
    else:
        module = _made(nniq.LinearReLU if match.is_relu else nnq.Linear, *sizes, bias)
    layer.fill(module)
    match.set_output(module)
    return match.plan(module, x, clamped=match.is_relu)


@core(*_CONVS, *_TRANSPOSED)
def _conv(match: Match) -> Plan:
    match.no_activation()
    layer = layer_of(match.view, match.node, match.op)
    x = match.input(layer.input)
    options: dict[str, Any] = {}
    if layer.kind == "conv_transpose":
        form = "transposed"
    elif match.is_relu:
        form = "relu"
    elif match.bounds is not None:
        form = "clamp"
        options = dict(zip(("min_val", "max_val"), _finite(match.bounds), strict=True))
    else:
        form = "plain"
    module = _new_conv(layer, form, **options)
    match.set_output(module)
    return match.plan(module, x, clamped=form in ("relu", "clamp"))


def _new_conv(layer: Layer, form: str, **options: Any) -> Any:
    kind = _CONV[form][layer.rank - 1]
    made = _made(kind, *layer.arguments(), **layer.geometry, bias=layer.bias is not None, **options)
    return layer.fill(made)


def _finite(bounds: Bounds) -> tuple[float, float]:
    lo, hi = bounds
    return (-float("inf") if lo is None else lo), (float("inf") if hi is None else hi)


def conv_add(match: Match) -> Plan | None:
    """The plan of an addition to a convolution that nothing else uses; None where it is none."""
    view = match.view
    operands = [match.op.get("self"), match.op.get("other")]
    for conv, other in (operands, operands[::-1]):
        op = view.op(conv)
        usable = op is not None and op.name in ("conv2d", "convolution") and conv not in view.exact
        if not usable or view.only_user(conv) is not match.node or other not in view.exact:
            continue
        assert op is not None
        if _is_transposed(op) or not _same_shape(conv, other, match.node):
            continue
        try:
            layer = layer_of(view, conv, op)
            x = match.input(layer.input)
        except NoKernel:
            continue
        if layer.rank != 2:
            continue
        kind = nniq.ConvAddReLU2d if match.is_relu else nniq.ConvAdd2d
        bias = layer.bias is not None
        module = layer.fill(_made(kind, *layer.arguments(), **layer.geometry, bias=bias))
        match.set_output(module)
        module._qualified_name = layer.path
        plan = match.plan(module, x, other, clamped=match.is_relu)
        return Plan((conv, *plan.nodes), plan.call, plan.args, plan.kwargs, plan.clamp)
    return None


def _same_shape(conv: Node, other: Node, result: Node) -> bool:
    """Whether an addition broadcasts nothing, as far as the graph says."""
    shapes = [getattr(node.meta.get("val"), "shape", None) for node in (conv, other, result)]
    known = [tuple(str(size) for size in shape) for shape in shapes if shape is not None]
    return len(set(known)) <= 1


def float_output(view: GraphView, node: Node, op: Operator) -> Plan:
    """A layer with quantized input and float output. NoKernel where there is none."""
    _two_activations(view, op)
    layer = layer_of(view, node, op)
    x = layer.input
    if x not in view.exact:
        raise NoKernel("its input is not quantized")
    nodes: tuple[Node, ...] = (node,)
    bounds: Bounds | None = None
    user = view.only_user(node)
    after = view.op(user)
    if user is not None and after is not None and after.first is node:
        bounds = clamp_bounds(after)
        relu = bounds == (0.0, None) and layer.kind == "linear"
        fits = relu or (bounds is not None and layer.kind == "conv")
        nodes, bounds = ((node, user), bounds) if fits else ((node,), None)
    bias = layer.bias is not None
    if layer.kind == "linear":
        module: Any = _made(modules.FloatLinear, *layer.sizes(), bias, bounds is not None)
        layer.fill(module)
    elif layer.kind == "conv":
        clamp = None if bounds is None else _finite(bounds)
        module = _new_conv(layer, "float", clamp=clamp)
    else:
        module = _new_conv(layer, "float transposed")
    return Plan(nodes, module, (x,), {}, None, "float output")
