"""Operators that give the same values before and after dequantizing, bit for bit.

They move or select elements, or clamp at a value of the grid. So they run on the integers, and the
result has the qparams of the input. Each is written as what :class:`octavo.QTensor` understands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from octavo.lowering.modules import Slice
from octavo.lowering.operators import Operator, words
from octavo.lowering.qparams import QParams
from octavo.nn.quantized.modules.pooling import MaxPool2d

__all__ = [
    "ALIASING",
    "MOVES",
    "POOL_WITH_INDICES",
    "clamp_bounds",
    "commutes",
    "form_of",
    "is_inference_dropout",
]

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""What to call: "method" and its name, "function" and it, or "module" and a module; arguments."""

ALIASING = words(
    "view reshape _unsafe_view flatten unflatten permute transpose t numpy_T squeeze unsqueeze "
    "expand slice select narrow split split_with_sizes chunk unbind detach alias contiguous "
    "dropout feature_dropout alpha_dropout to _to_copy getitem movedim swapaxes"
)
"""Operators whose results may share memory with their first argument."""

POOL_WITH_INDICES = "max_pool2d_with_indices"
"""It commutes where nothing reads the indices; in int8 its result is the values alone."""

MOVES = words(
    "view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze contiguous "
    "clone detach alias dropout"
)
"""Operators that keep every element, and may change the shape."""


def commutes(op: Operator, qparams: QParams) -> bool:
    """Whether the operator, which has `qparams` at its input, runs on the integers."""
    if op.namespace not in ("aten", "torch") or op.name not in _FORMS:
        return False
    test = _CONDITIONS.get(op.name)
    return test is None or test(op, qparams)


def form_of(op: Operator, q: Any, arguments: dict[str, Any]) -> Call:
    """The operator on the quantized tensor `q`.

    Args:
        arguments: those of `op` with new nodes in the place of old ones.
    """
    return _FORMS[op.name](q, arguments)


def _method(name: str, *keys: str) -> Callable[[Any, dict[str, Any]], Call]:
    """A method of the same meaning that takes these arguments."""

    def form(q: Any, arguments: dict[str, Any]) -> Call:
        given = tuple(arguments[key] for key in keys if key in arguments)
        return "method", name, (q, *given), {}

    return form


def _function(function: Any, *keys: str) -> Callable[[Any, dict[str, Any]], Call]:
    def form(q: Any, arguments: dict[str, Any]) -> Call:
        given = tuple(arguments[key] for key in keys if key in arguments)
        return "function", function, (q, *given), {}

    return form


def _shape(*keys: str) -> Callable[[Any, dict[str, Any]], Call]:
    """``reshape``: views of integers in channels-last order may have to copy, as those of floats in
    the graph did not."""

    def form(q: Any, arguments: dict[str, Any]) -> Call:
        shape = next(arguments[key] for key in keys if key in arguments)
        return "method", "reshape", (q, shape), {}

    return form


def _squeeze(q: Any, arguments: dict[str, Any]) -> Call:
    dim = arguments.get("dim")
    if isinstance(dim, (list, tuple)):
        dim = tuple(dim)
    return "method", "squeeze", (q,) if dim is None else (q, dim), {}


def _pool(q: Any, arguments: dict[str, Any]) -> Call:
    stride = arguments.get("stride") or arguments["kernel_size"]
    module = MaxPool2d(
        _unlisted(arguments["kernel_size"]),
        _unlisted(stride),
        _unlisted(arguments.get("padding", 0)),
        _unlisted(arguments.get("dilation", 1)),
        False,
        bool(arguments.get("ceil_mode", False)),
    )
    return "module", module, (q,), {}


def _pool_function(function: Any) -> Callable[[Any, dict[str, Any]], Call]:
    def form(q: Any, arguments: dict[str, Any]) -> Call:
        stride = arguments.get("stride") or arguments["kernel_size"]
        keys = {"padding": 0, "dilation": 1, "ceil_mode": False}
        options = {key: arguments.get(key, value) for key, value in keys.items()}
        return "function", function, (q, arguments["kernel_size"], stride), options

    return form


def _unlisted(value: Any) -> Any:
    """Lists of one or two equal or different numbers, as torch.nn.MaxPool2d has them."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(set(value)) == 1 else tuple(value)
    return value


def _clamp(q: Any, arguments: dict[str, Any]) -> Call:
    lo, hi = _bounds(arguments)
    return "function", torch.clamp, (q,), {"min": lo, "max": hi}


def _hardtanh(q: Any, arguments: dict[str, Any]) -> Call:
    lo, hi = arguments.get("min_val", -1.0), arguments.get("max_val", 1.0)
    return "function", F.hardtanh, (q, lo, hi), {}


def _bounds(arguments: dict[str, Any]) -> tuple[Any, Any]:
    lo = arguments.get("min", arguments.get("min_val"))
    return lo, arguments.get("max", arguments.get("max_val"))


def _pad(q: Any, arguments: dict[str, Any]) -> Call:
    value = arguments.get("value") or 0.0
    return "function", F.pad, (q, list(arguments["pad"]), "constant", float(value)), {}


def _nearest(q: Any, arguments: dict[str, Any]) -> Call:
    size = arguments.get("output_size", arguments.get("size"))
    factors = arguments.get("scale_factors")
    return "function", F.interpolate, (q,), {"size": size, "scale_factor": factors}


def _slice(q: Any, arguments: dict[str, Any]) -> Call:
    keys = ("start", "end", "step")
    return "module", Slice(arguments["dim"]), (q, *(arguments[key] for key in keys)), {}


# Conditions


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def clamp_bounds(op: Operator) -> tuple[float | None, float | None] | None:
    """The bounds of a clamp, ReLU included; None where it is no clamp between numbers."""
    if op.name == "relu":
        return 0.0, None
    if op.name == "relu6":
        return 0.0, 6.0
    if op.name == "hardtanh":
        bounds = op.get("min_val", -1.0), op.get("max_val", 1.0)
    elif op.name in ("clamp", "clamp_min", "clamp_max"):
        bounds = _bounds(op.arguments)
    else:
        return None
    numbers = all(bound is None or _is_number(bound) for bound in bounds)
    if not numbers or bounds == (None, None) or any(b is not None and b != b for b in bounds):
        return None
    return bounds


def _clamps_on_grid(op: Operator, qparams: QParams) -> bool:
    bounds = clamp_bounds(op)
    return bounds is not None and qparams.clamps_exactly(*bounds)


def is_inference_dropout(op: Operator) -> bool:
    """Whether it is dropout that drops nothing."""
    drops_nothing = op.get("train", True) is False or op.get("p") == 0
    return drops_nothing and op.name in ("dropout", "feature_dropout", "alpha_dropout")


def _inference(op: Operator, qparams: QParams) -> bool:
    return is_inference_dropout(op)


def _same_dtype(op: Operator, qparams: QParams) -> bool:
    dtype = op.get("dtype")
    elsewhere = ("device", "layout", "other")
    stays = all(op.get(name) is None for name in elsewhere)
    return stays and dtype in (None, torch.float32)


def _pads_with_grid(op: Operator, qparams: QParams) -> bool:
    value = op.get("value") or 0.0
    steps = value / qparams.scale
    return steps == round(steps) and qparams.lo <= round(steps) + qparams.zero_point <= qparams.hi


def _nearest_by_size(op: Operator, qparams: QParams) -> bool:
    size = op.get("output_size", op.get("size"))
    factors = op.get("scale_factors")
    return size is not None or (isinstance(factors, (list, tuple)) and op.overload == "vec")


def _plain_getitem(op: Operator, qparams: QParams) -> bool:
    return isinstance(op.get("index"), (int, slice, tuple))


def _given_shape(op: Operator, qparams: QParams) -> bool:
    return op.get("dtype") is None and op.overload != "dtype"


_FORMS: dict[str, Callable[[Any, dict[str, Any]], Call]] = {
    "view": _shape("size", "shape"),
    "reshape": _shape("shape", "size"),
    "_unsafe_view": _shape("size"),
    "flatten": _function(torch.flatten, "start_dim", "end_dim"),
    "unflatten": _method("unflatten", "dim", "sizes"),
    "permute": _method("permute", "dims"),
    "transpose": _method("transpose", "dim0", "dim1"),
    "t": _method("t"),
    "squeeze": _squeeze,
    "unsqueeze": _method("unsqueeze", "dim"),
    "expand": _method("expand", "size"),
    "repeat": _method("repeat", "repeats"),
    "slice": _slice,
    "select": _method("select", "dim", "index"),
    "narrow": _method("narrow", "dim", "start", "length"),
    "split": _method("split", "split_size", "dim"),
    "split_with_sizes": _method("split_with_sizes", "split_sizes", "dim"),
    "chunk": _method("chunk", "chunks", "dim"),
    "unbind": _method("unbind", "dim"),
    "getitem": _function(operator.getitem, "index"),
    "flip": _method("flip", "dims"),
    "roll": _method("roll", "shifts", "dims"),
    "index_select": _method("index_select", "dim", "index"),
    "pixel_shuffle": _function(F.pixel_shuffle, "upscale_factor"),
    "pixel_unshuffle": _function(F.pixel_unshuffle, "downscale_factor"),
    "channel_shuffle": _function(F.channel_shuffle, "groups"),
    "clone": lambda q, arguments: ("method", "clone", (q,), {}),
    "detach": _method("detach"),
    "alias": lambda q, arguments: ("same", None, (q,), {}),
    "lift_fresh_copy": lambda q, arguments: ("same", None, (q,), {}),
    "contiguous": lambda q, arguments: ("same", None, (q,), {}),
    "to": lambda q, arguments: ("same", None, (q,), {}),
    "_to_copy": lambda q, arguments: ("same", None, (q,), {}),
    "dropout": lambda q, arguments: ("same", None, (q,), {}),
    "feature_dropout": lambda q, arguments: ("same", None, (q,), {}),
    "relu": _function(torch.relu),
    "hardtanh": _hardtanh,
    "relu6": _function(F.relu6),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "max_pool1d": _pool_function(F.max_pool1d),
    "max_pool2d": _pool,
    POOL_WITH_INDICES: _pool,
    "max_pool3d": _pool_function(F.max_pool3d),
    "constant_pad_nd": _pad,
    "pad": _pad,
    "upsample_nearest1d": _nearest,
    "upsample_nearest2d": _nearest,
    "upsample_nearest3d": _nearest,
}

_CONDITIONS: dict[str, Callable[[Operator, QParams], bool]] = {
    "view": _given_shape,
    "hardtanh": _clamps_on_grid,
    "relu6": _clamps_on_grid,
    "clamp": _clamps_on_grid,
    "clamp_min": _clamps_on_grid,
    "clamp_max": _clamps_on_grid,
    "dropout": _inference,
    "feature_dropout": _inference,
    "to": _same_dtype,
    "_to_copy": _same_dtype,
    "constant_pad_nd": _pads_with_grid,
    "pad": lambda op, qparams: op.get("mode") == "constant" and _pads_with_grid(op, qparams),
    "upsample_nearest1d": _nearest_by_size,
    "upsample_nearest2d": _nearest_by_size,
    "upsample_nearest3d": _nearest_by_size,
    "getitem": _plain_getitem,
}
