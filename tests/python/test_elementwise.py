"""Quantize, dequantize, requantize, add, mul, clamp, cat: on every ISA equal to the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo
import reference as ref
from octavo import QTensor, ops
from reference import Q
from torch_oracle import torch_quantized

EIGHT_BIT = [octavo.quint8, octavo.qint8]
DTYPES = [*EIGHT_BIT, octavo.qint32]
NUMPY = {octavo.quint8: np.uint8, octavo.qint8: np.int8, octavo.qint32: np.int32}
# Around the vector widths of every ISA, and long enough for two threads.
LENGTHS = [0, 1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 70001]
SCALES = st.floats(2.0**-100, 2.0**100, width=32)

dtypes = st.sampled_from(DTYPES)
eight_bit = st.sampled_from(EIGHT_BIT)
floats = hnp.arrays(
    np.float32, st.integers(0, 70), elements=st.floats(width=32, allow_nan=True), fill=st.nothing()
)


@st.composite
def qparams(draw: Any, dtype: Any = None) -> tuple[Any, float, int]:
    dtype = draw(dtypes) if dtype is None else dtype
    near = 2**20 if dtype is octavo.qint32 else 2**31
    zero = draw(st.integers(max(dtype.qmin, -near), min(dtype.qmax, near)))
    return dtype, draw(SCALES), zero


# As torch.fake_quantize and the like have them: no qint32.
qparams_of_8_bits = st.sampled_from([octavo.quint8, octavo.qint8]).flatmap(qparams)


@st.composite
def quantized(draw: Any, dtype: Any, size: int) -> Q:
    array = draw(hnp.arrays(NUMPY[dtype], size))
    _, scale, zero = draw(qparams(dtype))
    return Q(array, scale, zero)


def plain(q: Q) -> torch.Tensor:
    return torch.from_numpy(q.array.copy())


def assert_bits(got: torch.Tensor, want: Any) -> None:
    """Same dtype, shape and bits, with -0.0 and 0.0 told apart."""
    want = torch.from_numpy(np.ascontiguousarray(want))
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype == torch.float32:
        got, want = got.contiguous().view(torch.int32), want.view(torch.int32)
    assert torch.equal(got, want)


# Quantize and dequantize


def awkward(length: int, scale: float) -> torch.Tensor:
    """Values spread over the range and beyond it, exact ties, infinities and NaN."""
    x = torch.randn(length) * (80 * scale)
    x[::3] = (torch.randint(-300, 300, x[::3].shape) + 0.5) * scale
    specials = [math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, -0.0, 1e-45, 2.0**31 * scale]
    for i, special in enumerate(specials):
        x[i * 7 + 5 : i * 7 + 6] = special
    return x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantize_at_every_length(isa: str, dtype: Any) -> None:
    for length in LENGTHS:
        for scale, zero in ((0.5, 3), (0.0371, 0), (2.0**-20, dtype.qmax), (1.0, dtype.qmin)):
            x = awkward(length, scale)
            want = ref.quantize(x.numpy(), scale, zero, NUMPY[dtype])
            assert_bits(ops.quantize(x, scale, zero, dtype), want)
            # Nothing outside a slice is read or written.
            q = octavo.quantize_per_tensor(awkward(length + 2, scale)[1:-1], scale, zero, dtype)
            assert q.shape == (length,)


@given(x=floats, parameters=qparams())
def test_quantize_anything(isa: str, x: Any, parameters: tuple[Any, float, int]) -> None:
    dtype, scale, zero = parameters
    q = octavo.quantize_per_tensor(torch.from_numpy(x), scale, zero, dtype)
    want = ref.quantize(x, scale, zero, NUMPY[dtype])
    assert_bits(q.int_repr(), want)
    with np.errstate(over="ignore"):
        assert_bits(q.dequantize(), ref.dequantize(Q(want, scale, zero)))


@given(x=floats, scale=SCALES, data=st.data(), dtype=eight_bit)
def test_narrower_range(isa: str, x: Any, scale: float, data: Any, dtype: Any) -> None:
    lo = data.draw(st.integers(dtype.qmin, dtype.qmax))
    hi = data.draw(st.integers(lo, dtype.qmax))
    zero = data.draw(st.integers(lo, hi))
    got = ops.quantize(torch.from_numpy(x), scale, zero, dtype, lo, hi)
    assert_bits(got, ref.quantize(x, scale, zero, NUMPY[dtype], lo, hi))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_finite(isa: str, dtype: Any) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf] * 30)
    for zero in (dtype.qmin, 5, dtype.qmax):
        q = ops.quantize(x, 0.1, zero, dtype)
        assert q.view(30, 3).unique(dim=0).tolist() == [[zero, dtype.qmax, dtype.qmin]]


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_every_integer_survives(isa: str, dtype: Any) -> None:
    ints = torch.arange(dtype.qmin, dtype.qmax + 1).to(dtype.storage)
    for scale in (1.0, 0.1, 3e-5, 7.3):
        for zero in (dtype.qmin, -1 if dtype.signed else 127, dtype.qmax):
            q = QTensor.from_int_repr(ints, scale, zero)
            back = octavo.quantize_per_tensor(q.dequantize(), scale, zero, dtype)
            assert torch.equal(back, q)


@given(x=floats, parameters=qparams_of_8_bits)
def test_same_rounding_as_fake_quantize(
    isa: str, x: Any, parameters: tuple[Any, float, int]
) -> None:
    dtype, scale, zero = parameters
    # Outside this, torch converts a float that no int64 can hold.
    with np.errstate(all="ignore"):
        x = x[np.abs(x.astype(np.float64) / scale) < 2.0**40]
    t = torch.from_numpy(x)
    want = torch.fake_quantize_per_tensor_affine(t, scale, zero, dtype.qmin, dtype.qmax)
    assert torch.equal(octavo.quantize_per_tensor(t, scale, zero, dtype).dequantize(), want)


@given(
    x=hnp.arrays(np.float32, st.integers(1, 70), elements=st.floats(-300, 300, width=32)),
    exponent=st.integers(-10, 10),
    parameters=qparams_of_8_bits,
)
def test_same_integers_as_torch_away_from_ties(
    isa: str, x: Any, exponent: int, parameters: tuple[Any, float, int]
) -> None:
    dtype, _, zero = parameters
    scale = 2.0**exponent
    x = x[np.abs(np.abs(x - np.floor(x)) - 0.5) > 1e-3] * np.float32(scale)
    t = torch.from_numpy(x)
    ours = octavo.quantize_per_tensor(t, scale, zero, dtype)
    with torch_quantized() as torch_:
        theirs = torch_.quantize_per_tensor(t, scale, zero, getattr(torch_, dtype.name))
        assert torch.equal(ours.int_repr(), theirs.int_repr())
        assert torch.equal(ours.dequantize(), theirs.dequantize())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 7, 3), 0), ((5, 7, 3), 1), ((5, 7, 3), 2), ((33,), 0), ((3, 0, 2), 0), ((2, 3, 65), -2)],
)
def test_per_channel(isa: str, dtype: Any, shape: tuple[int, ...], axis: int) -> None:
    count = shape[axis]
    x = awkward(math.prod(shape), 0.05).view(shape)
    scales = torch.rand(count) * 0.1 + 0.01
    zeros = torch.randint(0, 100, (count,))
    q = octavo.quantize_per_channel(x, scales, zeros, axis, dtype)
    want = ref.quantize_per_channel(x.numpy(), scales.numpy(), zeros.numpy(), axis, NUMPY[dtype])
    assert_bits(q.int_repr(), want)
    parts = np.moveaxis(want, axis, 0)
    values = [
        ref.dequantize(Q(p, float(s), int(z))) for p, s, z in zip(parts, scales, zeros, strict=True)
    ]
    assert_bits(q.dequantize(), np.moveaxis(np.stack(values), 0, axis))
    last = q.transpose(0, -1)
    assert torch.equal(last.dequantize(), q.dequantize().transpose(0, -1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(isa: str, dtype: Any) -> None:
    x = torch.randn(4, 5, 6, 7)
    want = octavo.quantize_per_tensor(x, 0.02, 9, dtype).int_repr()
    for y in (
        x.to(memory_format=torch.channels_last),
        x.transpose(1, 3).contiguous().transpose(1, 3),
        torch.randn(8, 10, 6, 7).as_strided(x.shape, (840, 84, 7, 1)).copy_(x),
        x.flip(0).flip(0),
    ):
        q = octavo.quantize_per_tensor(y, 0.02, 9, dtype)
        assert torch.equal(q.int_repr(), want)
        assert torch.equal(q.dequantize(), QTensor.from_int_repr(want, 0.02, 9).dequantize())
        if y.is_contiguous(memory_format=torch.channels_last):
            assert q.stride() == q.dequantize().stride() == y.stride()
    wide = octavo.quantize_per_tensor(x[:1].expand(4, -1, -1, -1), 0.02, 9, dtype)
    assert torch.equal(wide[3].int_repr(), want[0])


def test_int32_extremes(isa: str) -> None:
    ints = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1] * 9, np.int32)
    for zero in (-(2**31), -1, 0, 2**31 - 1):
        q = QTensor.from_int_repr(torch.from_numpy(ints), 0.5, zero)
        assert_bits(q.dequantize(), ref.dequantize(Q(ints, 0.5, zero)))


# From one grid to another


@given(data=st.data(), dtype=eight_bit, out_dtype=eight_bit, size=st.integers(0, 70))
def test_requantize(isa: str, data: Any, dtype: Any, out_dtype: Any, size: int) -> None:
    q = data.draw(quantized(dtype, size))
    _, scale, zero = data.draw(qparams(out_dtype))
    arguments = (plain(q), q.scale, q.zero, scale, zero, out_dtype)
    if q.scale / scale < 2.0**128:
        out = Q(np.empty(0, NUMPY[out_dtype]), scale, zero)
        with np.errstate(over="ignore"):
            assert_bits(ops.requantize(*arguments), ref.requantize(q, out))
    else:
        with pytest.raises(ValueError, match="requantize"):
            ops.requantize(*arguments)


@given(data=st.data(), dtype=eight_bit, size=st.integers(0, 70), relu=st.booleans())
def test_add_and_mul(isa: str, data: Any, dtype: Any, size: int, relu: bool) -> None:
    small = st.floats(2.0**-10, 2.0**3, width=32)
    a, b, out = (
        Q(data.draw(hnp.arrays(NUMPY[dtype], n)), data.draw(small), data.draw(qparams(dtype))[2])
        for n in (size, size, 0)
    )
    arguments = (plain(a), a.scale, a.zero, plain(b), b.scale, b.zero, out.scale, out.zero, relu)
    assert_bits(ops.add(*arguments), ref.add(a, b, out, relu))
    assert_bits(ops.mul(*arguments), ref.mul(a, b, out, relu))


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_every_pair_of_integers(isa: str, dtype: Any) -> None:
    every = np.arange(dtype.qmin, dtype.qmax + 1).astype(NUMPY[dtype])
    a, b = np.repeat(every, 256), np.tile(every, 256)
    for scales in ((0.5, 0.25, 0.5), (0.1, 0.3, 0.7)):
        qa, qb, out = (Q(x, s, 3) for x, s in zip((a, b, every), scales, strict=True))
        arguments = (plain(qa), qa.scale, 3, plain(qb), qb.scale, 3, out.scale, 3)
        assert_bits(ops.add(*arguments), ref.add(qa, qb, out))
        assert_bits(ops.mul(*arguments), ref.mul(qa, qb, out))


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat_requantizes_to_the_first(isa: str, dtype: Any, dim: int) -> None:
    low = dtype.qmin
    parts = [
        Q(np.random.default_rng(i).integers(low, low + 256, (3, 3, 3)).astype(NUMPY[dtype]), s, z)
        for i, (s, z) in enumerate([(0.1, 5), (0.2, 10), (0.07, 0)])
    ]
    qs = [QTensor.from_int_repr(plain(q), q.scale, q.zero) for q in parts]
    joined = torch.cat(qs, dim)
    assert_bits(joined.int_repr(), ref.cat(parts, dim, parts[0]))
    assert (joined.q_scale(), joined.q_zero_point()) == (0.1, 5)
    stacked = torch.stack(qs, dim)
    assert torch.equal(stacked.select(dim, 1), torch.cat([qs[0], qs[1]])[3:])
    same = torch.cat([qs[0], qs[0][:2]])
    assert torch.equal(same.int_repr(), torch.cat([qs[0].int_repr(), qs[0].int_repr()[:2]]))
    with torch_quantized() as torch_:
        theirs = [
            torch_._make_per_tensor_quantized_tensor(q.int_repr(), q.q_scale(), q.q_zero_point())
            for q in qs
        ]
        want = torch_.cat(theirs, dim)
        assert (want.q_scale(), want.q_zero_point()) == (0.1, 5)
        assert (want.int_repr().int() - joined.int_repr().int()).abs().max() <= 1


def test_cat_of_int32() -> None:
    a = QTensor.from_int_repr(torch.arange(4, dtype=torch.int32), 0.5, 1)
    b = QTensor.from_int_repr(torch.arange(4, dtype=torch.int32), 0.25, 2)
    assert torch.cat([a, b]).tolist() == [-0.5, 0.0, 0.5, 1.0, -0.5, 0.0, 0.0, 0.0]


# Clamps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clamps(isa: str, dtype: Any) -> None:
    for length in LENGTHS:
        ints = torch.randint(max(dtype.qmin, -300), min(dtype.qmax, 300), (length,))
        q = QTensor.from_int_repr(ints.to(dtype.storage), 0.1, 7)
        bounds: list[tuple[Any, float | None, float | None]] = [
            (torch.relu, 0.0, None),
            (F.relu, 0.0, None),
            (torch.nn.ReLU(), 0.0, None),
            (F.relu6, 0.0, 6.0),
            (torch.nn.ReLU6(), 0.0, 6.0),
            (F.hardtanh, -1.0, 1.0),
            (torch.nn.Hardtanh(-0.2, 0.5), -0.2, 0.5),
            (lambda x: x.clamp(-0.3, 0.4), -0.3, 0.4),
            (lambda x: torch.clamp(x, min=0.2), 0.2, None),
            (lambda x: torch.clip(x, max=0.5), None, 0.5),
            (lambda x: x.clamp_min(0.2), 0.2, None),
            (lambda x: torch.clamp_max(x, -math.inf), None, -math.inf),
            (lambda x: x.clamp(0.5, -0.5), -0.5, -0.5),
            (lambda x: torch.relu_(x.clone()), 0.0, None),
            (lambda x: x.clone().relu_(), 0.0, None),
            (lambda x: F.relu(x.clone(), inplace=True), 0.0, None),
            (lambda x: torch.nn.ReLU6(inplace=True)(x.clone()), 0.0, 6.0),
            (lambda x: x.clone().clamp_(-0.3, 0.4), -0.3, 0.4),
        ]
        for function, low, high in bounds:
            grid = [
                fallback
                if bound is None
                else int(ref.quantize(np.float32([bound]), 0.1, 7, NUMPY[dtype])[0])
                for bound, fallback in ((low, dtype.qmin), (high, dtype.qmax))
            ]
            want = ints.clamp(*grid).to(dtype.storage)
            got = function(q)
            assert torch.equal(got.int_repr(), want)
            assert (got.q_scale(), got.q_zero_point(), got.dtype) == (0.1, 7, dtype)
        assert torch.equal(q.int_repr(), ints.to(dtype.storage))


def test_in_place_clamps_write_to_their_argument() -> None:
    q = QTensor.from_int_repr(torch.arange(20, dtype=torch.uint8), 0.1, 10)
    view = q[:5]
    assert torch.nn.ReLU(inplace=True)(q) is q
    assert view.int_repr().tolist() == [10] * 5
    assert q.clamp_(max=0.5) is q
    assert q.max().item() == 0.5


def test_wrong_clamps() -> None:
    q = QTensor.from_int_repr(torch.arange(20, dtype=torch.uint8), 0.1, 10)
    with pytest.raises(ValueError, match="min: expected a number, got NaN"):
        q.clamp(math.nan, 1)
    with pytest.raises(ValueError, match="at least one of min and max"):
        q.clamp()
    with pytest.raises(ValueError, match=r"min_val 1\.0 is greater than max_val 0\.0"):
        F.hardtanh(q, 1.0, 0.0)


@settings(max_examples=20)
@given(data=st.data(), dtype=eight_bit)
def test_clamp_agrees_with_torch(data: Any, dtype: Any) -> None:
    q = QTensor.from_int_repr(torch.arange(256).to(dtype.storage), 0.5, 3)
    low = data.draw(st.integers(-100, 100)) / 2
    high = data.draw(st.integers(-100, 100)) / 2
    with torch_quantized() as torch_:
        theirs = torch_._make_per_tensor_quantized_tensor(q.int_repr(), 0.5, 3)
        assert torch.equal(
            q.clamp(low, max(low, high)).int_repr(), theirs.clamp(low, max(low, high)).int_repr()
        )
        assert torch.equal(q.relu().int_repr(), theirs.relu().int_repr())


# Comparison and order


@given(data=st.data(), dtype=dtypes, size=st.integers(1, 20))
def test_comparisons_are_those_of_the_values(data: Any, dtype: Any, size: int) -> None:
    a, b = (
        QTensor.from_int_repr(
            torch.from_numpy(data.draw(hnp.arrays(NUMPY[dtype], size, elements=st.integers(0, 9)))),
            data.draw(st.sampled_from([0.5, 0.25])),
            data.draw(st.integers(0, 3)),
        )
        for _ in range(2)
    )
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        compare = getattr(torch, name)
        operator = f"__{name}__"
        for other in (b, b.dequantize(), 0.5):
            value = octavo.dequantize(other) if isinstance(other, QTensor) else other
            want = compare(a.dequantize(), value)
            assert torch.equal(compare(a, other), want)
            assert torch.equal(getattr(a, operator)(other), want)
        assert torch.equal(compare(b.dequantize(), a), compare(b.dequantize(), a.dequantize()))
    same = a.q_scale() == b.q_scale() and a.q_zero_point() == b.q_zero_point()
    assert torch.equal(a, b) == (same and torch.equal(a.int_repr(), b.int_repr()))
    assert torch.equal(a, a.clone())
    assert not torch.equal(a, a.dequantize())
    assert (a == None) is False  # noqa: E711
    assert a != "text"


def test_comparison_per_channel() -> None:
    ints = torch.arange(6, dtype=torch.uint8).view(2, 3)
    q = QTensor.from_int_repr(ints, [0.5, 0.25, 1.0], [0, 1, 2], 1)
    assert torch.equal(q > 0.6, q.dequantize() > 0.6)
    assert torch.equal(q, q.clone())
    assert not torch.equal(q, QTensor.from_int_repr(ints, [0.5, 0.25, 2.0], [0, 1, 2], 1))
    assert not torch.equal(q, QTensor.from_int_repr(ints, 0.5, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order(dtype: Any) -> None:
    q = QTensor.from_int_repr(torch.randint(0, 100, (5, 6)).to(dtype.storage), 0.3, 50)
    x = q.dequantize()
    assert torch.equal(q.max().dequantize(), x.max())
    assert torch.equal(torch.min(q).dequantize(), x.min())
    assert torch.equal(q.amax(1).dequantize(), x.amax(1))
    assert torch.equal(q.argmax(1), q.int_repr().argmax(1))
    values, indices = q.max(dim=1)
    assert torch.equal(values.dequantize(), x.max(1).values)
    assert torch.equal(x.gather(1, indices[:, None])[:, 0], x.max(1).values)
    assert torch.equal(q.sort(1, descending=True).values.dequantize(), x.sort(1, True).values)
    assert torch.equal(torch.topk(q, 2, 0)[0].dequantize(), x.topk(2, 0)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch announces the end of jit.trace
def test_jit_trace_is_refused_rather_than_recorded_without_the_kernels() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return ops.dequantize(ops.quantize(x, 0.1, 3, octavo.quint8), 0.1, 3)

    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
        torch.jit.trace(model, torch.randn(3))
