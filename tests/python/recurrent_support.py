"""Recurrent layers in NumPy, by the definition: exact integers, one rounding a float operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reference import dynamic_qparams

Array = Any
f32 = np.float32

TANH_P = [1.33190490e-08, 2.05834640e-05, 3.49403359e-03, 1.33797169e-01, 1.0]
TANH_Q = [7.76200977e-07, 3.28309106e-04, 2.58710682e-02, 4.67130333e-01, 1.0]
EXP_E = [8.29027221e-03, 4.18981612e-02, 1.66676387e-01, 4.99991477e-01, 9.99999702e-01, 1.0]
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def horner(terms: Sequence[float], t: Array) -> Array:
    result = np.full_like(t, f32(terms[0]))
    for term in terms[1:]:
        result = result * t + f32(term)
    return result


def sigmoid(x: Array) -> Array:
    v = np.clip(-x, f32(-87), f32(87))
    n = np.rint(v * f32(1.44269504))
    r = v - n * f32(0.693145752)
    r = r - n * f32(1.42860682e-6)
    power = np.ldexp(f32(1), np.nan_to_num(n).astype(np.int32))
    return f32(1) / (f32(1) + horner(EXP_E, r) * power)


def tanh(x: Array) -> Array:
    z = np.clip(x, f32(-9.02), f32(9.02))
    t = z * z
    return np.clip(z * horner(TANH_P, t) / horner(TANH_Q, t), f32(-1), f32(1))


class DynamicLinear:
    """A packed weight, through which rows of float32 go; NaN where a row (or, per tensor, what goes
    through at once) is not finite."""

    def __init__(self, packed: Any, per_tensor: bool = False, reduce_range: bool = False) -> None:
        self.per_tensor, self.qmax = per_tensor, 127 if reduce_range else 255
        zeros = packed.zero_points.double().reshape(-1, 1)
        self.weight = (packed.unpack().double() - zeros).numpy().T  # exact, and so are its products
        self.scales = packed.scales.numpy()
        self.bias = None if packed.bias is None else packed.bias.numpy()

    def __call__(self, x: Array) -> Array:
        scales, steps = np.empty((len(x), 1), f32), np.zeros(x.shape)
        for r, row in enumerate(x):
            seen = x if self.per_tensor else row
            if not np.isfinite(seen).all():
                scales[r] = np.nan
                continue
            lo, hi = float(seen.min()), float(seen.max())
            scales[r], zero = dynamic_qparams(lo, hi, self.qmax, self.per_tensor)
            q = np.rint(row * (f32(1) / scales[r])) + zero
            steps[r] = np.clip(q, 0, self.qmax) - zero
        out = (steps @ self.weight).astype(f32) * scales * self.scales
        return out if self.bias is None else out + self.bias


def cell(mode: str, x: Array, h: Array, state: Array, c: Array | None) -> tuple[Array, Any]:
    """The new hidden state and c from the gates of input and hidden state."""
    gx, gh = (np.split(g, GATES[mode], axis=-1) for g in (x, h))
    if mode == "LSTM":
        i, f, g, o = (a + b for a, b in zip(gx, gh, strict=True))
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c
    if mode == "GRU":
        r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
        n = tanh(gx[2] + r * gh[2])
        return (state - n) * z + n, c
    total = gx[0] + gh[0]
    return (tanh(total) if mode == "RNN_TANH" else np.where(total < 0, f32(0), total)), c


def layer(
    mode: str,
    weights: tuple[Any, Any, Any],
    x: Array,
    sizes: Sequence[int],
    h: Array,
    c: Array | None,
    reverse: bool,
    **how: bool,
) -> tuple[Array, Array, Any]:
    """One layer and direction: rows of output, final h and c. Rows lie step by step, sizes[t] of
    them at step t."""
    ih, hh, hr = (None if w is None else DynamicLinear(w, **how) for w in weights)
    assert ih is not None
    assert hh is not None
    h = h.copy()
    c = None if c is None else c.copy()
    with np.errstate(all="ignore"):
        gates = ih(x)
        first = np.concatenate([[0], np.cumsum(sizes)])
        out = np.empty((len(x), h.shape[1]), f32)
        for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            n = sizes[t]
            now = slice(int(first[t]), int(first[t]) + n)
            hidden = hh(h[:n])
            new, cells = cell(mode, gates[now], hidden, h[:n], None if c is None else c[:n])
            if c is not None:
                c[:n] = cells
            h[:n] = new if hr is None else hr(new)
            out[now] = h[:n]
    return out, h, c
