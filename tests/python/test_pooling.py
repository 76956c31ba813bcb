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
from image_support import (
    CHANNELS,
    EIGHT_BIT,
    NUMPY,
    check,
    eight_bit,
    image,
    layouts,
    qtensor,
    zero_points,
)
from octavo import QTensor
from reference import Q
from torch_oracle import torch_quantized

# By spatial dimensions.
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE_AVG: dict[int, Any] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
ADAPTIVE_MAX: dict[int, Any] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}

dimensions = st.integers(1, 3)


@st.composite
def shapes(draw: Any, dims: int) -> tuple[int, ...]:
    most = 9 if dims < 3 else 6
    return (
        draw(st.integers(1, 2)),
        draw(CHANNELS),
        *(draw(st.integers(1, most)) for _ in range(dims)),
    )


@st.composite
def pooled(draw: Any, dilated: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A shape, and a window that fits it."""
    dims = draw(dimensions)
    shape = draw(shapes(dims))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(dims))
    window = {
        "kernel": kernel,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": tuple(draw(st.integers(1, 2)) if dilated else 1 for _ in range(dims)),
        "ceil_mode": draw(st.booleans()),
    }
    for size, k, p, d in zip(shape[2:], kernel, window["padding"], window["dilation"], strict=True):
        assume(size + 2 * p >= d * (k - 1) + 1)
    return shape, window


@given(case=pooled(dilated=True), dtype=eight_bit, layout=layouts)
def test_max_pool(isa: str, case: Any, dtype: Any, layout: str) -> None:
    shape, window = case
    q = image(dtype, shape, 5)
    x = qtensor(q, layout)
    pool = MAX_POOL[len(shape) - 2]
    got = pool(x, *window.values())
    check(got, ref.max_pool(q.array, *window.values()), x)
    # A dilated window may hold padding only; then the result is the lowest integer.
    want = pool(torch.from_numpy(q.array).double(), *window.values()).clamp(dtype.qmin)
    check(got, want.to(dtype.storage).numpy(), x)


@given(
    case=pooled(dilated=False),
    count_include_pad=st.booleans(),
    divisor=st.sampled_from([None, None, 1, 3, -2]),
    dtype=eight_bit,
    zero=zero_points,
    layout=layouts,
)
def test_avg_pool(
    isa: str,
    case: Any,
    count_include_pad: bool,
    divisor: int | None,
    dtype: Any,
    zero: int,
    layout: str,
) -> None:
    shape, window = case
    dims = len(shape) - 2
    q = image(dtype, shape, zero)
    x = qtensor(q, layout)
    del window["dilation"]
    options = (count_include_pad,) if dims == 1 else (count_include_pad, divisor)
    got = AVG_POOL[dims](x, *window.values(), *options)
    check(got, ref.avg_pool(q, *window.values(), *options), x)
    # torch's 3-D form refuses kernels that only fit with the padding.
    if divisor is None and all(k <= n for k, n in zip(window["kernel"], shape[2:], strict=True)):
        values = AVG_POOL[dims](x.dequantize(), *window.values(), *options)
        assert (got.dequantize() - values).abs().max() <= 0.0501


@given(dims=dimensions, data=st.data(), dtype=eight_bit, zero=zero_points, layout=layouts)
def test_adaptive_pool(isa: str, dims: int, data: Any, dtype: Any, zero: int, layout: str) -> None:
    shape = data.draw(shapes(dims))
    size = tuple(data.draw(st.integers(1, 5)) for _ in range(dims))
    q = image(dtype, shape, zero)
    x = qtensor(q, layout)
    check(ADAPTIVE_AVG[dims](x, size), ref.adaptive_avg_pool(q, size), x)
    got = ADAPTIVE_MAX[dims](x, size)
    check(got, ref.adaptive_max_pool(q.array, size), x)
    assert torch.equal(got.dequantize(), ADAPTIVE_MAX[dims](x.dequantize(), size))


def test_modules_of_every_rank(isa: str) -> None:
    nn = torch.nn
    for dims in (1, 2, 3):
        q = image(octavo.qint8, (2, 5, 8, 6, 4)[: dims + 2], 7)
        x = qtensor(q)
        two, ones, no = (2,) * dims, (1,) * dims, (0,) * dims
        largest = ref.max_pool(q.array, two, two, no, ones)
        mean = ref.avg_pool(q, two, two, no)
        expected = {
            f"MaxPool{dims}d": ((2,), largest),
            f"AvgPool{dims}d": ((2,), mean),
            f"AdaptiveMaxPool{dims}d": ((2,), ref.adaptive_max_pool(q.array, two)),
            f"AdaptiveAvgPool{dims}d": ((2,), ref.adaptive_avg_pool(q, two)),
        }
        for name, (arguments, want) in expected.items():
            module = getattr(nn, name)(*arguments)
            got = module(x)
            check(got, want, x)
            check(module(x[0]), want[0], x)
            assert got.int_repr().movedim(1, -1).is_contiguous()
            assert got.view(2, -1).shape == (2, got.numel() // 2)
        everything = tuple(range(2, dims + 2))
        check(x.mean(everything), ref.adaptive_avg_pool(q, ones).reshape(2, 5), x)
        check(x.mean(everything, keepdim=True), ref.adaptive_avg_pool(q, ones), x)


def test_a_slice_of_channels_is_read_in_place(isa: str) -> None:
    q = image(octavo.quint8, (1, 24, 5, 5), 3)
    x = qtensor(q, "channels_last")
    half = x[:, 8:20]
    check(F.max_pool2d(half, 2), ref.max_pool2d(q.array[:, 8:20], (2, 2), (2, 2)), x)
    assert octavo.ops._image.Image("x", half._int, 2).tensor.data_ptr() == half._int.data_ptr()


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
    sizes = ((1, (1, 1)), ((None, 3), (8, 3)), ((None, None), (8, 6)), ([4, None], (4, 6)))
    for size, full in sizes:
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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, r"kernel_size must be at least 1, got \(0, 0\)"),
        ((2, 0), ValueError, r"stride must be at least 1"),
        (
            (2, 1, 2),
            ValueError,
            r"padding must be between 0 and half the kernel, got padding=",
        ),
        ((2, 1, -1), ValueError, r"padding must be between 0 and half"),
        ((9,), RuntimeError, r"input \(2, 5, 8, 6\) is too small for kernel_size=\(9, 9\)"),
        (((2, 2, 2),), ValueError, r"kernel_size: expected one or 2 integers, got \(2, 2, 2\)"),
    ],
)
def test_messages(arguments: Any, error: Any, message: str) -> None:
    x = qtensor(image(octavo.quint8, (2, 5, 8, 6), 7))
    for call in (F.max_pool2d, F.avg_pool2d):
        with pytest.raises(error, match=message):
            call(x, *arguments)


def test_messages_of_ranks_and_divisors() -> None:
    x = qtensor(image(octavo.quint8, (2, 5, 8, 6), 7))
    for call, shape in (
        (F.max_pool1d, r"\(N, C, L\) or \(C, L\)"),
        (F.adaptive_avg_pool1d, r"\(N, C, L\) or \(C, L\)"),
        (F.adaptive_max_pool3d, r"\(N, C, D, H, W\) or \(C, D, H, W\)"),
    ):
        wrong = x if call is not F.adaptive_max_pool3d else x[0]
        with pytest.raises(ValueError, match=rf"expected a {shape} input, got shape"):
            call(wrong, 1)
    with pytest.raises(TypeError, match=r"max_pool2d: kernel_size: expected integers, got 2\.5"):
        F.max_pool2d(x, 2.5)
    with pytest.raises(ValueError, match="divisor_override must not be 0"):
        F.avg_pool2d(x, 2, divisor_override=0)
    with pytest.raises(ValueError, match=r"output_size: expected one or 2 integers"):
        F.adaptive_avg_pool2d(x, (1, 2, 3))
    with pytest.raises(ValueError, match="output_size must not be negative"):
        F.adaptive_avg_pool2d(x, -1)


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
