"""The arithmetic that Octavo promises, in plain NumPy: what every layer must equal, to the bit.

Integers are int64 here, so nothing can overflow; every float operation is one float32 operation, in
the order that the numerics promise names. Arrays are plain; a quantized tensor is (array, scale,
zero point).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
f32 = np.float32

RANGES = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


@dataclass(frozen=True)
class Q:
    """A quantized tensor: uint8 or int8 array (or int32), scale and zero point."""

    array: Array
    scale: float
    zero: int

    @property
    def steps(self) -> Array:
        """Distance from the zero point, int64."""
        return self.array.astype(np.int64) - self.zero


def clamp_round(x: Array, zero: int, lo: int, hi: int, dtype: Any) -> Array:
    """``clamp(zero + round_half_even(x), lo, hi)`` of float32 ``x``; NaN becomes the lower
    bound.
    """
    assert x.dtype == np.float32
    low, high = f32(lo - zero), f32(hi - zero)
    clamped = np.where(x > low, x, low)
    clamped = np.where(clamped < high, clamped, high)
    return (np.rint(clamped).astype(np.int64) + zero).astype(dtype)


def quantize(
    x: Array, scale: float, zero: int, dtype: Any, lo: int | None = None, hi: int | None = None
) -> Array:
    """float32 to integers; +-Inf saturates and NaN becomes the zero point."""
    assert x.dtype == np.float32
    info = np.iinfo(dtype)
    lo, hi = info.min if lo is None else lo, info.max if hi is None else hi
    with np.errstate(all="ignore"):
        scaled = x * (f32(1.0) / f32(scale))
    scaled = np.where(np.isnan(scaled), f32(0), scaled).astype(np.float64)
    return (np.clip(np.rint(scaled) + zero, lo, hi)).astype(dtype)


def quantize_per_channel(
    x: Array, scales: Array, zeros: Array, axis: int, dtype: Any, **bounds: int
) -> Array:
    parts = np.moveaxis(x, axis, 0)
    out = [
        quantize(part, float(s), int(z), dtype, **bounds)
        for part, s, z in zip(parts, scales, zeros, strict=True)
    ]
    return np.moveaxis(np.stack(out), 0, axis)


def dequantize(q: Q) -> Array:
    return q.steps.astype(f32) * f32(q.scale)


def requantize_accumulator(
    acc: Array,
    bias: Array | None,
    x_scale: float,
    w_scales: Array,
    out: Q,
    relu: bool = False,
    residual: Q | None = None,
) -> Array:
    """int64 sums [channels, ...] to the dtype of ``out.array``, with its scale and zero point.

    With p = sx * sw: ``clamp(zero + rne((float(acc) + bias / p) * (p / sy) + residual * sr / sy))``
    """
    assert np.abs(acc, dtype=np.int64).max(initial=0) < 2**31, "int32 would overflow"
    shape = (-1,) + (1,) * (acc.ndim - 1)
    product = (f32(x_scale) * np.broadcast_to(w_scales.astype(f32), acc.shape[:1])).reshape(shape)
    multiplier = product / f32(out.scale)
    x = acc.astype(np.int32).astype(f32)
    if bias is not None:
        x = x + bias.astype(f32).reshape(shape) / product
    x = x * multiplier
    if residual is not None:
        x = x + residual.steps.astype(f32) * (f32(residual.scale) / f32(out.scale))
    lo, hi = RANGES[out.array.dtype]
    return clamp_round(x, out.zero, out.zero if relu else lo, hi, out.array.dtype)


def linear(
    x: Q, w: Array, w_scales: Array, w_zeros: Array, bias: Array | None, out: Q, **kw: Any
) -> Array:
    """x [*, K], w int8 [N, K]; w_scales and w_zeros have 1 or N elements; ``out.array`` gives the
    dtype.
    """
    weight = w.astype(np.int64) - np.broadcast_to(w_zeros.astype(np.int64), w.shape[:1])[:, None]
    acc = weight @ x.steps.reshape(-1, w.shape[1]).T
    result = requantize_accumulator(acc, bias, x.scale, w_scales, out, **kw)
    return np.ascontiguousarray(result.T).reshape(*x.array.shape[:-1], w.shape[0])


def conv_accumulator(
    x: Array,
    w: Array,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """Exact cross-correlation of int64 x [N, C, sizes] and w [O, C / groups, kernel sizes]; padding
    is zero.
    """
    n, channels, *size = x.shape
    outputs, per_group, *kernel = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    out_size = [
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    acc = np.zeros((n, outputs, *out_size), np.int64)
    each = outputs // groups
    for g, tap in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(
            slice(t * d, t * d + s * (o - 1) + 1, s)
            for t, d, s, o in zip(tap, dilation, stride, out_size, strict=True)
        )
        taken = padded[(slice(None), slice(g * per_group, (g + 1) * per_group), *window)]
        rows = slice(g * each, (g + 1) * each)
        acc[:, rows] += np.einsum("nc...,oc->no...", taken, w[(rows, slice(None), *tap)])
    assert channels == per_group * groups
    return acc


def conv(
    x: Q,
    w: Array,
    w_scales: Array,
    w_zeros: Array,
    bias: Array | None,
    out: Q,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    relu: bool = False,
    residual: Q | None = None,
    clamp: tuple[float, float] | None = None,
) -> Array:
    """x [N, C, sizes] of any rank; result [N, O, sizes']. A residual has the shape of the result.

    A clamp's bounds are quantized as values are.
    """
    rank = w.ndim - 2
    zeros = np.broadcast_to(w_zeros.astype(np.int64), w.shape[:1]).reshape(-1, *(1,) * (rank + 1))
    acc = conv_accumulator(
        x.steps,
        w.astype(np.int64) - zeros,
        stride or (1,) * rank,
        padding or (0,) * rank,
        dilation or (1,) * rank,
        groups,
    )
    if residual is not None:
        residual = Q(residual.array.swapaxes(0, 1), residual.scale, residual.zero)
    acc = acc.swapaxes(0, 1)
    result = requantize_accumulator(acc, bias, x.scale, w_scales, out, relu, residual)
    if clamp is not None:
        low, high = quantize(np.array(clamp, f32), out.scale, out.zero, out.array.dtype)
        result = np.minimum(np.maximum(result, low), high)
    return np.ascontiguousarray(result.swapaxes(0, 1))


conv2d = conv


def conv_transpose(
    x: Q,
    w: Array,
    w_scales: Array,
    w_zeros: Array,
    bias: Array | None,
    out: Q,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    relu: bool = False,
) -> Array:
    """x [N, C, sizes] of any rank, w int8 [C, O / groups, kernel sizes]; w_scales and w_zeros have
    1 or O / groups elements. Every input is scattered, and what lies outside the result cut off.
    """
    inputs, per_group, *kernel = w.shape
    rank, each = len(kernel), inputs // groups
    zeros = np.broadcast_to(w_zeros.astype(np.int64), per_group).reshape(1, -1, *(1,) * rank)
    weight = w.astype(np.int64) - zeros
    size = x.array.shape[2:]
    dims = list(zip(size, stride, dilation, kernel, strict=True))
    # The result before the padding is cut off, with room for whatever is cut out of it.
    whole = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in dims]
    room = [length + extra for length, extra in zip(whole, output_padding, strict=True)]
    acc = np.zeros((x.array.shape[0], groups * per_group, *room), np.int64)
    for g, tap in itertools.product(range(groups), np.ndindex(*kernel)):
        to = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, (n, s, d, _) in zip(tap, dims, strict=True)
        )
        rows = slice(g * each, (g + 1) * each)
        product = np.einsum("nc...,co->no...", x.steps[:, rows], weight[(rows, slice(None), *tap)])
        acc[(slice(None), slice(g * per_group, (g + 1) * per_group), *to)] += product
    cut = tuple(slice(p, length - p) for p, length in zip(padding, room, strict=True))
    acc = acc[(slice(None), slice(None), *cut)].swapaxes(0, 1)
    scales = w_scales if w_scales.size == 1 else np.tile(w_scales, groups)
    result = requantize_accumulator(acc, bias, x.scale, scales, out, relu)
    return np.ascontiguousarray(result.swapaxes(0, 1))


def _pointwise(x: Array, out: Q, relu: bool) -> Array:
    lo, hi = RANGES[out.array.dtype]
    return clamp_round(x, out.zero, out.zero if relu else lo, hi, out.array.dtype)


def add(a: Q, b: Q, out: Q, relu: bool = False) -> Array:
    a_term = a.steps.astype(f32) * (f32(a.scale) / f32(out.scale))
    b_term = b.steps.astype(f32) * (f32(b.scale) / f32(out.scale))
    return _pointwise(a_term + b_term, out, relu)


def mul(a: Q, b: Q, out: Q, relu: bool = False) -> Array:
    product = (a.steps * b.steps).astype(f32)
    return _pointwise(product * ((f32(a.scale) * f32(b.scale)) / f32(out.scale)), out, relu)


def requantize(q: Q, out: Q, lo: int | None = None, hi: int | None = None) -> Array:
    bounds = RANGES[out.array.dtype]
    x = q.steps.astype(f32) * (f32(q.scale) / f32(out.scale))
    return clamp_round(
        x,
        out.zero,
        bounds[0] if lo is None else lo,
        bounds[1] if hi is None else hi,
        out.array.dtype,
    )


def cat(tensors: Sequence[Q], dim: int, out: Q) -> Array:
    return np.concatenate([requantize(q, out) for q in tensors], axis=dim)


def matmul(a: Q, b: Q, out: Q) -> Array:
    acc = np.matmul(a.steps, b.steps)
    assert np.abs(acc).max(initial=0) < 2**31
    multiplier = (f32(a.scale) * f32(b.scale)) / f32(out.scale)
    return _pointwise(acc.astype(np.int32).astype(f32) * multiplier, out, False)


def pool_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Output size of a pooling window; with ceil_mode the last window starts inside the input or
    the left padding.
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def max_pool2d(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    """x [N, C, H, W]; padding never wins."""
    sizes = [
        pool_size(x.shape[2 + d], kernel[d], stride[d], padding[d], dilation[d], ceil_mode)
        for d in range(2)
    ]
    out = np.empty((*x.shape[:2], *sizes), x.dtype)
    for i, j in np.ndindex(*sizes):
        rows, cols = (
            [
                p
                for t in range(kernel[d])
                if 0 <= (p := o * stride[d] - padding[d] + t * dilation[d]) < x.shape[2 + d]
            ]
            for d, o in ((0, i), (1, j))
        )
        out[:, :, i, j] = x[:, :, rows][:, :, :, cols].max(axis=(2, 3))
    return out


def _mean(steps: Array, zero: int, divisor: int, dtype: Any) -> Array:
    lo, hi = RANGES[np.dtype(dtype)]
    total = steps.sum(axis=(2, 3)).astype(f32)
    return clamp_round(total * (f32(1.0) / f32(divisor)), zero, lo, hi, dtype)


def avg_pool2d(
    x: Q,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """x [N, C, H, W]; scale and zero point stay."""
    size = x.array.shape[2:]
    sizes = [pool_size(size[d], kernel[d], stride[d], padding[d], 1, ceil_mode) for d in range(2)]
    out = np.empty((*x.array.shape[:2], *sizes), x.array.dtype)
    for index in np.ndindex(*sizes):
        start = [index[d] * stride[d] - padding[d] for d in range(2)]
        stop = [min(start[d] + kernel[d], size[d] + padding[d]) for d in range(2)]
        padded = (stop[0] - start[0]) * (stop[1] - start[1])
        (r0, c0), (r1, c1) = (max(s, 0) for s in start), (min(stop[d], size[d]) for d in range(2))
        inside = (r1 - r0) * (c1 - c0)
        divisor = divisor_override or (padded if count_include_pad else inside)
        window = x.steps[:, :, r0:r1, c0:c1]
        out[:, :, index[0], index[1]] = _mean(window, x.zero, divisor, x.array.dtype)
    return out


def adaptive_avg_pool2d(x: Q, output_size: Sequence[int]) -> Array:
    """x [N, C, H, W]; window i spans floor(i * size / out) to ceil((i + 1) * size / out)."""
    size = x.array.shape[2:]
    out = np.empty((*x.array.shape[:2], *output_size), x.array.dtype)
    for i, j in np.ndindex(*output_size):
        (r0, r1), (c0, c1) = (
            (o * size[d] // output_size[d], -(-(o + 1) * size[d] // output_size[d]))
            for d, o in ((0, i), (1, j))
        )
        window = x.steps[:, :, r0:r1, c0:c1]
        out[:, :, i, j] = _mean(window, x.zero, (r1 - r0) * (c1 - c0), x.array.dtype)
    return out
