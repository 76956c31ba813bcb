"""Random quantized images in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import octavo
from octavo import QTensor
from reference import Q

EIGHT_BIT = [octavo.quint8, octavo.qint8]
NUMPY = {octavo.quint8: np.uint8, octavo.qint8: np.int8}
LAYOUTS = ["contiguous", "channels_last", "channel_slice", "strided"]

CHANNELS = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65, 100])
eight_bit = st.sampled_from(EIGHT_BIT)
layouts = st.sampled_from(LAYOUTS)
zero_points = st.sampled_from([0, 1, 100, 127])


def image(dtype: Any, shape: tuple[int, ...], zero: int, seed: int = 0) -> Q:
    rng = np.random.default_rng(seed)
    return Q(rng.integers(dtype.qmin, dtype.qmax + 1, shape).astype(NUMPY[dtype]), 0.1, zero)


def qtensor(q: Q, layout: str = "contiguous") -> QTensor:
    """``q`` [N, C, spatial...]."""
    ints = torch.from_numpy(q.array.copy())
    if layout in ("channels_last", "channel_slice"):
        n, c, *size = ints.shape
        extra = 5 if layout == "channel_slice" else 0
        wide = torch.full((n, *size, c + extra), 77, dtype=ints.dtype)
        ints = wide[..., extra // 2 : extra // 2 + c].movedim(-1, 1).copy_(ints)
    elif layout == "strided":
        wide = torch.full([2 * n + 1 for n in ints.shape], 77, dtype=ints.dtype)
        ints = wide[tuple(slice(1, None, 2) for _ in ints.shape)].copy_(ints)
    return QTensor.from_int_repr(ints, q.scale, q.zero)


def check(got: QTensor, want: Any, like: QTensor) -> None:
    assert torch.equal(got.int_repr(), torch.from_numpy(want))
    assert (got.q_scale(), got.q_zero_point(), got.dtype) == (
        like.q_scale(),
        like.q_zero_point(),
        like.dtype,
    )
