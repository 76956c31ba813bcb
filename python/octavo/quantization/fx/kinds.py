"""What kind of operation a node is: how its output is quantized where the node runs in int8."""

from __future__ import annotations

import enum
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from octavo.ops.attention import attention_refusal
from octavo.quantization.backend_config import BackendConfig, BackendPatternConfig
from octavo.quantization.fx.operations import FloatOperation
from octavo.quantization.quantization_mappings import (
    get_default_dynamic_quant_module_mappings,
    get_default_qat_module_mappings,
    get_default_static_quant_module_mappings,
)
from octavo.quantization.units import find_entry

__all__ = ["Kind", "argument", "kind_of", "module_of", "pattern_of"]


class Kind(enum.Enum):
    """How the output of an operation is quantized."""

    OWN = "own"
    """With a scale from calibration."""
    KEEPS = "keeps"
    """With the scale of its (first) input."""
    JOINS = "joins"
    """``cat`` and ``stack``: all inputs and the output have one scale, where they can."""
    FIXED = "fixed"
    """With a scale that the operation has by itself."""
    SCALAR = "scalar"
    """Sum, difference, product or quotient with a number: its scale follows from the input's."""
    SHAPE = "shape"
    """No tensor: shapes are read from quantized tensors as from floats."""
    FLOAT = "float"
    """Not quantized."""


ADD: frozenset[Any] = frozenset((operator.add, torch.add, operator.iadd, "add", "add_", "__radd__"))
MUL: frozenset[Any] = frozenset((operator.mul, torch.mul, operator.imul, "mul", "mul_", "__rmul__"))
SUB: frozenset[Any] = frozenset((operator.sub, torch.sub, "sub"))
DIV: frozenset[Any] = frozenset((operator.truediv, torch.div, torch.true_divide, "div"))
MATMUL: frozenset[Any] = frozenset((torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm"))
ATTENTION: Any = F.scaled_dot_product_attention
JOINING: frozenset[Any] = frozenset((torch.cat, torch.concat, torch.stack))

RELU: frozenset[Any] = frozenset(
    (F.relu, torch.relu, torch.relu_, getattr(F, "relu_", F.relu), "relu", "relu_")
)

DROPOUT: frozenset[Any] = frozenset((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d))

# Functions that become modules: the same computation, with parameters that do not change.
MODULE_FUNCTIONS: frozenset[Any] = frozenset(
    (
        F.dropout,
        F.elu,
        F.gelu,
        F.group_norm,
        F.hardswish,
        F.layer_norm,
        F.leaky_relu,
        F.silu,
    )
)
SOFTMAX: frozenset[Any] = frozenset((F.softmax, torch.softmax, "softmax"))
_LOG_SOFTMAX = (F.log_softmax, torch.log_softmax, "log_softmax")
_MASKING = ("where", "masked_fill", "masked_fill_", torch.where, torch.masked_fill)
WEIGHTED_FUNCTIONS: frozenset[Any] = frozenset(
    (
        F.linear,
        F.conv1d,
        F.conv2d,
        F.conv3d,
        F.conv_transpose1d,
        F.conv_transpose2d,
        F.conv_transpose3d,
    )
)

_KEEPING: frozenset[Any] = frozenset(
    (
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        F.adaptive_max_pool1d,
        F.adaptive_max_pool2d,
        F.avg_pool1d,
        F.avg_pool2d,
        F.avg_pool3d,
        F.channel_shuffle,
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.hardtanh,
        F.hardtanh_,
        F.interpolate,
        F.max_pool1d,
        F.max_pool2d,
        F.pad,
        F.pixel_shuffle,
        F.pixel_unshuffle,
        F.relu6,
        F.upsample,
        *RELU,
        operator.getitem,
        torch.chunk,
        torch.clamp,
        torch.flatten,
        torch.mean,
        torch.narrow,
        torch.permute,
        torch.repeat_interleave,
        torch.reshape,
        torch.split,
        torch.squeeze,
        torch.transpose,
        torch.unbind,
        torch.unsqueeze,
        "chunk",
        "clamp",
        "contiguous",
        "detach",
        "detach_",
        "expand",
        "expand_as",
        "flatten",
        "hardtanh_",
        "mean",
        "narrow",
        "permute",
        "repeat",
        "repeat_interleave",
        "reshape",
        "reshape_as",
        "select",
        "split",
        "squeeze",
        "squeeze_",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "unsqueeze_",
        "view",
        "view_as",
    )
)
_KEEPING_MODULES: frozenset[type] = frozenset(
    (
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveAvgPool3d,
        nn.AdaptiveMaxPool1d,
        nn.AdaptiveMaxPool2d,
        nn.AvgPool1d,
        nn.AvgPool2d,
        nn.AvgPool3d,
        nn.ChannelShuffle,
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.Flatten,
        nn.Hardtanh,
        nn.Identity,
        nn.MaxPool1d,
        nn.MaxPool2d,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ReLU,
        nn.ReLU6,
        nn.Unflatten,
        nn.Upsample,
        nn.UpsamplingBilinear2d,
        nn.UpsamplingNearest2d,
        nn.ZeroPad2d,
    )
)
_FIXED: frozenset[Any] = frozenset(
    (torch.sigmoid, torch.tanh, F.sigmoid, F.tanh, F.hardsigmoid, "sigmoid", "sigmoid_")
) | frozenset(("tanh", "tanh_"))
_FIXED_MODULES: frozenset[type] = frozenset((nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Softmax))
FROM_ZERO: frozenset[Any] = frozenset(
    (torch.sigmoid, F.sigmoid, F.hardsigmoid, "sigmoid", "sigmoid_")
) | frozenset((nn.Sigmoid, nn.Hardsigmoid, nn.Softmax))
_SHAPES: frozenset[Any] = frozenset(("size", "dim", "numel", "ndimension", torch.numel))

# Names in torch's configs under which this backend runs another spelling of the same operation.
_SPELLINGS: tuple[tuple[Any, ...], ...] = (
    (F.relu, torch.relu, "relu", "relu_", nn.ReLU),
    (torch.flatten, nn.Flatten, "flatten"),
    (torch.sigmoid, F.sigmoid),
    (torch.tanh, F.tanh),
    (torch.add, operator.add),
    (torch.mul, operator.mul),
    (torch.sub, operator.sub),
    (torch.div, operator.truediv),
)


def module_of(node: fx.Node, model: nn.Module) -> nn.Module:
    return model.get_submodule(str(node.target))


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def kind_of(node: fx.Node, model: nn.Module, values: Mapping[fx.Node, Any]) -> Kind:
    """The kind of a node, whatever its dtypes and QConfig; FLOAT where there is no int8 form for
    these arguments.
    """
    if node.op == "call_module":
        return (
            Kind.FLOAT if is_masked_softmax(node, model) else _module_kind(module_of(node, model))
        )
    if node.op not in ("call_function", "call_method"):
        return Kind.FLOAT
    target = node.target
    if target in _SHAPES or (target is getattr and argument(node, 1, "") in ("shape", "ndim")):
        return Kind.SHAPE
    if target in ADD and _sums_for_softmax(node, model):
        return Kind.FLOAT
    if target in ADD or target in MUL:
        return _binary_kind(node, values)
    if target in SUB or target in DIV:
        number = _binary_kind(node, values) is Kind.SCALAR
        divides = target in DIV and not isinstance(argument(node, 0, "input"), fx.Node)
        return Kind.SCALAR if number and not divides else Kind.FLOAT
    if target in MATMUL:
        return Kind.OWN
    if target is ATTENTION:
        return Kind.OWN if _attends_plainly(node, values) else Kind.FLOAT
    if target in JOINING:
        return Kind.JOINS
    if target in _FIXED:
        return Kind.FIXED
    if target in _KEEPING and _keeps(node):
        return Kind.KEEPS
    return Kind.FLOAT


def _is_softmax(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(node, model), (nn.Softmax, nn.LogSoftmax))
    return node.target in SOFTMAX or node.target in _LOG_SOFTMAX


def _sums_for_softmax(node: fx.Node, model: nn.Module) -> bool:
    """Whether a sum goes into a softmax. A mask in it, of -1e9 or the like, would leave no steps
    for the values that count.
    """
    return any(_is_softmax(user, model) for user in node.users)


def is_masked_softmax(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node is a softmax of a tensor that may be masked: it stays float with its mask."""
    if not _is_softmax(node, model):
        return False
    source = argument(node, 0, "input")
    if not isinstance(source, fx.Node) or source.op == "call_module":
        return False
    return source.target in ADD or source.target in SUB or source.target in _MASKING


def _module_kind(module: nn.Module) -> Kind:
    if isinstance(module, FloatOperation):
        return Kind.OWN
    if find_entry(module, _FIXED_MODULES)[0]:
        return Kind.FIXED
    if find_entry(module, _KEEPING_MODULES)[0]:
        modes = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area")
        indices = getattr(module, "return_indices", False)
        return (
            Kind.KEEPS if getattr(module, "mode", "area") in modes and not indices else Kind.FLOAT
        )
    own = {**get_default_static_quant_module_mappings(), **get_default_qat_module_mappings()}
    if find_entry(module, own)[0]:
        return Kind.OWN
    return Kind.FLOAT


def _binary_kind(node: fx.Node, values: Mapping[fx.Node, Any]) -> Kind:
    if set(node.kwargs) - {"other", "input"} or len(node.args) + len(node.kwargs) != 2:
        return Kind.FLOAT  # alpha=, out=
    operands = [*node.args, *node.kwargs.values()]
    tensors = [arg for arg in operands if isinstance(arg, fx.Node) and values[arg].is_float]
    if len(tensors) == 2:
        return Kind.OWN
    others = [arg for arg in operands if arg not in tensors]
    number = len(others) == 1 and (
        values[others[0]].is_number
        if isinstance(others[0], fx.Node)
        else isinstance(others[0], (int, float))
    )
    return Kind.SCALAR if number and len(tensors) == 1 else Kind.FLOAT


def _attends_plainly(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Whether attention is one that :func:`octavo.ops.attention` computes: without a mask and
    dropout, with as many heads everywhere.
    """
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    shapes = [values[given.pop(name)].shape or () for name in names[:3]]
    if attention_refusal(**given):
        return False
    return min(map(len, shapes)) >= 2 and len({shape[:-2] for shape in shapes}) == 1


def _keeps(node: fx.Node) -> bool:
    """Whether the arguments of such a function are ones that quantized tensors take."""
    target = node.target
    if target in (F.interpolate, F.upsample):
        mode = argument(node, 3, "mode", "nearest")
        plain = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area")
        return mode in plain and not argument(node, 6, "antialias", False)
    if target in DROPOUT:
        return argument(node, 2, "training", True) is False
    if target is F.pad:
        constant = argument(node, 2, "mode", "constant") == "constant"
        return not constant or argument(node, 3, "value") in (None, 0)
    if target in (torch.mean, "mean"):
        return argument(node, 3, "dtype") is None
    if target in (torch.clamp, "clamp"):
        bounds = [*node.args[1:], *node.kwargs.values()]
        return not any(isinstance(bound, fx.Node) for bound in bounds)
    return not node.kwargs.get("return_indices", False)


def keys_of(node: fx.Node, model: nn.Module, table: Any = ()) -> list[Any]:
    """What a backend config may know a node by, the most specific first."""
    if node.op != "call_module":
        keys: list[Any] = [node.target]
    else:
        module = module_of(node, model)
        if isinstance(module, FloatOperation):
            return [module.target]
        entry = find_entry(module, table)[0]
        keys = [type(module), *([entry] if entry else [])]
    for spellings in _SPELLINGS:
        if any(key in spellings for key in keys):
            keys += [key for key in spellings if key not in keys]
    return keys


def pattern_of(
    node: fx.Node, model: nn.Module, backend: BackendConfig
) -> BackendPatternConfig | None:
    """What a backend config has for a node, or None."""
    classes = [config.pattern for config in backend.configs if isinstance(config.pattern, type)]
    found = (backend.config_of(key) for key in keys_of(node, model, classes))
    return next((config for config in found if config is not None), None)


def dynamic_mapping() -> dict[type, Any]:
    """Float class to the class with int8 weights that takes and gives floats."""
    tables = {
        cls: target
        for cls, target in get_default_static_quant_module_mappings().items()
        if cls.__name__.startswith("Embedding")
    }
    return {**get_default_dynamic_quant_module_mappings(), **tables}
