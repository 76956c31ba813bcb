"""Operators for unary functions, normalizations and softmax equal the NumPy reference to the bit,
on every instruction set, for all shapes and memory formats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import normalize_reference as nref
import octavo
import reference as ref
from module_support import generator, random_q, threads
from octavo import ops

SIGNS = [octavo.quint8, octavo.qint8]
NUMPY = {octavo.quint8: np.uint8, octavo.qint8: np.int8}


def out_like(dtype: Any, scale: float, zero: int) -> ref.Q:
    zero = zero + dtype.qmin
    return ref.Q(np.empty(0, NUMPY[dtype]), float(np.float32(scale)), zero)


def qparams(out: ref.Q) -> tuple[float, int, Any]:
    dtype = octavo.quint8 if out.array.dtype == np.uint8 else octavo.qint8
    return out.scale, out.zero, dtype


def all_bytes(dtype: Any) -> torch.Tensor:
    return torch.arange(256).sub(0 if dtype is octavo.quint8 else 128).to(dtype.storage)


@pytest.mark.kernel
@pytest.mark.parametrize("name", sorted(nref.FUNCTIONS))
@pytest.mark.parametrize("dtype", SIGNS, ids=str)
@pytest.mark.parametrize("out_dtype", SIGNS, ids=str)
def test_unary(isa: str, name: str, dtype: Any, out_dtype: Any) -> None:
    x = all_bytes(dtype).repeat(3)[: 768 - 5]
    for scale, zero in ((0.05, 128), (0.011, 3), (1.7, 255), (1e-4, 0), (0.03125, 77)):
        for out_scale, out_zero in ((1 / 256, 0), (0.02, 128), (0.5, 255)):
            values = ref.Q(x.numpy(), float(np.float32(scale)), zero + dtype.qmin)
            out = out_like(out_dtype, out_scale, out_zero)
            parameters = nref.FUNCTIONS[name][1]
            got = ops.unary(name, x, values.scale, values.zero, *qparams(out), parameters)
            np.testing.assert_array_equal(got.numpy(), nref.unary(name, values, out))


def test_unary_keeps_layout_and_changes_in_place() -> None:
    x = random_q((2, 3, 5, 7, 4), generator(0)).int_repr()
    for form in nref.layouts(x):
        out = ops.unary("tanh", form, 0.1, 100, 2 / 256, 128, octavo.quint8)
        expected = nref.unary(
            "tanh", ref.Q(x.numpy(), np.float32(0.1), 100), out_like(octavo.quint8, 2 / 256, 128)
        )
        np.testing.assert_array_equal(out.numpy(), expected)
        if form.is_contiguous(memory_format=torch.channels_last_3d):
            assert out.is_contiguous(memory_format=torch.channels_last_3d)
        changed = form.clone(memory_format=torch.preserve_format)
        assert ops.unary_("leaky_relu", changed, 0.1, 100, (0.5,)) is changed
        expected = ops.unary("leaky_relu", x, 0.1, 100, 0.1, 100, octavo.quint8, (0.5,))
        assert torch.equal(changed, expected)
    gaps = torch.zeros(4, 6, dtype=torch.uint8)
    ops.unary_("leaky_relu", gaps[:, ::2], 0.1, 100, (0.5,))
    assert gaps[0].tolist() == [50, 0, 50, 0, 50, 0]


def test_unary_refuses() -> None:
    x = all_bytes(octavo.quint8)
    with pytest.raises(ValueError, match="no unary function of the name nonsense"):
        ops.unary("nonsense", x, 0.1, 0, 0.1, 0, octavo.quint8)
    with pytest.raises(ValueError, match="output scale"):
        ops.unary("tanh", x, 0.1, 0, 0.0, 0, octavo.quint8)
    with pytest.raises(ValueError, match=r"zero.point"):
        ops.unary("tanh", x, 0.1, 0, 0.1, 200, octavo.qint8)
    with pytest.raises(TypeError, match="quint8 or qint8"):
        ops.unary("tanh", x, 0.1, 0, 0.1, 0, octavo.qint32)
    with pytest.raises(TypeError, match="expected quantized storage"):
        ops.unary_("tanh", x.int(), 0.1, 0)


SHAPES = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(1, 70)),
    st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 40)),
    st.tuples(st.integers(0, 3), st.integers(1, 80), st.integers(1, 5), st.integers(1, 9)),
    st.tuples(*[st.integers(1, 4)] * 5),
)
CASES = st.fixed_dictionaries(
    {
        "shape": SHAPES,
        "seed": st.integers(0, 1000),
        "dtype": st.sampled_from(SIGNS),
        "out_dtype": st.sampled_from(SIGNS),
        "layout": st.integers(0, 2),
        "out_scale": st.sampled_from([0.02, 1 / 32, 0.3, 1e-3]),
        "out_zero": st.sampled_from([0, 1, 128, 255]),
    }
)


def make(case: dict[str, Any], scale: float = 0.03) -> tuple[torch.Tensor, ref.Q, ref.Q, Any]:
    g = generator(case["seed"])
    dtype = case["dtype"]
    zero = int(torch.randint(256, (), generator=g)) + dtype.qmin
    x = random_q(case["shape"], g, scale, zero, str(dtype).removeprefix("octavo.")).int_repr()
    forms = nref.layouts(x)
    form = forms[case["layout"] % len(forms)]
    out = out_like(case["out_dtype"], case["out_scale"], case["out_zero"])
    return form, ref.Q(x.numpy(), float(np.float32(scale)), zero), out, g


@given(case=CASES, relu=st.booleans())
def test_channel_affine(isa: str, case: dict[str, Any], relu: bool) -> None:
    form, x, out, g = make(case)
    channels = case["shape"][1]
    factor = torch.randn(channels, generator=g, dtype=torch.float64)
    offset = torch.randn(channels, generator=g, dtype=torch.float64)
    factor[0] = 0.0
    got = ops.channel_affine(form, x.scale, x.zero, factor, offset, *qparams(out), relu)
    expected = nref.channel_affine(x, factor.numpy(), offset.numpy(), out, relu)
    np.testing.assert_array_equal(got.numpy(), expected)


@given(case=CASES, one=st.booleans())
def test_prelu(isa: str, case: dict[str, Any], one: bool) -> None:
    form, x, out, g = make(case)
    slope = torch.randn(1 if one else case["shape"][1], generator=g)
    got = ops.prelu(form, x.scale, x.zero, slope, *qparams(out))
    np.testing.assert_array_equal(got.numpy(), nref.prelu(x, slope.numpy(), out))


@given(case=CASES, affine=st.integers(0, 3), axes=st.integers(1, 3))
def test_layer_norm(isa: str, case: dict[str, Any], affine: int, axes: int) -> None:
    form, x, out, g = make(case)
    axes = min(axes, x.array.ndim)
    shape = x.array.shape[x.array.ndim - axes :]
    weight = torch.randn(shape, generator=g) if affine & 1 else None
    bias = torch.randn(shape, generator=g) if affine & 2 else None
    got = ops.layer_norm(form, x.scale, x.zero, shape, weight, bias, 1e-5, *qparams(out))
    parameters = (None if p is None else p.numpy() for p in (weight, bias))
    expected = nref.layer_norm(x, axes, *parameters, 1e-5, out) if x.array.size else x.array[:0]
    np.testing.assert_array_equal(got.numpy().reshape(-1), expected.reshape(-1))


@given(case=CASES, affine=st.integers(0, 3), pick=st.integers(0, 5))
def test_group_norm(isa: str, case: dict[str, Any], affine: int, pick: int) -> None:
    form, x, out, g = make(case)
    channels = case["shape"][1]
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    groups = divisors[pick % len(divisors)]
    weight = torch.randn(channels, generator=g) if affine & 1 else None
    bias = torch.randn(channels, generator=g) if affine & 2 else None
    got = ops.group_norm(form, x.scale, x.zero, groups, weight, bias, 1e-5, *qparams(out))
    assert got.shape == form.shape
    if not x.array.size:
        return
    parameters = (None if p is None else p.numpy() for p in (weight, bias))
    expected = nref.group_norm(x, groups, *parameters, 1e-5, out)
    np.testing.assert_array_equal(got.numpy(), expected)


@given(case=CASES, dim=st.integers(-2, 1), scale=st.sampled_from([1e-3, 0.03, 0.4]))
def test_softmax(isa: str, case: dict[str, Any], dim: int, scale: float) -> None:
    form, x, out, _ = make(case, scale)
    got = ops.softmax(form, x.scale, x.zero, dim, *qparams(out))
    np.testing.assert_array_equal(got.numpy(), nref.softmax(x, dim, out))


@pytest.mark.kernel
def test_large_images_on_threads(isa: str) -> None:
    """Images that several tasks divide, in both layouts, give what one thread gives."""
    out = out_like(octavo.quint8, 0.03, 120)
    for shape in ((1, 24, 120, 130), (2, 3, 150, 151), (5, 128, 33, 31), (1, 2, 300, 301)):
        x = random_q(shape, generator(1), 0.05, 99).int_repr()
        weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
        arguments = (0.05, 99, shape[1] // (2 if shape[1] % 2 == 0 else 1), weight, bias, 1e-5)
        with threads(1):
            single = ops.group_norm(x, *arguments, *qparams(out))
        for form in nref.layouts(x):
            with threads(3):
                assert torch.equal(ops.group_norm(form, *arguments, *qparams(out)), single)
        values = ref.Q(x.numpy(), float(np.float32(0.05)), 99)
        expected = nref.group_norm(values, arguments[2], weight.numpy(), bias.numpy(), 1e-5, out)
        np.testing.assert_array_equal(single.numpy(), expected)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", SIGNS, ids=str)
def test_long_rows(isa: str, dtype: Any) -> None:
    """Rows of more columns than parameters are kept for at once."""
    x = random_q((3, 70001), generator(2), 0.05, 9, str(dtype).removeprefix("octavo.")).int_repr()
    out = out_like(dtype, 0.03, 120)
    weight, bias = torch.randn(70001), torch.randn(70001)
    got = ops.layer_norm(x, 0.05, 9, (70001,), weight, bias, 1e-5, *qparams(out))
    values = ref.Q(x.numpy(), float(np.float32(0.05)), 9)
    expected = nref.layer_norm(values, 1, weight.numpy(), bias.numpy(), 1e-5, out)
    np.testing.assert_array_equal(got.numpy(), expected)
    got = ops.softmax(x, 0.05, 9, 1, 1e-4, dtype.qmin, dtype)
    expected = nref.softmax(values, 1, out_like(dtype, 1e-4, 0))
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.kernel
def test_no_variance(isa: str) -> None:
    """A constant group becomes the bias, with eps 0 too; saturated where that is out of range."""
    for dtype in SIGNS:
        x = torch.full((2, 6, 5, 5), 37, dtype=dtype.storage)
        bias = torch.tensor([0.0, 0.5, -0.25, 100.0, -100.0, 1.0])
        expected = ops.quantize(bias, 0.125, 0, octavo.qint8)
        for eps in (0.0, 1e-5):
            got = ops.group_norm(x, 0.1, 3, 2, None, bias, eps, 0.125, 0, octavo.qint8)
            assert torch.equal(got, expected.view(1, 6, 1, 1).expand_as(got))
            row = x.movedim(1, -1)
            got = ops.layer_norm(row, 0.1, 3, (6,), None, bias, eps, 0.125, 0, octavo.qint8)
            assert torch.equal(got, expected.expand_as(got))


def test_refusals() -> None:
    x = random_q((2, 6, 5, 5), generator(0)).int_repr()
    out = (0.1, 3, octavo.quint8)
    ones = torch.ones(6)
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        ops.group_norm(x, 0.1, 3, 4, None, None, 1e-5, *out)
    with pytest.raises(ValueError, match=r"weight must be a contiguous torch\.float32 tensor of 6"):
        ops.group_norm(x, 0.1, 3, 2, torch.ones(5), None, 1e-5, *out)
    with pytest.raises(ValueError, match="bias must be"):
        ops.layer_norm(x.movedim(1, -1), 0.1, 3, (6,), ones, ones.double(), 1e-5, *out)
    with pytest.raises(ValueError, match=r"end in the dimensions \[6\], got shape \[2, 6, 5, 5\]"):
        ops.layer_norm(x, 0.1, 3, (6,), ones, ones, 1e-5, *out)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        ops.prelu(x.flatten(), 0.1, 3, ones, *out)
    with pytest.raises(ValueError, match="factor must be"):
        ops.channel_affine(x, 0.1, 3, ones, ones.double(), *out)
    with pytest.raises(IndexError, match="dim 4 is out of range"):
        ops.softmax(x, 0.1, 3, 4, *out)
    with pytest.raises(TypeError, match="expected quantized storage"):
        ops.softmax(x.float(), 0.1, 3, 1, *out)
    with pytest.raises(ValueError, match="scale"):
        ops.softmax(x, 0.1, 3, 1, float("nan"), 3, octavo.quint8)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", SIGNS, ids=str)
@pytest.mark.parametrize("out_dtype", SIGNS, ids=str)
def test_planes_that_are_worth_a_table(isa: str, dtype: Any, out_dtype: Any) -> None:
    for pixels in (1023, 1024, 5000, 70001):
        case = {"shape": (1, 2, pixels), "seed": pixels, "dtype": dtype, "layout": 0}
        case |= {"out_dtype": out_dtype, "out_scale": 0.02, "out_zero": 77}
        form, x, out, g = make(case)
        factor, offset = (torch.randn(2, generator=g, dtype=torch.float64) for _ in range(2))
        got = ops.channel_affine(form, x.scale, x.zero, factor, offset, *qparams(out), True)
        want = nref.channel_affine(x, factor.numpy(), offset.numpy(), out, True)
        np.testing.assert_array_equal(got.numpy(), want)
        slope = torch.tensor([-0.3])
        got = ops.prelu(form, x.scale, x.zero, slope, *qparams(out))
        np.testing.assert_array_equal(got.numpy(), nref.prelu(x, slope.numpy(), out))
        got = ops.requantize(form, x.scale, x.zero, *qparams(out))
        np.testing.assert_array_equal(got.numpy(), ref.requantize(x, out))
