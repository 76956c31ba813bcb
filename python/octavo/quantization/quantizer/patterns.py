"""The operators that Octavo has kernels for, as annotations of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from octavo.ops.attention import attention_refusal
from octavo.quantization.pt2e.fold import CONVOLUTIONS, TRANSPOSED, is_training_batch_norm
from octavo.quantization.pt2e.graph import argument, is_constant, op_name, users_of
from octavo.quantization.quantizer.quantizer import (
    Q_ANNOTATION_KEY,
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from octavo.quantization.quantizer.scalars import derived_qparams, is_float, scalar_operation

__all__ = ["Annotator"]

_LAYERS = (*CONVOLUTIONS, *TRANSPOSED, "linear")
_CLAMPS = ("relu", "relu6", "hardtanh")
_BINARY = ("add", "mul")
_PRODUCTS = ("matmul", "bmm")
_ATTENTION = "scaled_dot_product_attention"

# One input, an observer of their own for the output.
_UNARY = (
    "hardswish",
    "elu",
    "leaky_relu",
    "prelu",
    "silu",
    "gelu",
    "layer_norm",
    "group_norm",
    "instance_norm",
)

# Known ranges: scale and zero point for 0..255.
_FIXED = {
    "sigmoid": (1.0 / 256.0, 0),
    "hardsigmoid": (1.0 / 256.0, 0),
    "softmax": (1.0 / 256.0, 0),
    "_softmax": (1.0 / 256.0, 0),
    "tanh": (2.0 / 256.0, 128),
}

_SOFTMAX = ("softmax", "_softmax", "log_softmax")
_MASKING = ("add", "sub", "rsub", "where", "masked_fill")

_UNOBSERVED = (FixedQParamsQuantizationSpec, DerivedQuantizationSpec)

# The results hold no values outside of the input's range, widened to contain 0.
_CLAMPING = ("hardtanh", "clamp", "clamp_min", "clamp_max")
_POOLING = (
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg") for n in (1, 2, 3)),
    "_adaptive_avg_pool2d",
    "mean",
)
_RESIZING = (
    *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "pad",
    "constant_pad_nd",
)
_VIEWS = (
    "flatten",
    "unflatten",
    "view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "squeeze",
    "unsqueeze",
    "movedim",
    "swapaxes",
    "swapdims",
    "contiguous",
    "clone",
    "detach",
    "alias",
    "dropout",
    "expand",
    "repeat",
    "flip",
    "roll",
    "slice",
    "select",
    "narrow",
    "index_select",
    "unfold",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
)
_SHARING = frozenset(("relu", "relu6", *_CLAMPING, *_POOLING, *_RESIZING, *_VIEWS))
_JOINING = ("cat", "stack")


@dataclass
class _Chain:
    """A layer and what runs fused with it."""

    nodes: list[Node]
    extra: Node | None = None  # the other operand of an addition

    @property
    def last(self) -> Node:
        return self.nodes[-1]


class Annotator:
    """Annotates one graph.

    Args:
        model: the graph.
        config_of: the config of each node, or None to leave it float.
    """

    def __init__(self, model: GraphModule, config_of: Callable[[Node], Any]) -> None:
        self.model = model
        self._config_of = config_of

    def run(self) -> None:
        nodes = list(self.model.graph.nodes)
        for annotate in (self._layer, self._binary, self._other):
            for node in nodes:
                if self._is_free(node) and self._config_of(node) is not None:
                    annotate(node, self._config_of(node))
        for node in nodes:
            self._follow_producers(node)
        for node in reversed(nodes):
            self._quantize_before(node)
        for node in nodes:
            if op_name(node) in _JOINING and not self._is_free(node):
                self._join(node)
            self._take_fixed(node)

    # What is asked of nodes.

    def _is_free(self, node: Node) -> bool:
        annotation = node.meta.get(Q_ANNOTATION_KEY)
        return node.op == "call_function" and (annotation is None or not annotation._annotated)

    def _is_static(self, node: Node) -> bool:
        config = self._config_of(node)
        return config is not None and not config.is_dynamic

    def _same_rule(self, node: Node, other: Node) -> bool:
        return bool(self._config_of(node) == self._config_of(other))

    def _follower(self, chain: _Chain, names: tuple[str, ...]) -> Node | None:
        """The only user of a chain's result, if it is one of these operators, free, and under the
        same rule.
        """
        users = users_of(chain.last)
        if len(users) != 1 or op_name(users[0]) not in names:
            return None
        user = users[0]
        return user if self._is_free(user) and self._same_rule(user, chain.nodes[0]) else None

    # Layers.

    def _layer(self, node: Node, config: Any) -> None:
        if op_name(node) not in _LAYERS or (config.is_dynamic and op_name(node) != "linear"):
            return
        x, weight, bias = (argument(node, name) for name in ("input", "weight", "bias"))
        if not is_float(x) or not isinstance(weight, Node) or not is_constant(weight):
            return
        chain = self._chain(node, config)
        inputs = {x: config.input_activation, weight: _weight_spec(config.weight, node)}
        if isinstance(bias, Node) and config.bias is not None:
            inputs[bias] = config.bias
        _annotate(node, inputs)
        for part in chain.nodes[1:]:
            _annotate(part, {})
        if chain.extra is not None:
            addition = next(part for part in chain.nodes if op_name(part) == "add")
            _annotate(addition, {chain.extra: config.input_activation})
        chain.last.meta[Q_ANNOTATION_KEY].output_qspec = config.output_activation

    def _chain(self, layer: Node, config: Any) -> _Chain:
        chain = _Chain([layer])
        if config.is_dynamic:
            return chain
        norm = self._follower(chain, ("batch_norm",))
        if norm is not None and config.is_qat:
            chain.nodes.append(norm)
        if op_name(layer) == "conv2d":
            addition = self._follower(chain, ("add",))
            if addition is not None:
                self._fuse_addition(chain, addition)
        if op_name(layer) in TRANSPOSED:
            return chain
        clamp = self._follower(chain, _CLAMPS if chain.extra is None else ("relu",))
        if clamp is not None and _keeps_zero(clamp):
            chain.nodes.append(clamp)
        return chain

    def _fuse_addition(self, chain: _Chain, addition: Node) -> None:
        """Fuses an addition of the convolution's result and a tensor of the same shape. Of two
        convolutions that are added, the first operand is fused.
        """
        result = chain.last
        operands: Any = addition.args[:2]
        others: list[Any] = [operand for operand in operands if operand is not result]
        if len(others) != 1 or not is_float(others[0]) or argument(addition, "alpha") != 1:
            return
        other = others[0]
        shapes = [getattr(n.meta.get("val"), "shape", None) for n in (result, other)]
        if shapes[0] is None or shapes[0] != shapes[1]:
            return
        if other is operands[0] and self._is_fusable(other, addition):
            return
        chain.nodes.append(addition)
        chain.extra = other

    def _is_fusable(self, node: Node, addition: Node) -> bool:
        """Whether a convolution that comes later in the graph will be fused with the addition."""
        if op_name(node) != "conv2d" or not self._is_free(node) or len(users_of(node)) != 1:
            return False
        return self._same_rule(node, addition)

    # Other operators with an observer of their own.

    def _binary(self, node: Node, config: Any) -> None:
        name = op_name(node)
        if name not in (*_BINARY, *_PRODUCTS) or config.is_dynamic:
            return
        operands = node.args[:2]
        if not all(is_float(operand) for operand in operands):
            return
        if name == "add" and (argument(node, "alpha") != 1 or _masks(node)):
            return
        inputs = dict.fromkeys(operands, config.input_activation)
        chain = _Chain([node])
        clamp = self._follower(chain, ("relu",)) if name in _BINARY else None
        _annotate(node, inputs)
        if clamp is not None:
            _annotate(clamp, {})
        last = node if clamp is None else clamp
        last.meta[Q_ANNOTATION_KEY].output_qspec = config.output_activation

    def _other(self, node: Node, config: Any) -> None:
        name = op_name(node)
        if config.is_dynamic or not node.args or not is_float(node.args[0]):
            return
        inputs = {node.args[0]: config.input_activation}
        if _has_fixed_range(node):
            _annotate(node, inputs, _fixed_spec(config.output_activation, *_FIXED[name]))
        elif name in _UNARY:
            _annotate(node, inputs, config.output_activation)
        elif name == _ATTENTION and _attends_plainly(node):
            inputs = dict.fromkeys(node.args[:3], config.input_activation)
            _annotate(node, inputs, config.output_activation)
        elif name == "batch_norm" and not is_training_batch_norm(node):
            clamp = self._follower(_Chain([node]), ("relu",))
            _annotate(node, inputs)
            if clamp is not None:
                _annotate(clamp, {})
            last = node if clamp is None else clamp
            last.meta[Q_ANNOTATION_KEY].output_qspec = config.output_activation

    # Operators that take over the qparams of their inputs, or whose own follow from these. They are
    # quantized where they get quantized tensors, or where quantized operators take what they give;
    # not between floats.

    def _follow_producers(self, node: Node) -> None:
        if not self._is_free(node) or not self._is_static(node) or not node.args:
            return
        if op_name(node) in _JOINING:
            if any(map(_is_quantized, node.args[0])):  # type: ignore[arg-type]
                self._join(node)
            return
        x: Any = node.args[0]
        if not _is_quantized(x):
            return
        if _shares(node):
            self._share(node, SharedQuantizationSpec(x))
        elif scalar_operation(node) is not None:
            self._derive(node, x)

    def _derive(self, node: Node, x: Node) -> None:
        """An operation with a number, whose qparams follow from those of its input."""
        spec = self._config_of(node).output_activation
        if not isinstance(spec, QuantizationSpec):
            return
        derive = derived_qparams(node, spec.dtype)
        output = DerivedQuantizationSpec([(x, node)], derive, spec.dtype, qscheme=spec.qscheme)
        _annotate(node, {x: SharedQuantizationSpec(x)}, output)

    def _share(self, node: Node, spec: Any) -> None:
        x: Node = node.args[0]  # type: ignore[assignment]
        shared = SharedQuantizationSpec((x, node), observes=False)
        if isinstance(node.meta.get("val"), Tensor):
            _annotate(node, {x: spec}, shared)
            return
        _annotate(node, {x: spec})  # parts of a tensor
        for part in node.users:
            if op_name(part) == "getitem":
                _annotate(part, {}, shared)

    def _join(self, node: Node) -> None:
        """A concatenation and its inputs share, where no input has qparams that do not come from
        calibration; else each has its own.
        """
        given: Any = node.args[0]
        parts: list[Node] = list(given)
        if not all(is_float(part) for part in parts):
            return
        config = self._config_of(node)
        spec = config.input_activation
        if any(isinstance(_own_spec(part), _UNOBSERVED) for part in parts):
            node.meta.pop(Q_ANNOTATION_KEY, None)
            if op_name(node) != "stack":
                _annotate(node, dict.fromkeys(parts, spec), config.output_activation)
            return
        shared = SharedQuantizationSpec((parts[0], node))
        inputs: dict[Node, Any] = dict.fromkeys(parts, shared)
        inputs[parts[0]] = spec
        _annotate(node, inputs, replace(shared, observes=False))

    def _quantize_before(self, node: Node) -> None:
        """Where users want a node's result quantized, and its qparams need no observer, its input
        is quantized instead, as it would be if it came out of a quantized operator. Not so
        operations with a number, which would be rounded: those are left float if all users are.
        """
        users = users_of(node)
        wanted = [spec for spec in (_input_spec(user, node) for user in users) if spec is not None]
        if scalar_operation(node) is not None:
            if not wanted and _is_quantized(node) and all(user.op != "output" for user in users):
                del node.meta[Q_ANNOTATION_KEY]
            return
        if not self._is_free(node) or not self._is_static(node) or not wanted:
            return
        if not isinstance(node.meta.get("val"), Tensor):
            return
        spec = self._config_of(node).input_activation
        if not all(item == spec or isinstance(item, SharedQuantizationSpec) for item in wanted):
            return
        if op_name(node) in _JOINING:
            self._join(node)
        elif _shares(node):
            self._share(node, spec)

    def _take_fixed(self, node: Node) -> None:
        """An operator takes a tensor with fixed or derived qparams as it is, without an observer
        of its own for it.
        """
        annotation = node.meta.get(Q_ANNOTATION_KEY)
        config = self._config_of(node)
        if annotation is None or config is None:
            return
        for source, spec in annotation.input_qspec_map.items():
            fixed = isinstance(_own_spec(source), _UNOBSERVED)
            if fixed and spec == config.input_activation:
                annotation.input_qspec_map[source] = SharedQuantizationSpec(source)


def _annotate(node: Node, inputs: dict[Any, Any], output: Any = None) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, output, _annotated=True)


def _is_quantized(value: Any) -> bool:
    annotation = value.meta.get(Q_ANNOTATION_KEY) if isinstance(value, Node) else None
    return annotation is not None and annotation.output_qspec is not None


def _masks(addition: Node) -> bool:
    """Whether a sum goes into a softmax. A mask in it, of -1e9 or the like, would leave no steps
    for the values that count.
    """
    return any(op_name(user) in _SOFTMAX for user in users_of(addition))


def _own_spec(place: Any) -> Any:
    """The spec of a tensor, or of the one that it shares with."""
    value, user = place if isinstance(place, tuple) else (place, None)
    if user is None:
        made = value.meta.get(Q_ANNOTATION_KEY)
        spec = None if made is None else made.output_qspec
    else:
        spec = _input_spec(user, value)
    return _own_spec(spec.edge_or_node) if isinstance(spec, SharedQuantizationSpec) else spec


def _input_spec(user: Node, value: Node) -> Any:
    annotation = user.meta.get(Q_ANNOTATION_KEY)
    return None if annotation is None else annotation.input_qspec_map.get(value)


def _weight_spec(spec: Any, layer: Node) -> Any:
    """The spec of a weight, whose output channels are on axis 1 in transposed convolutions."""
    if isinstance(spec, QuantizationSpec) and spec.ch_axis == 0 and op_name(layer) in TRANSPOSED:
        return replace(spec, ch_axis=1)
    return spec


def _fixed_spec(act: Any, scale: float, zero_point: int) -> Any:
    """The fixed qparams for 8 bits unsigned; the observed ones for other activations."""
    if act is None or act.dtype != torch.uint8 or act.quant_max not in (None, 255):
        return act
    return FixedQParamsQuantizationSpec(act.dtype, scale, zero_point, 0, 255, act.qscheme)


def _has_fixed_range(node: Node) -> bool:
    """Whether a node's result has qparams of its own; not so a softmax of a masked tensor."""
    name = op_name(node)
    if name not in _FIXED or not is_float(node.args[0]):
        return False
    source: Any = node.args[0]
    return name not in _SOFTMAX or op_name(source) not in _MASKING


def _attends_plainly(node: Node) -> bool:
    """Whether attention is one that :func:`octavo.ops.attention` computes: without a mask and
    dropout, with as many heads everywhere.
    """
    options = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    if attention_refusal(**{name: argument(node, name) for name in options}):
        return False
    if not all(map(is_float, node.args[:3])):
        return False
    shapes: Any = [part.meta["val"].shape for part in node.args[:3]]  # type: ignore[union-attr]
    return min(map(len, shapes)) >= 2 and len({tuple(map(str, s[:-2])) for s in shapes}) == 1


def _keeps_zero(clamp: Node) -> bool:
    """Whether a clamp moves values towards 0 only, so that results are in the inputs' range."""
    name = op_name(clamp)
    if name == "hardtanh":
        low, high = argument(clamp, "min_val"), argument(clamp, "max_val")
    elif name.startswith("clamp"):
        names = [formal.name for formal in clamp.target._schema.arguments]  # type: ignore[union-attr]
        low = argument(clamp, "min") if "min" in names else None
        high = argument(clamp, "max") if "max" in names else None
    else:
        return True
    numbers = [limit for limit in (low, high) if limit is not None]
    if not all(isinstance(limit, (int, float)) for limit in numbers):
        return False
    return (low is None or low <= 0) and (high is None or high >= 0)


def _shares(node: Node) -> bool:
    """Whether a node's result has the qparams of its first input."""
    name = op_name(node)
    if name not in _SHARING or not node.args or not is_float(node.args[0]):
        return False
    if name in _CLAMPING:
        return _keeps_zero(node)
    if name in ("avg_pool2d", "avg_pool3d"):
        return argument(node, "divisor_override") is None
    if name == "pad":
        mode, value = argument(node, "mode"), argument(node, "value")
        return mode in ("reflect", "replicate", "circular") or value in (None, 0)
    if name == "constant_pad_nd":
        return bool(argument(node, "value") == 0)
    if name == "mean":
        return argument(node, "dtype") is None
    return True
