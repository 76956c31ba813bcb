"""The arithmetic that Octavo promises, in plain NumPy: what every layer must equal, to the bit.

Integers are int64 here, so nothing can overflow; every float operation is one float32 operation, in
the order that the numerics promise names. Arrays are plain; a quantized tensor is (array, scale,
zero point).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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


def dynamic_qparams(lo: float, hi: float, qmax: int, per_tensor: bool) -> tuple[float, int]:
    """Scale and zero point of values in [lo, hi] that dynamic layers quantize to 0 .. qmax.

    Per tensor, a scale below 6.1e-5 becomes that, as torch has it.
    """
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = f32((hi - lo) / qmax)
    with np.errstate(all="ignore"):
        if scale == 0 or np.isinf(f32(1) / scale):
            scale = f32(0.1)
    smallest = f32(6.1e-5)
    if per_tensor and scale < smallest:
        factor = float(smallest) / float(scale)
        if lo == 0.0:
            hi = float(smallest) * qmax
        elif hi == 0.0:
            lo = -float(smallest) * qmax
        else:
            lo, hi = lo * factor, hi * factor
        scale = smallest
    below, above = abs(lo / float(scale)), abs(hi / float(scale))
    zero = below if below < qmax + above else qmax - above
    return float(scale), int(np.rint(min(max(zero, 0.0), float(qmax))))


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


def conv_sums(
    x: Q,
    w: Array,
    w_zeros: Array,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """The exact sums [N, O, sizes'] of a convolution, without bias."""
    rank = w.ndim - 2
    zeros = np.broadcast_to(w_zeros.astype(np.int64), w.shape[:1]).reshape(-1, *(1,) * (rank + 1))
    return conv_accumulator(
        x.steps,
        w.astype(np.int64) - zeros,
        stride or (1,) * rank,
        padding or (0,) * rank,
        dilation or (1,) * rank,
        groups,
    )


def float_output(
    acc: Array, bias: Array | None, x_scale: float, w_scales: Array, relu: bool = False
) -> Array:
    """Sums [N, O, sizes] as float32: one product and one sum. w_scales has 1 or O elements."""
    channels = (1, -1, *(1,) * (acc.ndim - 2))
    scales = (f32(x_scale) * w_scales.astype(f32)).reshape(channels)
    y = acc.astype(np.int32).astype(f32) * scales
    if bias is not None:
        y = y + bias.astype(f32).reshape(channels)
    return np.maximum(y, f32(0.0)) if relu else y


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
    acc = conv_sums(x, w, w_zeros, stride, padding, dilation, groups)
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
    1 or O / groups elements.
    """
    acc = conv_transpose_sums(x, w, w_zeros, stride, padding, output_padding, dilation, groups)
    scales = w_scales if w_scales.size == 1 else np.tile(w_scales, groups)
    result = requantize_accumulator(acc.swapaxes(0, 1), bias, x.scale, scales, out, relu)
    return np.ascontiguousarray(result.swapaxes(0, 1))


def conv_transpose_sums(
    x: Q,
    w: Array,
    w_zeros: Array,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Array:
    """The exact sums [N, O, sizes'] of a transposed convolution, without bias. Every input is
    scattered, and what lies outside the result cut off.
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
    return acc[(slice(None), slice(None), *cut)]


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


def max_pool(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> Array:
    """x [N, C, spatial...]; padding never wins, and of padding alone the lowest integer is left."""
    dims = range(len(kernel))
    sizes = [
        pool_size(x.shape[2 + d], kernel[d], stride[d], padding[d], dilation[d], ceil_mode)
        for d in dims
    ]
    lowest = RANGES[x.dtype][0]
    out = np.empty((*x.shape[:2], *sizes), x.dtype)
    for index in np.ndindex(*sizes):
        window = x
        for d in dims:
            taps = [index[d] * stride[d] - padding[d] + t * dilation[d] for t in range(kernel[d])]
            inside = [p for p in taps if 0 <= p < x.shape[2 + d]]
            window = np.take(window, inside, axis=2 + d)
        out[(slice(None), slice(None), *index)] = window.max(
            axis=tuple(2 + d for d in dims), initial=lowest
        )
    return out


def max_pool2d(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    return max_pool(x, kernel, stride, padding, dilation, ceil_mode)


def _mean(steps: Array, zero: int, divisor: int, dtype: Any) -> Array:
    lo, hi = RANGES[np.dtype(dtype)]
    total = steps.sum(axis=tuple(range(2, steps.ndim))).astype(f32)
    return clamp_round(total * (f32(1.0) / f32(divisor)), zero, lo, hi, dtype)


def avg_pool(
    x: Q,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """x [N, C, spatial...]; scale and zero point stay."""
    size, dims = x.array.shape[2:], range(len(kernel))
    sizes = [pool_size(size[d], kernel[d], stride[d], padding[d], 1, ceil_mode) for d in dims]
    out = np.empty((*x.array.shape[:2], *sizes), x.array.dtype)
    for index in np.ndindex(*sizes):
        start = [index[d] * stride[d] - padding[d] for d in dims]
        stop = [min(start[d] + kernel[d], size[d] + padding[d]) for d in dims]
        padded = math.prod(b - a for a, b in zip(start, stop, strict=True))
        inside = tuple(slice(max(start[d], 0), min(stop[d], size[d])) for d in dims)
        window = x.steps[(slice(None), slice(None), *inside)]
        divisor = divisor_override or (padded if count_include_pad else math.prod(window.shape[2:]))
        out[(slice(None), slice(None), *index)] = _mean(window, x.zero, divisor, x.array.dtype)
    return out


def avg_pool2d(
    x: Q,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    return avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _adaptive_windows(x: Array, output_size: Sequence[int]) -> Iterator[tuple[Any, Array]]:
    """Window i of a dimension spans floor(i * size / out) to ceil((i + 1) * size / out)."""
    for index in np.ndindex(*output_size):
        spans = tuple(
            slice(i * size // to, -(-(i + 1) * size // to))
            for i, size, to in zip(index, x.shape[2:], output_size, strict=True)
        )
        yield index, x[(slice(None), slice(None), *spans)]


def adaptive_max_pool(x: Array, output_size: Sequence[int]) -> Array:
    """x [N, C, spatial...]."""
    out = np.empty((*x.shape[:2], *output_size), x.dtype)
    for index, window in _adaptive_windows(x, output_size):
        out[(slice(None), slice(None), *index)] = window.max(axis=tuple(range(2, x.ndim)))
    return out


def adaptive_avg_pool(x: Q, output_size: Sequence[int]) -> Array:
    """x [N, C, spatial...]."""
    out = np.empty((*x.array.shape[:2], *output_size), x.array.dtype)
    for index, window in _adaptive_windows(x.steps, output_size):
        count = math.prod(window.shape[2:])
        out[(slice(None), slice(None), *index)] = _mean(window, x.zero, count, x.array.dtype)
    return out


adaptive_avg_pool2d = adaptive_avg_pool


def _positions(
    size: int, to: int, scale: float | None, align_corners: bool, exact: bool | None
) -> Array:
    """Where along a dimension the output's samples lie, float32; `exact` is that of nearest modes,
    None for linear ones."""
    i = np.arange(to).astype(f32)
    if align_corners:
        return i * (f32(size - 1) / f32(to - 1) if to > 1 else f32(0))
    step = f32(1.0 / scale) if scale else f32(size) / f32(to)
    if exact is False:
        return i * step
    centre = np.maximum(step * (i + f32(0.5)) - f32(0.5), f32(0))
    return centre + f32(0.5) if exact else centre


def upsample_nearest(
    x: Array, to: Sequence[int], scales: Sequence[float | None], exact: bool
) -> Array:
    """x [N, C, spatial...]."""
    for d, (n, scale) in enumerate(zip(to, scales, strict=True)):
        size = x.shape[2 + d]
        if len(to) == 2 and not exact and n in (size, 2 * size):
            scale = None
        at = np.floor(_positions(size, n, scale, False, exact)).astype(np.int64)
        x = np.take(x, np.minimum(at, size - 1), axis=2 + d)
    return x


ONE = 1 << 14  # the sum of the weights of a pixel


def upsample_linear(
    x: Q, to: Sequence[int], scales: Sequence[float | None], align_corners: bool
) -> Array:
    """x [N, C, spatial...]: weights of 14 bits, multiplied in the order of the dimensions."""
    corners = [(x.steps, np.full((1,) * x.array.ndim, ONE, np.int64))]
    for d, (n, scale) in enumerate(zip(to, scales, strict=True)):
        size = x.array.shape[2 + d]
        p = _positions(size, n, scale if n != size else None, align_corners, None)
        first = np.minimum(p.astype(np.int64), size - 1)
        second = np.minimum(first + 1, size - 1)
        fraction = np.clip(p - first.astype(f32), f32(0), f32(1))
        weight = np.rint(fraction * f32(ONE)).astype(np.int64) * (second > first)
        weight = weight.reshape((-1,) + (1,) * (len(to) - 1 - d))
        split = []
        for values, whole in corners:
            share = (whole * weight + ONE // 2) >> 14
            split.append((np.take(values, first, axis=2 + d), whole - share))
            split.append((np.take(values, second, axis=2 + d), share))
        corners = split
    total = sum(values * weight for values, weight in corners)
    assert isinstance(total, np.ndarray)
    return (np.rint(total / ONE).astype(np.int64) + x.zero).astype(x.array.dtype)
