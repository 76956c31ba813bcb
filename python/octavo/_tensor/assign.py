"""QTensor operations that combine tensors of different parameters: joining and assignment.

Values go from one grid to another with the exact requantization of the kernels, never by copying
integers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from octavo import ops
from octavo._tensor.compute import need_per_tensor, quantized_bound, same_qparams
from octavo._tensor.dispatch import refuse, register
from octavo.dtypes import per_tensor_affine
from octavo.ops import direct
from octavo.ops._tracing import is_dynamo_compiling
from octavo.tensor import QTensor

# Joining


@register("cat", "concat", "concatenate")
def cat(tensors: Sequence[Any], dim: Any = 0, **kwargs: Any) -> QTensor:
    """Concatenate; the result has the parameters of the first tensor, to which others are
    requantized."""
    parts = list(tensors)
    q = parts[0] if parts else None
    if (
        not kwargs
        and isinstance(q, QTensor)
        and q._qscheme is per_tensor_affine
        and not is_dynamo_compiling()
    ):
        result: QTensor | None = direct.cat(parts, dim, q._scale, q._zero_point, q._qdtype)
        if result is not None:
            return result
    dim = operator.index(kwargs.get("axis", dim))
    first = _check_parts("cat", parts)
    alike = all(same_qparams(first, q) for q in parts)
    if alike and (first._axis is not None or first._qdtype.itemsize != 1):
        return first._with_int(torch.cat([q._int for q in parts], dim))
    if first._qdtype.itemsize != 1:
        return first._with_int(
            torch.cat([first._int, *(_ints_for(first, q) for q in parts[1:])], dim)
        )
    qparams = [(q._scale, q._zero_point) for q in parts]
    ints = ops.cat([q._int for q in parts], qparams, dim, first._scale, first._zero_point)
    return first._with_int(ints)


@register("stack")
def stack(tensors: Sequence[Any], dim: int = 0) -> QTensor:
    """Stack; parameters as in `cat`."""
    parts = list(tensors)
    first = _check_parts("stack", parts)
    for q in parts:
        if q._int.shape != first._int.shape:
            raise ValueError(
                f"stack: shapes differ, {list(first._int.shape)} and {list(q._int.shape)}"
            )
    return cat([q._with_int(q._int.unsqueeze(dim)) for q in parts], dim)


def _check_parts(name: str, parts: list[Any]) -> QTensor:
    if not parts:
        raise ValueError(f"{name}: expected at least one tensor")
    for q in parts:
        if not isinstance(q, QTensor):
            refuse(name, parts, "All tensors must be quantized; quantize the others (QuantStub).")
        need_per_tensor(name, q)
        if q._qdtype is not parts[0]._qdtype:
            refuse(name, [q], f"The first tensor is {parts[0]._qdtype}; all must be.")
    first: QTensor = parts[0]
    return first


# Assignment


def _ints_for(target: QTensor, value: Any) -> torch.Tensor:
    """Integers under the parameters of `target` for a QTensor, a float32 tensor or a number.

    The result broadcasts to the shape of `target`.
    """
    if isinstance(value, QTensor):
        if same_qparams(target, value):
            return value._int
        eight_bit = target._qdtype.itemsize == value._qdtype.itemsize == 1
        if target._axis is None and value._axis is None and eight_bit:
            return ops.requantize(
                value._int,
                value._scale,
                value._zero_point,
                target._scale,
                target._zero_point,
                target._qdtype,
            )
        value = value.dequantize()
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(float(value))
    if value.dtype != torch.float32:
        refuse("copy_", [target], f"It takes float32 values, got {value.dtype}; use .float().")
    if target._axis is None:
        return ops.quantize(value, target._scale, target._zero_point, target._qdtype)
    return ops.quantize_per_channel(
        value.expand(target._int.shape),
        target._scales,
        target._zero_points,
        target._axis,
        target._qdtype,
    )


@register("copy_")
def copy_(q: Any, source: Any, non_blocking: bool = False) -> QTensor:
    """Copy in place. Float values are quantized with the parameters of `q`.

    A QTensor of the same dtype and other parameters brings those along, as in torch. `q` then takes
    new storage, since tensors that share the old one keep their parameters; so `q` must not itself
    be a view.

    Raises:
        TypeError: `q` is a plain tensor, or the dtypes differ.
        RuntimeError: the parameters differ and `q` is a view, or shapes do not fit.
    """
    if not isinstance(q, QTensor):
        refuse("copy_", [source], "Its target is not quantized; copy source.dequantize() instead.")
    if isinstance(source, QTensor) and not same_qparams(q, source):
        if source._qdtype is not q._qdtype:
            refuse("copy_", [source], f"Its target is {q._qdtype}; quantize the values again.")
        if _may_be_view(q._int) or source._int.shape != q._int.shape:
            raise RuntimeError(
                "copy_: source has other quantization parameters than this view or broadcast "
                "target; assign with q[...] = source to requantize"
            )
        _become(q, source)
        return q
    q._int.copy_(_ints_for(q, source))
    return q


def _may_be_view(ints: torch.Tensor) -> bool:
    """Inference tensors do not record what they are views of."""
    return ints._is_view() or ints.is_inference()


def _become(q: QTensor, source: QTensor) -> None:
    """Give `q` the values and parameters of `source`, in storage and strides of its own."""
    q._int = torch.empty_like(q._int).copy_(source._int)
    q._axis, q._qscheme = source._axis, source._qscheme
    if source._axis is None:
        q._scale, q._zero_point = source._scale, source._zero_point
    else:
        q._scales, q._zero_points = source._scales, source._zero_points


@register("__setitem__")
def setitem(q: Any, index: Any, value: Any) -> None:
    """Assign a number, float32 values or a QTensor; whatever it is, `q` keeps its parameters."""
    if not isinstance(q, QTensor):
        refuse(
            "__setitem__", [index, value], "The assigned tensor is plain: dequantize() the value."
        )
    selected: Any = q[index]
    q._int[index] = _ints_for(selected, value)


@register("fill_")
def fill_(q: QTensor, value: Any) -> QTensor:
    """Fill with a number, rounded to the grid (of each channel)."""
    q._int.copy_(_ints_for(q, float(value)))
    return q


@register("zero_")
def zero_(q: QTensor) -> QTensor:
    return fill_(q, 0.0)


@register("masked_fill_")
def masked_fill_(q: QTensor, mask: torch.Tensor, value: Any) -> QTensor:
    need_per_tensor("masked_fill_", q)
    q._int.masked_fill_(mask, quantized_bound(q, float(value), "value"))
    return q


@register("masked_fill")
def masked_fill(q: QTensor, mask: torch.Tensor, value: Any) -> QTensor:
    need_per_tensor("masked_fill", q)
    return q._with_int(q._int.masked_fill(mask, quantized_bound(q, float(value), "value")))
