"""QTensor operations that compute: clamps, padding, means, comparisons, order.

All work in integers or in the fixed float32 steps of the kernels, so they give the same bits
everywhere. They need per-tensor parameters unless the docstring says otherwise.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

from octavo import ops
from octavo._tensor.dispatch import calling_module, refuse, register
from octavo.dtypes import QDType, as_qdtype
from octavo.ops import direct
from octavo.ops._tracing import constant_result, is_dynamo_compiling
from octavo.tensor import QTensor

_PER_CHANNEL = (
    "It needs one scale for the whole tensor, and this one has a scale per channel; dequantize() "
    "first."
)
_EIGHT_BIT = "It needs 8-bit storage (octavo.quint8 or octavo.qint8); dequantize() first."


def need_per_tensor(name: str, q: Any, eight_bit: bool = False) -> None:
    """Refuse anything but a per-tensor QTensor (of 8 bits)."""
    if not isinstance(q, QTensor):
        refuse(name, [q], f"Its input must be a QTensor, not {type(q).__name__}.")
    if q._axis is not None:
        refuse(name, [q], _PER_CHANNEL)
    if eight_bit and q._qdtype.itemsize != 1:
        refuse(name, [q], _EIGHT_BIT)


# Clamps


def quantized_bound(q: QTensor, value: Any, argument: str) -> int:
    """The integer that stands for `value` under the parameters of `q`, rounded as values are.

    Raises:
        TypeError: `value` is not a number.
        ValueError: it is NaN.
    """
    if isinstance(value, torch.Tensor) or not isinstance(value, (int, float)):
        refuse("clamp", [q], f"{argument} must be a number, got {type(value).__name__}.")
    if math.isnan(value):
        raise ValueError(f"{argument}: expected a number, got NaN")
    return quantized_number(float(value), q._scale, q._zero_point, q._qdtype)


def quantized_number(value: float, scale: float, zero_point: int, qdtype: QDType) -> int:
    """One number as ops.quantize() rounds it."""
    return _quantized_number(value, scale, zero_point, qdtype.storage)


@constant_result
def _quantized_number(value: float, scale: float, zero_point: int, qdtype: torch.dtype) -> int:
    return _cached_number(value, scale, zero_point, qdtype)


@lru_cache(maxsize=256)
def _cached_number(value: float, scale: float, zero_point: int, qdtype: torch.dtype) -> int:
    with _disable_current_modes():  # of a graph that is being recorded
        return int(ops.quantize(torch.tensor([value]), scale, zero_point, as_qdtype(qdtype)))


def clamp_between(name: str, q: QTensor, lo: Any, hi: Any, inplace: bool) -> QTensor:
    """`q` with its values clamped to the grid points of `lo` and `hi`; None leaves that side
    open."""
    need_per_tensor(name, q)
    low = q._qdtype.qmin if lo is None else quantized_bound(q, lo, "min")
    high = q._qdtype.qmax if hi is None else quantized_bound(q, hi, "max")
    return _clamp_ints(q, min(low, high), high, inplace)


def _clamp_ints(q: QTensor, low: int, high: int, inplace: bool) -> QTensor:
    if inplace:
        q._int.clamp_(low, high)
        return q
    result: QTensor | None = None if is_dynamo_compiling() else direct.clamp(q, low, high)
    if result is not None:
        return result
    if q._qdtype.itemsize != 1:
        return q._with_int(q._int.clamp(low, high))
    return q._with_int(ops.clamp(q._int, low, high))


@register("relu")
def relu(q: QTensor, inplace: bool = False) -> QTensor:
    """max(q, zero point)."""
    if not inplace and q._axis is None and not is_dynamo_compiling():
        result: QTensor | None = direct.clamp(q, q._zero_point, q._qdtype.qmax)
        if result is not None:
            return result
    need_per_tensor("relu", q)
    return _clamp_ints(q, q._zero_point, q._qdtype.qmax, inplace)


@register("relu_")
def relu_(q: QTensor) -> QTensor:
    return relu(q, True)


@register("relu6")
def relu6(q: QTensor, inplace: bool = False) -> QTensor:
    return clamp_between("relu6", q, 0.0, 6.0, inplace)


@register("hardtanh")
def hardtanh(
    q: QTensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> QTensor:
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    return clamp_between("hardtanh", q, min_val, max_val, inplace)


@register("hardtanh_")
def hardtanh_(q: QTensor, min_val: float = -1.0, max_val: float = 1.0) -> QTensor:
    return hardtanh(q, min_val, max_val, True)


@register("clamp", "clip")
def clamp(q: QTensor, min: Any = None, max: Any = None) -> QTensor:
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    return clamp_between("clamp", q, min, max, False)


@register("clamp_", "clip_")
def clamp_(q: QTensor, min: Any = None, max: Any = None) -> QTensor:
    if min is None and max is None:
        raise ValueError("clamp_: at least one of min and max must be given")
    return clamp_between("clamp_", q, min, max, True)


@register("clamp_min")
def clamp_min(q: QTensor, min: Any) -> QTensor:
    return clamp_between("clamp_min", q, min, None, False)


@register("clamp_max")
def clamp_max(q: QTensor, max: Any) -> QTensor:
    return clamp_between("clamp_max", q, None, max, False)


# Padding


@register("pad")
def pad(q: QTensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> QTensor:
    """torch.nn.functional.pad; a constant is rounded to the grid of `q`."""
    need_per_tensor("pad", q)
    if mode == "constant":
        fill = q._zero_point if value is None else quantized_bound(q, value, "value")
        return q._with_int(F.pad(q._int, pad, mode, fill))
    # The other modes copy elements, and float64 holds every integer exactly.
    return q._with_int(F.pad(q._int.double(), pad, mode).to(q._int.dtype))


@register(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"
)
def dropout(
    q: QTensor, p: float = 0.5, training: bool = True, inplace: bool = False, **kwargs: Any
) -> QTensor:
    """The identity, as in inference; in training mode it is refused. Per-channel tensors are
    accepted."""
    if kwargs.get("train", training):
        refuse("dropout", [q], "Dropout in training mode has no quantized form; call model.eval().")
    return q


# Reductions


# By rank: the mean over all but the first two dimensions.
_SPATIAL_MEAN = {
    3: ops.adaptive_avg_pool1d,
    4: ops.adaptive_avg_pool2d,
    5: ops.adaptive_avg_pool3d,
}


@register("mean")
def mean(
    q: QTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, **kwargs: Any
) -> QTensor:
    """Mean with the parameters of the input: `zero_point + round_half_even(float(sum) * (1 /
    count))`.

    The sum of (integer - zero point) is exact; conversion and product are float32, as in
    avg_pool2d.
    """
    if dtype is None and not kwargs and not is_dynamo_compiling():
        result: QTensor | None = direct.spatial_mean(q, dim, keepdim)
        if result is not None:
            return result
    need_per_tensor("mean", q)
    if dtype is not None and dtype != q._qdtype:
        refuse("mean", [q], f"The result stays {q._qdtype}; dequantize() it for {dtype}.")
    keepdim = bool(kwargs.get("keepdims", keepdim))
    dims = _reduced_dims(q, kwargs.get("axis", dim))
    count = math.prod([q._int.shape[d] for d in dims])
    if count == 0 and all(n for d, n in enumerate(q._int.shape) if d not in dims):
        raise ValueError(
            f"{calling_module()}mean of no elements: shape {list(q._int.shape)}, dim {dims}"
        )
    rank, narrow = q._int.dim(), q._qdtype.itemsize == 1
    if narrow and rank in _SPATIAL_MEAN and dims == list(range(2, rank)) and q._int.numel():
        pooled = _SPATIAL_MEAN[rank](q._int, q._zero_point, 1)
        return q._with_int(pooled if keepdim else pooled.flatten(1))
    total = q._int.sum(dims, keepdim=keepdim, dtype=torch.int64) - q._zero_point * count
    reciprocal = torch.tensor(1.0) / torch.tensor(float(max(count, 1)))
    rounded = torch.round(total.float() * reciprocal).to(torch.int64) + q._zero_point
    return q._with_int(rounded.clamp_(q._qdtype.qmin, q._qdtype.qmax).to(q._int.dtype))


def _reduced_dims(q: QTensor, dim: Any) -> list[int]:
    rank = q._int.dim()
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(rank))
    wanted = [operator.index(d) for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
    for d in wanted:
        if not -max(rank, 1) <= d < max(rank, 1):
            raise IndexError(f"mean: dim {d} is out of range for shape {list(q._int.shape)}")
    dims = sorted(d % max(rank, 1) for d in wanted)
    if len(set(dims)) != len(dims):
        raise ValueError(f"mean: dim {dim} names one dimension twice")
    return dims[:rank]


def _ordered(name: str) -> None:
    """Order operations that return values, or values and indices: a positive scale keeps the
    order."""

    def handler(q: Any, *args: Any, **kwargs: Any) -> Any:
        need_per_tensor(name, q)
        if any(isinstance(a, torch.Tensor) for a in (*args, *kwargs.values())):
            refuse(name, [q], "Between two tensors it needs a common scale; dequantize() both.")
        out = getattr(torch, name)(q._int, *args, **kwargs)
        if isinstance(out, torch.Tensor):
            return q._with_int(out)
        values, indices = out
        return type(out)((q._with_int(values), indices))

    register(name)(handler)


for _name in ("max", "min", "amax", "amin", "sort", "topk", "median", "kthvalue"):
    _ordered(_name)


def _index_of(name: str) -> None:
    def handler(q: Any, *args: Any, **kwargs: Any) -> Any:
        need_per_tensor(name, q)
        return getattr(torch, name)(q._int, *args, **kwargs)

    register(name)(handler)


for _name in ("argmax", "argmin", "argsort"):
    _index_of(_name)


# Comparison


def values_of(x: Any) -> Any:
    return x.dequantize() if isinstance(x, QTensor) else x


def _comparison(names: str, compare: Callable[[Any, Any], Any]) -> None:
    """Compare values elementwise, with a QTensor, a float tensor or a number, per channel or
    not."""

    def handler(a: Any, b: Any) -> Any:
        return compare(values_of(a), values_of(b))

    register(*names.split())(handler)


_comparison("eq __eq__", operator.eq)
_comparison("ne __ne__ not_equal", operator.ne)
_comparison("lt __lt__ less", operator.lt)
_comparison("le __le__ less_equal", operator.le)
_comparison("gt __gt__ greater", operator.gt)
_comparison("ge __ge__ greater_equal", operator.ge)


def same_qparams(a: QTensor, b: QTensor) -> bool:
    """Whether equal integers of the two mean equal values: same dtype, parameters and axis."""
    if a._qdtype is not b._qdtype or a._axis != b._axis:
        return False
    if a._axis is None:
        return a._scale == b._scale and a._zero_point == b._zero_point
    return torch.equal(a._scales, b._scales) and torch.equal(a._zero_points, b._zero_points)


@register("equal")
def equal(a: Any, b: Any) -> bool:
    """Same parameters, shape and integers. False between a quantized and a plain tensor, as in
    torch."""
    if not (isinstance(a, QTensor) and isinstance(b, QTensor)):
        return False
    return same_qparams(a, b) and torch.equal(a._int, b._int)


@register("__contains__")
def contains(q: Any, element: Any) -> bool:
    if not isinstance(q, QTensor):
        refuse("__contains__", [q, element])
    return bool((q.dequantize() == values_of(element)).any())
