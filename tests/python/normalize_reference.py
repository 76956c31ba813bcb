"""Unary functions, normalizations and softmax in plain NumPy and Python integers, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import reference as ref

Array = NDArray[Any]
f32, f64 = np.float32, np.float64


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[f64])(x)


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


FUNCTIONS: dict[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "celu": (lambda x, a: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0) / a)), (1.3,)),
    "elu": (
        lambda x, a, s, i: s * np.where(x > 0, x, a * np.expm1(np.minimum(x, 0) * i)),
        (0.7, 1.0, 1.0),
    ),
    "gelu": (lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))), ()),
    "gelu_tanh": (
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        (),
    ),
    "hardsigmoid": (lambda x: np.clip(x + 3, 0, 6) / 6, ()),
    "hardswish": (lambda x: x * np.clip(x + 3, 0, 6) / 6, ()),
    "leaky_relu": (lambda x, slope: np.where(x > 0, x, x * slope), (0.01,)),
    "mish": (lambda x: x * np.tanh(np.log1p(np.exp(np.minimum(x, 40)))), ()),
    "sigmoid": (_sigmoid, ()),
    "silu": (lambda x: x * _sigmoid(x), ()),
    "tanh": (np.tanh, ()),
    "threshold": (lambda x, t, v: np.where(x > f64(f32(t)), x, v), (0.1, -0.3)),
}
"""By name: the function on float64, and parameters to test it with."""


def unary(name: str, x: ref.Q, out: ref.Q, parameters: tuple[float, ...] | None = None) -> Array:
    function, default = FUNCTIONS[name]
    values = ref.dequantize(x).astype(f64)
    y = function(values, *(default if parameters is None else parameters)).astype(f32)
    return ref.quantize(y, out.scale, out.zero, out.array.dtype)


def fma(a: Array, b: Any, c: Any) -> Array:
    """``a * b + c`` of float32 with one rounding; finite values only.

    The product is exact in float64. Where the sum is not, its last bit is made odd, so that it
    cannot be a tie when it is rounded again.
    """
    product, addend = a.astype(f64) * f64(b), np.asarray(c, f64)
    total = np.asarray(product + addend)
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    even = np.frexp(total)[0] * 2.0**53 % 2 == 0
    other = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, other, total).astype(f32)


def _steps(t: Array, out: ref.Q, relu: bool = False) -> Array:
    """float32 in steps of the output, saturated to its type."""
    lo, hi = ref.RANGES[out.array.dtype]
    return ref.clamp_round(t, out.zero, out.zero if relu else lo, hi, out.array.dtype)


def _columns(x: Array, rank: int) -> Array:
    return x.reshape(-1, *[1] * (rank - 2))


def channel_affine(x: ref.Q, factor: Array, offset: Array, out: ref.Q, relu: bool = False) -> Array:
    """factor and offset float64 [C]; x [N, C, *]."""
    slope = factor * (f64(f32(x.scale)) / f64(f32(out.scale)))
    shift = offset / f64(f32(out.scale)) - x.zero * slope
    m, s = (_columns(v.astype(f32), x.array.ndim) for v in (slope, shift))
    return _steps(fma(x.array.astype(f32), m, s), out, relu)


def batch_norm_constants(
    weight: Array, bias: Array, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    factor = weight.astype(f64) * (1 / np.sqrt(variance.astype(f64) + eps))
    return factor, bias.astype(f64) - mean.astype(f64) * factor


def prelu(x: ref.Q, slope: Array, out: ref.Q) -> Array:
    ratio = f64(f32(x.scale)) / f64(f32(out.scale))
    negative = (slope.astype(f64) * ratio).astype(f32)
    steps = x.array.astype(f32) - f32(x.zero)
    if len(slope) > 1:
        negative = _columns(negative, x.array.ndim)
    return _steps(np.where(steps >= 0, steps * f32(ratio), steps * negative), out)


def _statistics(x: ref.Q, values: Array, eps: float, out: ref.Q) -> tuple[Any, Any]:
    """Mean and 1 / deviation in units of output steps, of one group, from exact sums."""
    n = values.size
    total = int(values.astype(np.int64).sum())
    square = int((values.astype(np.int64) ** 2).sum())
    scale = f64(f32(x.scale))
    spread = f64(n * square - total * total)
    variance = spread / (f64(n) * f64(n)) * (scale * scale) + f64(eps)
    return f64(total) / f64(n), scale / np.sqrt(variance) / f64(f32(out.scale))


def layer_norm(
    x: ref.Q, axes: int, weight: Array | None, bias: Array | None, eps: float, out: ref.Q
) -> Array:
    """Over the last ``axes`` dimensions."""
    shape = x.array.shape[x.array.ndim - axes :]
    size = math.prod(shape)
    rows = x.array.reshape(-1, size)
    scale = np.ones(size, f32) if weight is None else weight.reshape(-1)
    shift = np.zeros(size, f64) if bias is None else bias.reshape(-1).astype(f64)
    shift = (shift / f64(f32(out.scale))).astype(f32)
    result = np.empty(rows.shape, out.array.dtype)
    for i, row in enumerate(rows):
        mean, factor = _statistics(x, _unsigned(row), eps, out)
        mean = mean - _offset(row)
        t = fma(row.astype(f32), f32(factor), f32(-mean * factor))
        result[i] = _steps(fma(t, scale, shift), out)
    return result.reshape(x.array.shape)


def _offset(x: Array) -> int:
    return 128 if x.dtype == np.int8 else 0


def _unsigned(x: Array) -> Array:
    return x.astype(np.int64) + _offset(x)


def group_norm(
    x: ref.Q, groups: int, weight: Array | None, bias: Array | None, eps: float, out: ref.Q
) -> Array:
    n, channels = x.array.shape[:2]
    result = np.empty(x.array.shape, out.array.dtype)
    per_group = channels // groups
    for image in range(n):
        for g in range(groups):
            block = slice(g * per_group, (g + 1) * per_group)
            values = x.array[image, block]
            mean, factor = _statistics(x, _unsigned(values), eps, out)
            mean = mean - _offset(values)
            for c in range(block.start, block.stop):
                slope = factor * (1.0 if weight is None else f64(weight[c]))
                shift = 0.0 if bias is None else f64(bias[c]) / f64(f32(out.scale))
                t = fma(x.array[image, c].astype(f32), f32(slope), f32(shift - mean * slope))
                result[image, c] = _steps(t, out)
    return result


def softmax(x: ref.Q, dim: int, out: ref.Q) -> Array:
    scale = f64(f32(x.scale))
    steps = np.arange(16)
    high = (np.exp(-scale * 16 * steps) * (2.0**30 - 64)).astype(f32)
    low = np.exp(-scale * steps).astype(f32)
    exps = np.rint(np.outer(high, low).reshape(-1)).astype(np.int64)
    along = np.moveaxis(x.array.astype(np.int64), dim, -1)
    if along.shape[-1] == 0:
        return x.array.astype(out.array.dtype)
    e = exps[along.max(-1, keepdims=True) - along]
    factor = (1.0 / f64(f32(out.scale)) / e.sum(-1, keepdims=True).astype(f64)).astype(f32)
    return np.moveaxis(_steps(e.astype(f32) * factor, out), -1, dim)


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    """The same tensor contiguous, channels last where there is such a thing, and with gaps."""
    forms = [x.contiguous(), torch.stack([x, x], -1)[..., 0]]
    if x.dim() == 4:
        forms.append(x.contiguous(memory_format=torch.channels_last))
    if x.dim() == 5:
        forms.append(x.contiguous(memory_format=torch.channels_last_3d))
    return forms
