"""Unary functions of QTensor by table look-up, and softmax.

The functions whose range is known have fixed output parameters, as in torch: sigmoid, hardsigmoid
and softmax [0, 1] with scale 1/256, tanh [-1, 1] with scale 2/256. gelu, leaky_relu and threshold
keep those of the input. They need 8-bit storage with one scale.
"""

from __future__ import annotations

from typing import Any

import torch

from octavo import ops
from octavo._tensor.compute import need_per_tensor
from octavo._tensor.dispatch import refuse, register
from octavo.dtypes import QDType
from octavo.ops import direct
from octavo.ops._tracing import tracing
from octavo.tensor import QTensor


def unary_direct(
    name: str,
    q: QTensor,
    scale: float,
    zero_point: int,
    qdtype: QDType,
    parameters: tuple[float, ...],
) -> QTensor | None:
    """:func:`apply_unary` of an 8-bit tensor with one scale, or None as in
    :mod:`octavo.ops.direct`."""
    if tracing(q._int):
        return None
    table = ops.unary_table(
        name,
        parameters,
        q._scale,
        q._zero_point,
        q._qdtype.signed,
        scale,
        zero_point,
        qdtype.signed,
    )
    quick: QTensor | None = direct.lookup(q, table, scale, zero_point, qdtype)
    return quick


def apply_unary(
    name: str,
    q: QTensor,
    scale: float,
    zero_point: int,
    qdtype: QDType,
    parameters: tuple[float, ...] = (),
) -> QTensor:
    """The function ``name`` of :func:`octavo.ops.unary` with these output parameters."""
    need_per_tensor(name, q, eight_bit=True)
    quick = unary_direct(name, q, scale, zero_point, qdtype, parameters)
    if quick is not None:
        return quick
    out = ops.unary(name, q._int, q._scale, q._zero_point, scale, zero_point, qdtype, parameters)
    return QTensor._wrap(out, scale, zero_point, qdtype)


def keep_qparams(
    name: str, q: QTensor, parameters: tuple[float, ...] = (), inplace: bool = False
) -> QTensor:
    """The function ``name`` with the parameters of the input."""
    need_per_tensor(name, q, eight_bit=True)
    if inplace:
        ops.unary_(name, q._int, q._scale, q._zero_point, parameters)
        return q
    return apply_unary(name, q, q._scale, q._zero_point, q._qdtype, parameters)


def unit_qparams(q: QTensor) -> tuple[float, int, QDType]:
    """Of values in [0, 1]."""
    return 1.0 / 256, q._qdtype.qmin, q._qdtype


@register("sigmoid")
def sigmoid(q: QTensor) -> QTensor:
    need_per_tensor("sigmoid", q, eight_bit=True)
    return apply_unary("sigmoid", q, *unit_qparams(q))


@register("tanh")
def tanh(q: QTensor) -> QTensor:
    need_per_tensor("tanh", q, eight_bit=True)
    return apply_unary("tanh", q, 2.0 / 256, q._qdtype.qmin + 128, q._qdtype)


@register("hardsigmoid")
def hardsigmoid(q: QTensor, inplace: bool = False) -> QTensor:
    """In place the result has the parameters of the input."""
    need_per_tensor("hardsigmoid", q, eight_bit=True)
    if inplace:
        return keep_qparams("hardsigmoid", q, inplace=True)
    return apply_unary("hardsigmoid", q, *unit_qparams(q))


@register("leaky_relu")
def leaky_relu(q: QTensor, negative_slope: float = 0.01, inplace: bool = False) -> QTensor:
    return keep_qparams("leaky_relu", q, (float(negative_slope),), inplace)


@register("threshold")
def threshold(q: QTensor, threshold: float, value: float, inplace: bool = False) -> QTensor:
    return keep_qparams("threshold", q, (float(threshold), float(value)), inplace)


@register("gelu")
def gelu(q: QTensor, approximate: str = "none") -> QTensor:
    return keep_qparams(gelu_name(approximate), q)


def gelu_name(approximate: str) -> str:
    """The name that :func:`octavo.ops.unary` knows a form of GELU by."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh"


@register("softmax")
def softmax(q: QTensor, dim: Any = None, *args: Any, dtype: Any = None, **kwargs: Any) -> QTensor:
    """Softmax along ``dim``, which must be given, with scale 1/256."""
    need_per_tensor("softmax", q, eight_bit=True)
    for wanted in (dtype, *args):
        if isinstance(wanted, (torch.dtype, QDType)):
            refuse("softmax", [q], f"The result stays {q._qdtype}; dequantize() it for {wanted}.")
    if dim is None:
        raise ValueError("softmax: dim must be given")
    scale, zero_point, qdtype = unit_qparams(q)
    if not tracing(q._int):
        table = ops.softmax_table(q._scale)
        quick: QTensor | None = direct.softmax(q, dim, table, scale, zero_point, qdtype)
        if quick is not None:
            return quick
    out = ops.softmax(q._int, q._scale, q._zero_point, dim, scale, zero_point, qdtype)
    return QTensor._wrap(out, scale, zero_point, qdtype)
