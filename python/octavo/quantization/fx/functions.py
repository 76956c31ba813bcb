"""Functions with parameters, such as ``F.linear``, made into the modules that compute the same.

Modules are what mappings have quantized forms for. The parameters stay the same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from octavo.quantization.backend_config import BackendConfig
from octavo.quantization.fx.fuse import free_name
from octavo.quantization.fx.kinds import (
    MODULE_FUNCTIONS,
    SOFTMAX,
    WEIGHTED_FUNCTIONS,
    argument,
    is_masked_softmax,
)
from octavo.quantization.fx.origins import origin_of, set_origin

__all__ = ["as_modules"]

_UNKNOWN = object()


def as_modules(model: fx.GraphModule, backend: BackendConfig) -> None:
    """Replaces calls of linear layers, convolutions, normalizations and activations as functions by
    modules, in place. Calls whose parameters are computed in the graph stay as they are, and
    softmax where the backend has it as a module only.
    """
    functions = WEIGHTED_FUNCTIONS | MODULE_FUNCTIONS
    softmax = {target for target in SOFTMAX if backend.config_of(target) is not None}
    for node in list(model.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        if node.target not in functions and node.target not in softmax:
            continue
        if node.target in softmax and is_masked_softmax(node, model):
            continue
        module = _module_for(node, model)
        if module is None:
            continue
        module.train(model.training)
        name = free_name(model, f"{getattr(node.target, '__name__', node.target)}_module")
        model.add_module(name, module)
        origin, source = origin_of(node), argument(node, 0, "input")
        with model.graph.inserting_before(node):
            new = model.graph.call_module(name, (source,))
        set_origin(new, origin)
        node.replace_all_uses_with(new)
        model.graph.erase_node(node)


class _Arguments:
    """The arguments of a call, with parameters of the model for nodes that stand for them."""

    def __init__(self, node: fx.Node, model: nn.Module) -> None:
        self.node, self.model = node, model
        self.known = True

    def __call__(self, position: int, name: str, default: Any = None) -> Any:
        given = argument(self.node, position, name, default)
        if not isinstance(given, fx.Node):
            if isinstance(given, (tuple, list)) and any(isinstance(x, fx.Node) for x in given):
                self.known = False
            return given
        if given.op == "get_attr":
            value: Any = self.model
            for part in str(given.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor):
                return value
        self.known = False
        return None


def _module_for(node: fx.Node, model: nn.Module) -> nn.Module | None:
    given = _Arguments(node, model)
    if node.target in _MAKERS:
        result = _MAKERS[node.target](given)
    else:
        result = _convolution(str(node.target.__name__), given)  # type: ignore[union-attr]
    return result if given.known else None


def _with_parameters(module: nn.Module, weight: Any, bias: Any) -> nn.Module:
    for name, value in (("weight", weight), ("bias", bias)):
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        module._parameters[name] = value
    return module


def _linear(given: _Arguments) -> Any:
    weight, bias = given(1, "weight"), given(2, "bias")
    if weight is None or weight.dim() != 2:
        given.known = False
        return None
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _with_parameters(module, weight, bias)


def _convolution(name: str, given: _Arguments) -> Any:
    transposed = "transpose" in name
    rank = int(name[-2])
    weight, bias = given(1, "weight"), given(2, "bias")
    geometry: dict[str, Any] = {"stride": given(3, "stride", 1), "padding": given(4, "padding", 0)}
    if transposed:
        geometry["output_padding"] = given(5, "output_padding", 0)
        groups, dilation = given(6, "groups", 1), given(7, "dilation", 1)
    else:
        dilation, groups = given(5, "dilation", 1), given(6, "groups", 1)
    if weight is None or not given.known:
        given.known = False
        return None
    first, second, *kernel = weight.shape
    channels = (first, second * groups) if transposed else (second * groups, first)
    cls = getattr(nn, f"Conv{'Transpose' if transposed else ''}{rank}d")
    geometry = {key: _plain(value) for key, value in geometry.items()}
    module = cls(
        *channels,
        tuple(kernel),
        dilation=_plain(dilation),
        groups=groups,
        bias=bias is not None,
        device="meta",
        **geometry,
    )
    return _with_parameters(module, weight, bias)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _layer_norm(given: _Arguments) -> Any:
    shape = given(1, "normalized_shape")
    weight, bias = given(2, "weight"), given(3, "bias")
    if not given.known:
        return None
    module = nn.LayerNorm(list(shape), given(4, "eps", 1e-5), weight is not None)
    return _with_parameters(module, weight, bias)


def _group_norm(given: _Arguments) -> Any:
    groups, weight, bias = given(1, "num_groups"), given(2, "weight"), given(3, "bias")
    if weight is None:
        given.known = False
        return None
    module = nn.GroupNorm(groups, weight.shape[0], given(4, "eps", 1e-5))
    return _with_parameters(module, weight, bias)


def _dropout(given: _Arguments) -> Any:
    """Dropout that is on because the model is in training mode follows the mode as a module."""
    p, training = given(1, "p", 0.5), given(2, "training", True)
    if not given.known or training is not True or not given.model.training:
        given.known = False
        return None
    return nn.Dropout(p)


def _softmax(given: _Arguments) -> Any:
    method = given.node.target is not F.softmax
    dim, dtype = given(1, "dim"), given(2 if method else 3, "dtype")
    if not isinstance(dim, int) or dtype is not None:
        given.known = False
    return nn.Softmax(dim)


_MAKERS: dict[Any, Callable[[_Arguments], Any]] = {
    F.dropout: _dropout,
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.elu: lambda given: nn.ELU(given(1, "alpha", 1.0)),
    F.leaky_relu: lambda given: nn.LeakyReLU(given(1, "negative_slope", 0.01)),
    F.gelu: lambda given: nn.GELU(given(1, "approximate", "none")),
    F.hardswish: lambda given: nn.Hardswish(),
    F.silu: lambda given: nn.SiLU(),
    **dict.fromkeys(SOFTMAX, _softmax),
}
