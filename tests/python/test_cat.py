"""Concatenation: on every ISA each part requantized as the reference does, in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octavo
import reference as ref
from image_support import EIGHT_BIT, NUMPY, check, eight_bit, image, layouts, qtensor
from octavo import QTensor, ops
from reference import Q


@st.composite
def joined(draw: Any) -> tuple[list[tuple[tuple[int, ...], float, int, str]], int]:
    """Shapes, qparams and layouts of the tensors, and the dimension."""
    rank = draw(st.integers(3, 5))
    dim = draw(st.integers(-rank, rank - 1))
    shape = [draw(st.integers(1, 5)) for _ in range(rank)]
    if draw(st.booleans()):
        shape[1] = draw(st.sampled_from([16, 33, 64, 70]))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        shape[dim] = draw(st.sampled_from([0, 1, 2, 3, 16, 17, 64, 65]))
        scale = draw(st.sampled_from([0.1, 0.1, 0.05, 0.37]))
        parts.append((tuple(shape), scale, draw(st.integers(0, 127)), draw(layouts)))
    return parts, dim


@given(case=joined(), dtype=eight_bit)
def test_cat(isa: str, case: Any, dtype: Any) -> None:
    described, dim = case
    parts, tensors = [], []
    for seed, (shape, scale, zero, layout) in enumerate(described):
        q = Q(image(dtype, shape, zero, seed).array, scale, zero)
        parts.append(q)
        tensors.append(qtensor(q, layout))
    got = torch.cat(tensors, dim)
    check(got, ref.cat(parts, dim, parts[0]), tensors[0])
    module = octavo.nn.quantized.QFunctional()
    module.scale, module.zero_point = 0.2, 3
    out = module.cat(tensors, dim)
    want = ref.cat(parts, dim, Q(np.zeros(0, NUMPY[dtype]), 0.2, 3))
    assert torch.equal(out.int_repr(), torch.from_numpy(want))
    assert (out.q_scale(), out.q_zero_point()) == (pytest.approx(0.2), 3)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_channels_last_stays(isa: str, dtype: Any) -> None:
    a, b = (qtensor(image(dtype, (2, c, 4, 5), 7, c), "channels_last") for c in (24, 40))
    out = torch.cat([a, b], 1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out[:, :24].int_repr(), a.int_repr())
    assert torch.equal(out[:, 24:].int_repr(), b.int_repr())
    # Slices of channels are read where they are.
    half = torch.cat([out[:, 8:16], out[:, 30:50]], 1)
    assert torch.equal(half.int_repr(), torch.cat([out._int[:, 8:16], out._int[:, 30:50]], 1))
    plain = torch.cat([a.contiguous(), b.contiguous()], 1)
    assert plain.is_contiguous()
    assert torch.equal(plain.int_repr(), out.int_repr())


def test_large_tensors_on_several_threads(isa: str) -> None:
    before = torch.get_num_threads()
    q = [Q(image(octavo.quint8, (1, c, 60, 60), z, c).array, 0.1, z) for c, z in ((64, 7), (96, 9))]
    x = [qtensor(part, "channels_last") for part in q]
    want = torch.from_numpy(ref.cat(q, 1, q[0]))
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert torch.equal(torch.cat(x, 1).int_repr(), want)
    finally:
        torch.set_num_threads(before)


def test_torch_accepts_empty_placeholders(isa: str) -> None:
    x = qtensor(image(octavo.quint8, (2, 3, 4), 7))
    nothing = QTensor.from_int_repr(torch.zeros(0, dtype=torch.uint8), 0.1, 7)
    assert torch.equal(torch.cat([nothing, x], 1).int_repr(), x.int_repr())
    assert torch.cat([nothing, nothing]).shape == (0,)


def test_messages() -> None:
    x = qtensor(image(octavo.quint8, (2, 3, 4, 5), 7))
    with pytest.raises(RuntimeError, match=r"tensor 1 has shape \(2, 3, 4\) and tensor 0 \(2, 3"):
        torch.cat([x, x[..., 0]], 1)
    with pytest.raises(RuntimeError, match=r"only dimension 1 may differ"):
        torch.cat([x, x[:, :, :2]], 1)
    with pytest.raises(IndexError, match="dim 4 is out of range for tensors of 4 dimensions"):
        torch.cat([x, x], 4)
    with pytest.raises(RuntimeError, match="without dimensions"):
        torch.cat([x[0, 0, 0, 0], x[0, 0, 0, 0]])
    with pytest.raises(ValueError, match="0 tensors and 0 qparams; needs one or more of each"):
        ops.cat([], [], 0, 1.0, 0)
    with pytest.raises(TypeError, match="tensors of one dtype are needed"):
        ops.cat([x._int, x._int.to(torch.int8)], [(0.1, 7)] * 2, 0, 0.1, 7)
    with pytest.raises(ValueError, match=r"tensor 0 zero_point is 300"):
        ops.cat([x._int], [(0.1, 300)], 0, 0.1, 7)
    with pytest.raises(ValueError, match=r"output.*scale"):
        ops.cat([x._int], [(0.1, 7)], 0, 0.0, 7)
