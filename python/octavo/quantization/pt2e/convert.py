"""Observers become quantize and dequantize operators."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from octavo.quantization.observer import PlaceholderObserver
from octavo.quantization.pt2e.graph import (
    add_constant,
    call,
    constant_value,
    is_constant,
    location,
    op_name,
)
from octavo.quantization.pt2e.observers import ReusedObserver, full_range, is_observer
from octavo.quantization.utils import (
    DEFAULT_EPS,
    SYMMETRIC_SCHEMES,
    is_per_channel,
    observed_dtype,
    to_underlying_dtype,
)

__all__ = [
    "DEQUANTIZE",
    "QUANTIZE",
    "duplicate_dequantize",
    "fold_quantized_constants",
    "remove_repeated_pairs",
    "replace_observers",
]

QUANTIZE = ("octavo::quantize_per_tensor", "octavo::quantize_per_channel")
DEQUANTIZE = (
    "octavo::dequantize_per_tensor",
    "octavo::dequantize_per_channel",
    "octavo::dequantize_per_token",
)

# Below this scale FBGEMM, and with it torch's and Octavo's dynamically quantized modules, widen the
# interval of a whole tensor.
_SMALLEST_SCALE = 6.1e-5


def replace_observers(model: GraphModule) -> None:
    """Replaces all calls of observers, in place.

    Raises:
        ValueError: an observer that saw nothing, or nothing finite, with the node and module.
    """
    # Copied together: derived and reused ones refer to others.
    found = {name: module for name, module in model._modules.items() if is_observer(module)}
    observers: dict[Any, Any] = copy.deepcopy(found)
    calls = [n for n in model.graph.nodes if n.op == "call_module" and n.target in observers]
    for node in calls:
        _observe_constant(model, node.args[0], observers[node.target])
    for node in calls:
        with model.graph.inserting_before(node):
            result = _Replacement(model, node, observers[node.target]).build()
        node.replace_all_uses_with(result)
        model.graph.erase_node(node)
    for name in observers:
        delattr(model, name)
    model.recompile()


def _observe_constant(model: GraphModule, value: Node, observer: Any) -> None:
    """Shows a constant to an observer that saw nothing, and to a fake-quantize again: the last step
    of training came after its last look.
    """
    looks = hasattr(observer, "observer_enabled")
    if (looks or not getattr(observer, "is_calibrated", True)) and is_constant(value):
        observer(constant_value(model, value).detach())


class _Replacement:
    """What stands for one call of an observer."""

    def __init__(self, model: GraphModule, node: Node, module: nn.Module) -> None:
        self.model, self.node = model, node
        self.x: Node = node.args[0]  # type: ignore[assignment]
        self.observer: Any = module.observer if isinstance(module, ReusedObserver) else module
        self.ops = torch.ops.octavo

    def build(self) -> Node:
        dtype = getattr(self.observer, "dtype", None)
        if dtype == torch.float16:
            half = self._call(torch.ops.aten.to.dtype, self.x, torch.float16)
            return self._call(torch.ops.aten.to.dtype, half, torch.float32)
        try:
            observed_dtype(dtype)
        except TypeError:
            return self.x  # a placeholder for values that stay as they are
        lo, hi = (getattr(self.observer, name, None) for name in ("quant_min", "quant_max"))
        self.range = (*full_range(dtype, lo, hi), to_underlying_dtype(dtype))
        if getattr(self.observer, "is_dynamic", False):
            return self._dynamic()
        return self._static()

    def _call(self, target: Any, *args: Any) -> Node:
        return call(self.model, target, args, self.node)

    def _static(self) -> Node:
        scale, zero_point = self._qparams()
        scheme = getattr(self.observer, "qscheme", None)
        if is_per_channel(scheme):
            like = self.x
            scales = add_constant(self.model, "_scale_", scale.to(torch.float32), like)
            kind = torch.float32 if zero_point.is_floating_point() else torch.int64
            points = add_constant(self.model, "_zero_point_", zero_point.to(kind), like)
            args = (scales, points, self._axis(), *self.range)
            q = self._call(self.ops.quantize_per_channel.default, self.x, *args)
            return self._call(self.ops.dequantize_per_channel.default, q, *args)
        pair = (float(scale.item()), int(zero_point.item()), *self.range)
        q = self._call(self.ops.quantize_per_tensor.default, self.x, *pair)
        return self._call(self.ops.dequantize_per_tensor.default, q, *pair)

    def _axis(self) -> int:
        axis = int(self.observer.ch_axis)
        value = self.x.meta.get("val")
        return axis % value.ndim if isinstance(value, Tensor) else axis

    def _qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, 1-D."""
        observer = self.observer
        where = f"convert_pt2e: {location(self.x)}"
        if not getattr(observer, "is_calibrated", True):
            bad = getattr(observer, "nonfinite_count", 0)
            if bad:
                raise ValueError(
                    f"{where}: nothing finite was observed there, only {bad} NaN or Inf values; "
                    "check the data that the model was calibrated with"
                )
            raise ValueError(
                f"{where}: nothing was observed there; call the prepared model with calibration "
                "data before convert_pt2e (and, if it was, look at why this node got none)"
            )
        try:
            scale, zero_point = observer.calculate_qparams()
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{where}: {error}") from error
        return scale.detach().reshape(-1), zero_point.detach().reshape(-1)

    def _dynamic(self) -> Node:
        observer = self.observer
        lo, hi, dtype = self.range
        if getattr(observer, "reduce_range", False) and hi == 255:
            self.range = (lo, 127, dtype)
            hi = 127
        placeholder = isinstance(observer, PlaceholderObserver)
        eps = float(getattr(observer, "eps", DEFAULT_EPS))
        per_tensor = not placeholder or observer.per_tensor
        if placeholder and eps == DEFAULT_EPS:  # as the dynamically quantized modules have it
            eps = _SMALLEST_SCALE if per_tensor else 0.0
        if not per_tensor:
            choose = self.ops.choose_qparams_per_token.default
            quantize = self.ops.quantize_per_token.default
            dequantize = self.ops.dequantize_per_token.default
        else:
            symmetric = observer.qscheme in SYMMETRIC_SCHEMES
            packet = self.ops.choose_qparams_symmetric if symmetric else self.ops.choose_qparams
            choose = packet.tensor
            quantize = self.ops.quantize_per_tensor.tensor
            dequantize = self.ops.dequantize_per_tensor.tensor
        found = self._call(choose, self.x, lo, hi, eps, dtype)
        pair = [self._part(found, index) for index in (0, 1)]
        q = self._call(quantize, self.x, *pair, *self.range)
        return self._call(dequantize, q, *pair, *self.range)

    def _part(self, pair: Node, index: int) -> Node:
        return self._call(operator.getitem, pair, index)


def duplicate_dequantize(model: GraphModule) -> None:
    """Gives each user of a dequantized tensor a dequantize of its own, so that patterns around one
    operator do not overlap.
    """
    for node in list(model.graph.nodes):
        if op_name(node) not in DEQUANTIZE:
            continue
        for user in list(node.users)[1:]:
            with model.graph.inserting_after(node):
                clone = model.graph.node_copy(node, lambda argument: argument)
            user.replace_input_with(node, clone)
    model.recompile()


def remove_repeated_pairs(model: GraphModule) -> None:
    """Removes a quantize, dequantize pair after one with the same qparams: it changes nothing."""
    for node in list(model.graph.nodes):
        if op_name(node) != QUANTIZE[0]:
            continue
        before = node.args[0]
        if not isinstance(before, Node) or op_name(before) != DEQUANTIZE[0]:
            continue
        if before.args[1:] == node.args[1:] and not before.kwargs:
            node.replace_all_uses_with(before.args[0])
            model.graph.erase_node(node)
    model.recompile()


def fold_quantized_constants(model: GraphModule) -> None:
    """Replaces quantize operators of constants by their results, buffers ``_frozen_paramN``."""
    known: dict[Node, Node] = {}
    for node in list(model.graph.nodes):
        if op_name(node) not in QUANTIZE or not is_constant(node):
            continue
        value = constant_value(model, node)
        with model.graph.inserting_before(node):
            known[node] = add_constant(model, "_frozen_param", value, node)
        known[node].meta = {**node.meta, "val": known[node].meta.get("val")}
        node.replace_all_uses_with(known[node])
        model.graph.erase_node(node)
    model.recompile()
