"""Pooling and means: on every ISA equal to the reference, in every layout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

import octavo
import reference as ref
from octavo import QTensor
from reference import Q
from torch_oracle import torch_quantized

EIGHT_BIT = [octavo.quint8, octavo.qint8]
NUMPY = {octavo.quint8: np.uint8, octavo.qint8: np.int8}
LAYOUTS = ["contiguous", "channels_last", "strided"]


def image(dtype: Any, shape: tuple[int, ...], zero: int, seed: int = 0) -> Q:
    rng = np.random.default_rng(seed)
    return Q(rng.integers(dtype.qmin, dtype.qmax + 1, shape).astype(NUMPY[dtype]), 0.1, zero)


def qtensor(q: Q, layout: str = "contiguous") -> QTensor:
    ints = torch.from_numpy(q.array.copy())
    if layout == "channels_last":
        ints = ints.contiguous(memory_format=torch.channels_last)
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


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {
        "kernel": kernel,
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }


SHAPES = st.tuples(
    st.integers(1, 2),
    st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65, 100]),
    st.integers(1, 9),
    st.integers(1, 9),
)
eight_bit = st.sampled_from(EIGHT_BIT)
layouts = st.sampled_from(LAYOUTS)


def _fits(shape: tuple[int, ...], window: dict[str, Any], dilation: tuple[int, int]) -> bool:
    return all(
        shape[2 + d] + 2 * window["padding"][d] >= dilation[d] * (window["kernel"][d] - 1) + 1
        for d in range(2)
    )


@given(
    shape=SHAPES,
    window=windows(),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dtype=eight_bit,
    layout=layouts,
)
def test_max_pool2d(
    isa: str, shape: Any, window: dict[str, Any], dilation: Any, dtype: Any, layout: str
) -> None:
    assume(_fits(shape, window, dilation))
    q = image(dtype, shape, 5)
    x = qtensor(q, layout)
    kernel, stride, padding, ceil_mode = window.values()
    got = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    # A dilated window may hold padding only; then the result is the lowest integer.
    values = torch.from_numpy(q.array).double()
    want = F.max_pool2d(values, kernel, stride, padding, dilation, ceil_mode).clamp(dtype.qmin)
    check(got, want.to(dtype.storage).numpy(), x)
    if dilation == (1, 1):
        check(got, ref.max_pool2d(q.array, kernel, stride, padding, dilation, ceil_mode), x)


@given(
    shape=SHAPES,
    window=windows(),
    count_include_pad=st.booleans(),
    divisor=st.sampled_from([None, None, 1, 3, -2]),
    dtype=eight_bit,
    zero=st.sampled_from([0, 1, 100, 127]),
    layout=layouts,
)
def test_avg_pool2d(
    isa: str,
    shape: Any,
    window: dict[str, Any],
    count_include_pad: bool,
    divisor: int | None,
    dtype: Any,
    zero: int,
    layout: str,
) -> None:
    assume(_fits(shape, window, (1, 1)))
    q = image(dtype, shape, zero)
    x = qtensor(q, layout)
    arguments = (*window.values(), count_include_pad, divisor)
    check(F.avg_pool2d(x, *arguments), ref.avg_pool2d(q, *arguments), x)


@given(
    shape=SHAPES,
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtype=eight_bit,
    zero=st.sampled_from([0, 1, 100, 127]),
    layout=layouts,
)
def test_adaptive_avg_pool2d(
    isa: str, shape: Any, size: Any, dtype: Any, zero: int, layout: str
) -> None:
    q = image(dtype, shape, zero)
    x = qtensor(q, layout)
    check(F.adaptive_avg_pool2d(x, size), ref.adaptive_avg_pool2d(q, size), x)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_rounding_of_ties_and_extremes(isa: str, dtype: Any) -> None:
    every = np.arange(dtype.qmin, dtype.qmax + 1).astype(NUMPY[dtype])
    pairs = np.stack([every, np.roll(every, 1)], -1).reshape(1, 256, 1, 2)
    for zero in (dtype.qmin, 0, 1, dtype.qmax):
        q = Q(pairs, 0.1, zero)
        x = qtensor(q)
        check(F.avg_pool2d(x, (1, 2)), ref.avg_pool2d(q, (1, 2), (1, 2)), x)
        check(x.mean((2, 3)), ref.adaptive_avg_pool2d(q, (1, 1))[:, :, 0, 0], x)
        for value in (dtype.qmin, dtype.qmax):
            flat = Q(np.full((1, 3, 64, 64), value, NUMPY[dtype]), 0.1, zero)
            x = qtensor(flat)
            for pooled in (x.mean([2, 3]), F.adaptive_avg_pool2d(x, 1), F.max_pool2d(x, 3)):
                assert bool((pooled.int_repr() == value).all())


def test_modules_defaults_and_shapes(isa: str) -> None:
    q = image(octavo.quint8, (2, 5, 8, 6), 7)
    x = qtensor(q)
    two = (2, 2)
    for got in (F.max_pool2d(x, 2), torch.max_pool2d(x, 2), torch.nn.MaxPool2d(2)(x)):
        check(got, ref.max_pool2d(q.array, two, two), x)
    for got in (F.avg_pool2d(x, 2), torch.nn.AvgPool2d(2)(x), F.avg_pool2d(x, [2], stride=())):
        check(got, ref.avg_pool2d(q, two, two), x)
    for size, full in ((1, (1, 1)), ((None, 3), (8, 3)), (None, (8, 6)), ([4, None], (4, 6))):
        want = ref.adaptive_avg_pool2d(q, full)
        check(F.adaptive_avg_pool2d(x, size), want, x)
        check(torch.nn.AdaptiveAvgPool2d(size)(x), want, x)
    check(F.max_pool2d(x[0], 2), ref.max_pool2d(q.array, two, two)[0], x)
    check(F.avg_pool2d(x[1], 2), ref.avg_pool2d(q, two, two)[1], x)
    check(F.adaptive_avg_pool2d(x[1], 2), ref.adaptive_avg_pool2d(q, two)[1], x)
    assert F.max_pool2d(x, 2).is_contiguous(memory_format=torch.channels_last)
    empty = x[:0]
    assert F.max_pool2d(empty, 2).shape == F.avg_pool2d(empty, 2).shape == (0, 5, 4, 3)
    assert F.adaptive_avg_pool2d(empty, 1).shape == (0, 5, 1, 1)
    assert empty.mean([2, 3]).shape == (0, 5)


@pytest.mark.parametrize("call", [F.max_pool2d, F.avg_pool2d])
def test_wrong_windows(call: Any) -> None:
    x = qtensor(image(octavo.quint8, (2, 5, 8, 6), 7))
    for arguments in ((0,), (2, 0), (2, 1, 2), (2, 1, -1), (9,), ((2, 2, 2),)):
        with pytest.raises((ValueError, RuntimeError), match=r"pool2d|kernel_size"):
            call(x, *arguments)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) or \(C, H, W\)"):
        call(x[0, 0], 2)


@pytest.mark.parametrize("dtype", [*EIGHT_BIT, octavo.qint32], ids=str)
def test_mean(isa: str, dtype: Any) -> None:
    ints = torch.randint(max(dtype.qmin, -200), min(dtype.qmax, 300), (3, 4, 5, 6))
    q = QTensor.from_int_repr(ints.to(dtype.storage), 0.1, 11)
    choices = itertools.chain.from_iterable(
        itertools.combinations(range(4), n) for n in range(1, 5)
    )
    for dims in choices:
        total = (ints - 11).sum(dims).numpy().astype(np.float32)
        count = np.float32(np.prod([ints.shape[d] for d in dims]))
        want = np.rint(total * (np.float32(1.0) / count)).astype(np.int64) + 11
        negative = [d - 4 for d in dims]
        for got in (q.mean(dims), torch.mean(q, dim=negative)):
            assert torch.equal(got.int_repr().long(), torch.from_numpy(np.asarray(want)))
        assert torch.equal(q.mean(dims, keepdim=True).reshape(got.shape), got)
        assert q.mean(dims, True).shape == q.dequantize().mean(dims, True).shape
    assert torch.equal(q.mean(), q.mean((0, 1, 2, 3)))
    assert torch.equal(q.mean(1), q.mean([1]))
    assert torch.equal(q[0, 0, 0, 0].mean(), q[0, 0, 0, 0])
    with torch_quantized() as torch_:
        theirs = torch_._make_per_tensor_quantized_tensor(q.int_repr(), 0.1, 11).mean([2, 3])
        difference = theirs.int_repr().long() - q.mean([2, 3]).int_repr().long()
        assert difference.abs().max() <= 1


def test_wrong_means() -> None:
    q = qtensor(image(octavo.quint8, (2, 0, 3, 4), 7))
    assert q.mean([2, 3]).shape == (2, 0)
    with pytest.raises(ValueError, match="mean of no elements"):
        q.mean()
    with pytest.raises(IndexError, match="dim 4 is out of range"):
        q.mean(4)
    with pytest.raises(ValueError, match="names one dimension twice"):
        q.mean([1, -3])


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_agrees_with_torch_to_one_step(isa: str, dtype: Any) -> None:
    q = image(dtype, (2, 16, 9, 9), 3)
    x = qtensor(q)
    calls: list[Any] = [
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
        lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ]
    with torch_quantized() as torch_:
        theirs = torch_._make_per_tensor_quantized_tensor(x.int_repr(), 0.1, 3)
        for call in calls:
            got, want = call(x), call(theirs)
            assert got.shape == want.shape
            assert (got.int_repr().int() - want.int_repr().int()).abs().max() <= 1
    assert torch.equal(calls[3](x).int_repr(), calls[3](x.int_repr().float()).to(dtype.storage))


def test_unmodified_head_of_a_model(isa: str) -> None:
    """What float models do between convolutions runs as it is on quantized tensors."""
    x = qtensor(image(octavo.quint8, (2, 8, 16, 16), 120), "channels_last")

    def body(x: Any) -> Any:
        x = F.relu(torch.nn.MaxPool2d(3, 2, 1)(x))
        x = torch.nn.ReLU(inplace=True)(torch.nn.Identity()(x))
        left, right = x.chunk(2, 1)
        x = torch.cat([right, left], 1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        x = F.max_pool2d(x, 2)
        return x.view(x.shape[0], -1), torch.flatten(x, 1), x.mean([2, 3])

    got = body(x)
    want = body(x.dequantize())
    assert torch.equal(got[0].dequantize(), want[0])
    assert torch.equal(got[1].dequantize(), want[1])
    assert (got[2].dequantize() - want[2]).abs().max() <= 0.0501
    flat = torch.flatten(torch.nn.AdaptiveAvgPool2d((1, 1))(x), 1)
    assert torch.equal(torch.nn.Dropout(0.5).eval()(flat), x.mean([2, 3]))
