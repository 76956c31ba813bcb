"""Scaled dot-product attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from octavo import _C
from octavo.dtypes import QDType
from octavo.ops._common import EIGHT_BIT, check_storage
from octavo.ops._tracing import record, tracing

__all__ = ["attention", "attention_refusal", "attention_shape"]

_Head = tuple[int, bool, float, int, int, int, int]


def attention(
    q: Tensor,
    q_scale: float,
    q_zero_point: int,
    k: Tensor,
    k_scale: float,
    k_zero_point: int,
    v: Tensor,
    v_scale: float,
    v_zero_point: int,
    out_scale: float,
    out_zero_point: int,
    out_dtype: QDType,
    scale: float | None = None,
    heads: int | None = None,
) -> Tensor:
    """``softmax(scale * q k^T) v``, whose sums are exact integers.

    With ``s[i, j]`` the sum of ``(q[i] - q_zero_point) * k[j]``, a weight is ``w[i, j] =
    round_half_even(exp((s[i, j] - max(s[i])) * c) * 65535)``, c being the float32 product of scale,
    q_scale and k_scale, and exp a polynomial in float32. The result is ``out_zero_point +
    round_half_even(a * float32(v_scale / out_scale / b) + shift)``, saturated, where a and b are
    the exact sums of ``w * v`` and of w, and shift is what the zero point of v comes to; in
    float32, each operation rounded. (a is the float32 sum of what upper and lower bytes of w give.)

    Args:
        q: uint8 or int8 ``[..., queries, size]``; with ``heads``, ``[batch, queries, heads *
            size]``.
        k: ``[..., keys, size]``, or as q; its leading dimensions are those of q.
        v: ``[..., keys, value_size]``, or as q.
        scale: 1 / sqrt(size) where None.
        heads: how many heads lie side by side in a token; None where they are a dimension of their
            own, or there is one.

    Returns:
        ``[..., queries, value_size]``, or as q, of ``out_dtype``'s storage. Four dimensions without
        ``heads`` are laid out as (batch, queries, heads, value_size), as torch does.

    Raises:
        TypeError: a tensor or ``out_dtype`` that is not 8-bit.
        ValueError: shapes that do not match; qparams out of range; a scale that is not positive;
            no keys or more than 32768, size 0 or more than 8192.
    """
    if tracing(q):
        inputs = (q, q_scale, q_zero_point, k, k_scale, k_zero_point, v, v_scale, v_zero_point)
        output = (out_scale, out_zero_point, out_dtype.storage)
        return record("attention", *inputs, *output, scale, heads)
    for name, x in (("query", q), ("key", k), ("value", v)):
        check_storage(f"attention: {name}", x, EIGHT_BIT)
    if out_dtype.storage not in EIGHT_BIT:
        raise TypeError(f"attention: the output must be quint8 or qint8, got {out_dtype}")
    shape = attention_shape(q, k, v, heads)
    queries, keys, values = (_four(x, heads) for x in (q, k, v))
    batch, count, rows, size = queries.shape
    out = torch.empty(
        (batch, rows, count, values.shape[3]), dtype=out_dtype.storage, device="cpu"
    ).transpose(1, 2)
    _C.attention(
        (batch, count, rows, keys.shape[2], size, values.shape[3]),
        _head(queries, q_scale, q_zero_point),
        _head(keys, k_scale, k_zero_point),
        _head(values, v_scale, v_zero_point),
        1.0 / math.sqrt(max(size, 1)) if scale is None else scale,
        _head(out, out_scale, out_zero_point),
    )
    if heads is not None:
        return out.transpose(1, 2).reshape(shape)
    return out if len(shape) == 4 else out.reshape(shape)


def attention_refusal(
    attn_mask: object = None,
    dropout_p: object = 0.0,
    is_causal: object = False,
    scale: object = None,
    enable_gqa: object = False,
) -> str:
    """Why :func:`attention` does not compute ``torch.nn.functional.scaled_dot_product_attention``
    with these options, which a graph may hold as nodes; "" where it does.
    """
    if attn_mask is not None or is_causal is not False:
        return "its scores are masked"
    if dropout_p != 0.0:
        return "it drops some of its weights"
    if enable_gqa is not False:
        return "heads of its query share keys"
    if scale is not None and not (isinstance(scale, (int, float)) and scale > 0):
        return f"its scale {scale} is no positive number"
    return ""


def attention_shape(q: Tensor, k: Tensor, v: Tensor, heads: int | None) -> tuple[int, ...]:
    """The shape of the result. ValueError where the inputs' do not match."""
    shapes = [tuple(x.shape) for x in (q, k, v)]
    least = 2 if heads is None else 3
    same_rank = len({len(shape) for shape in shapes}) == 1 and len(shapes[0]) >= least
    if heads is not None and (heads < 1 or len(shapes[0]) != 3):
        same_rank = False
    if not same_rank:
        wanted = "at least 2 dimensions, the same number" if heads is None else "3 dimensions"
        raise ValueError(
            f"attention: query, key and value need {wanted}, and heads at least 1; got shapes "
            f"{[list(shape) for shape in shapes]} and heads={heads}"
        )
    leading = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if not (leading and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]):
        raise ValueError(
            "attention: query [..., queries, size], key [..., keys, size] and value [..., keys, "
            f"value size] do not match; got {[list(shape) for shape in shapes]}"
        )
    if heads is not None and (q.shape[-1] % heads or v.shape[-1] % heads):
        raise ValueError(
            f"attention: {heads} heads do not divide {q.shape[-1]} and {v.shape[-1]} features"
        )
    return (*q.shape[:-1], v.shape[-1])


def _four(x: Tensor, heads: int | None) -> Tensor:
    """``[batch, heads, tokens, size]``, elements of a token one behind another."""
    if heads is not None:
        x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
    elif x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.dim() != 4:
        x = x.reshape(-1, 1, *x.shape[-2:])
    x = x.resolve_neg()
    return x if x.stride(3) == 1 or x.shape[3] <= 1 else x.contiguous()


def _head(x: Tensor, scale: float, zero_point: int) -> _Head:
    batch, head, token, _ = x.stride()
    return (x.data_ptr(), x.dtype == torch.int8, scale, zero_point, batch, head, token)
