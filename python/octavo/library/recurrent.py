"""The operator of dynamically quantized recurrent layers.

Weights are as those of fully connected layers (:mod:`octavo.library.linear`); ``hr`` is the
projection of an LSTM.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo.library._register import operator
from octavo.library.linear import WEIGHT
from octavo.ops.recurrent import recurrent

__all__: list[str] = []


def _recurrent(
    mode: str,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    ih: Tensor,
    ih_scales: Tensor,
    ih_zeros: Tensor,
    ih_bias: Tensor | None,
    hh: Tensor,
    hh_scales: Tensor,
    hh_zeros: Tensor,
    hh_bias: Tensor | None,
    hr: Tensor | None,
    hr_scales: Tensor | None,
    hr_zeros: Tensor | None,
    steps: int,
    batch_sizes: Tensor | None,
    per_tensor: bool,
    reduce_range: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (
        WEIGHT((ih, ih_scales, ih_zeros, ih_bias)),
        WEIGHT((hh, hh_scales, hh_zeros, hh_bias)),
        None if hr is None else WEIGHT((hr, hr_scales, hr_zeros, None)),
    )
    h = h.clone(memory_format=torch.contiguous_format)
    c = None if c is None else c.clone(memory_format=torch.contiguous_format)
    out = torch.empty((x.shape[0], h.shape[1]), dtype=torch.float32)
    recurrent(
        mode,
        weights,
        x,
        h,
        c,
        out,
        steps=steps,
        batch_sizes=batch_sizes,
        per_tensor=per_tensor,
        reduce_range=reduce_range,
        reverse=reverse,
    )
    return out, h, h.new_empty(0) if c is None else c


def _states(x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    out = x.new_empty((x.shape[0], h.shape[1]), dtype=torch.float32)
    return out, h.new_empty(h.shape), h.new_empty(0) if c is None else c.new_empty(c.shape)


operator(
    "recurrent(str mode, Tensor x, Tensor h, Tensor? c, Tensor ih, Tensor ih_scales, "
    "Tensor ih_zero_points, Tensor? ih_bias, Tensor hh, Tensor hh_scales, Tensor hh_zero_points, "
    "Tensor? hh_bias, Tensor? hr, Tensor? hr_scales, Tensor? hr_zero_points, SymInt steps, "
    "Tensor? batch_sizes, bool per_tensor, bool reduce_range, bool reverse) "
    "-> (Tensor, Tensor, Tensor)",
    _recurrent,
    _states,
)
