from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import octavo
import octavo.quantization as tq
from octavo.dtypes import QDType, as_qdtype
from octavo.quantization.utils import (
    calculate_qmin_qmax,
    determine_qparams,
)
from quantization_support import assert_same_qparams, batches, equal_bits, oracle, quietly

PER_TENSOR = (tq.MinMaxObserver, tq.MovingAverageMinMaxObserver)
PER_CHANNEL = (tq.PerChannelMinMaxObserver, tq.MovingAveragePerChannelMinMaxObserver)
RANGES = (None, (0, 127), (-127, 127), (0, 100), (-8, 7))


def settings(symmetric: bool) -> list[dict[str, Any]]:
    """Every combination of dtype, range, reduce_range and eps that torch accepts and defines."""
    result = []
    for dtype in ("quint8", "qint8"):
        for bounds in RANGES:
            for reduce_range in (False, True):
                if bounds and dtype == "quint8" and bounds[0] < 0:
                    continue  # torch takes ranges that uint8 cannot hold
                if symmetric and dtype == "quint8" and reduce_range:
                    continue  # refused, see below
                found: dict[str, Any] = {"dtype": dtype, "reduce_range": reduce_range}
                if bounds:
                    found |= {"quant_min": bounds[0], "quant_max": bounds[1]}
                result += [found, {**found, "eps": 2**-12}]
    return result


def pair(cls: type, scheme: str, **kwargs: Any) -> tuple[Any, Any]:
    """Our observer and torch's."""
    theirs = getattr(oracle(), cls.__name__)
    dtype = kwargs.pop("dtype")
    return (
        cls(dtype=getattr(octavo, dtype), qscheme=getattr(torch, scheme), **kwargs),
        quietly(theirs, dtype=getattr(torch, dtype), qscheme=getattr(torch, scheme), **kwargs),
    )


@pytest.mark.parametrize("cls", PER_TENSOR)
@pytest.mark.parametrize("scheme", ["per_tensor_affine", "per_tensor_symmetric"])
def test_per_tensor_qparams_equal_torch(cls: type, scheme: str) -> None:
    for kwargs in settings("symmetric" in scheme):
        for _, tensors in batches():
            ours, theirs = pair(cls, scheme, **kwargs)
            for x in tensors:
                assert ours(x) is x
                theirs(x)
            assert (ours.quant_min, ours.quant_max) == (theirs.quant_min, theirs.quant_max)
            assert_same_qparams(ours, theirs)


@pytest.mark.parametrize("cls", PER_CHANNEL)
@pytest.mark.parametrize(
    "scheme",
    ["per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams"],
)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_qparams_equal_torch(cls: type, scheme: str, axis: int) -> None:
    for kwargs in settings("symmetric" in scheme)[::3]:
        ours, theirs = pair(cls, scheme, ch_axis=axis, **kwargs)
        for factor in (1.0, 0.1, 7.0):
            x = torch.randn(4, 4, 2, 4) * factor
            ours(x), theirs(x)
        assert_same_qparams(ours, theirs)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    symmetric=st.booleans(),
    signed=st.booleans(),
)
def test_any_values_give_torchs_qparams(values: list[float], symmetric: bool, signed: bool) -> None:
    scheme = "per_tensor_symmetric" if symmetric else "per_tensor_affine"
    ours, theirs = pair(tq.MinMaxObserver, scheme, dtype="qint8" if signed else "quint8")
    ours(torch.tensor(values)), theirs(torch.tensor(values))
    assert_same_qparams(ours, theirs)


@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
    symmetric=st.booleans(),
)
def test_every_observed_value_is_within_half_a_step_of_a_level(
    values: list[float], symmetric: bool
) -> None:
    """What minimum and maximum promise: rounding is the only error of what was seen."""
    scheme = octavo.per_tensor_symmetric if symmetric else octavo.per_tensor_affine
    observer = tq.MinMaxObserver(dtype=octavo.qint8 if symmetric else octavo.quint8, qscheme=scheme)
    x = torch.tensor(values)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    levels = (x.double() / scale.double()).round() + zero_point
    levels = levels.clamp(observer.quant_min, observer.quant_max)
    error = ((levels - zero_point) * scale.double() - x.double()).abs()
    assert bool((error <= scale.double() * 0.5001 + (x.abs() * 1e-6)).all())
    assert observer.quant_min <= int(zero_point) <= observer.quant_max


@pytest.mark.parametrize("observer_class", [*PER_TENSOR, tq.HistogramObserver])
@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        (octavo.quint8, octavo.quint8),
        (torch.uint8, octavo.quint8),
        (getattr(torch, "quint8", octavo.quint8), octavo.quint8),
        (octavo.qint8, octavo.qint8),
        (torch.int8, octavo.qint8),
        (getattr(torch, "qint8", octavo.qint8), octavo.qint8),
        (torch.int32, octavo.qint32),
    ],
)
def test_dtype_in_every_spelling(observer_class: Any, spelling: Any, expected: QDType) -> None:
    observer = observer_class(dtype=spelling)
    assert observer.dtype is expected
    assert as_qdtype(observer.dtype) is expected


def test_wide_ranges() -> None:
    limits = {torch.int16: (-(2**15), 2**15 - 1), torch.uint16: (0, 2**16 - 1)}
    for dtype, expected in limits.items():
        ours = tq.MinMaxObserver(dtype=dtype)
        assert (ours.quant_min, ours.quant_max) == expected
    observer = tq.MinMaxObserver(dtype=octavo.qint32)
    observer(torch.tensor([-1000.0, 0.0]))
    assert observer.calculate_qparams()[1].tolist() == [2**31 - 1]


def test_uint16_equals_torch() -> None:
    for scheme in ("per_tensor_affine", "per_tensor_symmetric"):
        ours = tq.MinMaxObserver(dtype=torch.uint16, qscheme=getattr(torch, scheme))
        theirs = oracle().MinMaxObserver(dtype=torch.uint16, qscheme=getattr(torch, scheme))
        ours(torch.linspace(-1, 3, 9)), theirs(torch.linspace(-1, 3, 9))
        assert_same_qparams(ours, theirs)


@pytest.mark.parametrize("dtype", ["quint8", "qint8", "qint32", "int16", "uint16"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_default_ranges_equal_torch(dtype: str, reduce_range: bool) -> None:
    theirs = oracle().utils.calculate_qmin_qmax
    ours = calculate_qmin_qmax(
        None, None, False, getattr(octavo, dtype, None) or getattr(torch, dtype), reduce_range
    )
    assert ours == theirs(None, None, False, getattr(torch, dtype), reduce_range)


def test_determine_qparams_equals_torch() -> None:
    for low, high in ((-1.0, 2.0), (0.5, 2.0), (0.0, 0.0)):
        arguments = (torch.tensor(low), torch.tensor(high), 0, 255)
        eps = torch.tensor([1e-7])
        ours = determine_qparams(*arguments, octavo.quint8, eps, False)
        theirs = oracle().utils.determine_qparams(*arguments, torch.quint8, eps, False)
        for mine, other in zip(ours, theirs, strict=True):
            assert equal_bits(mine, other)


# Empty, half-precision and unusual inputs


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_empty_tensors_are_ignored(cls: Any) -> None:
    observer = cls()
    observer(torch.empty(0, 3))
    assert not observer.is_calibrated
    observer(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]))
    before = observer.calculate_qparams()
    observer(torch.empty(2, 0))
    for a, b in zip(before, observer.calculate_qparams(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_uncalibrated_warns_and_answers_as_torch(cls: Any) -> None:
    ours, theirs = cls(), getattr(oracle(), cls.__name__)()
    with pytest.warns(UserWarning, match="before the observer saw any data"):
        found = ours.calculate_qparams()
    for mine, other in zip(found, quietly(theirs.calculate_qparams), strict=True):
        assert equal_bits(mine, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_other_input_dtypes_count_as_float32(cls: Any, dtype: torch.dtype) -> None:
    x = torch.tensor([[-2.0, 3.0], [1.0, 5.0]])
    other, reference = cls(), cls()
    other(x.to(dtype)), reference(x)
    for a, b in zip(other.calculate_qparams(), reference.calculate_qparams(), strict=True):
        assert equal_bits(a, b)


def test_gradients_pass_through() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    for cls in (*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver):
        assert cls()(x) is x


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_other_things_than_float_tensors_are_refused(cls: Any) -> None:
    q = octavo.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, octavo.quint8)
    for wrong in (q, (torch.ones(2),), None, 3.0):
        with pytest.raises(TypeError, match=f"{cls.__name__}: observes one float tensor"):
            cls()(wrong)


def test_inference_mode() -> None:
    for cls in (*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver):
        observer = cls()
        with torch.inference_mode():
            observer(torch.randn(3, 4))
            observer(torch.randn(3, 4) * 2)
        observer(torch.randn(3, 4) * 3)
        assert observer.is_calibrated


# NaN and Inf


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_nonfinite_values_are_left_out_and_counted(cls: Any) -> None:
    x = torch.randn(4, 50)
    dirty, clean = cls(), cls()
    spoiled = torch.cat([x, torch.tensor([[torch.nan], [torch.inf], [-torch.inf], [0.0]])], dim=1)
    for factor in (1.0, 3.0):
        dirty(spoiled * factor)
        clean(torch.cat([x, x.new_zeros(4, 1)], dim=1)[:, : 51 if factor else 50] * factor)
    assert dirty.nonfinite_count == 6
    assert clean.nonfinite_count == 0
    assert "nonfinite_count=6" in repr(dirty)
    for a, b in zip(dirty.calculate_qparams(), clean.calculate_qparams(), strict=True):
        if cls is not tq.HistogramObserver:  # three zeros more in the histogram
            assert equal_bits(a, b)
        assert bool(torch.isfinite(a.float()).all())


@pytest.mark.parametrize("cls", [*PER_TENSOR, *PER_CHANNEL, tq.HistogramObserver])
def test_only_nonfinite_values(cls: Any) -> None:
    observer = cls()
    observer(torch.full((2, 3), torch.nan))
    assert not observer.is_calibrated
    with pytest.raises(ValueError, match=rf"{cls.__name__}: nothing finite was observed"):
        observer.calculate_qparams()
    observer(torch.ones(2, 3))
    assert observer.is_calibrated
    observer.calculate_qparams()


@pytest.mark.parametrize("cls", PER_CHANNEL)
def test_a_channel_without_finite_values(cls: Any) -> None:
    observer = cls()
    observer(torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]]))
    assert not observer.is_calibrated
    with pytest.raises(ValueError, match="in all or some channels"):
        observer.calculate_qparams()
    observer(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert observer.is_calibrated
    assert observer.min_val.tolist() == [1.0, 3.0]


def test_a_width_beyond_float32_gives_finite_scales() -> None:
    x = torch.tensor([-3e38, 3e38])
    for cls in (*PER_TENSOR, tq.HistogramObserver):
        observer = cls()
        observer(x)
        observer(x)
        scale, zero_point = observer.calculate_qparams()
        torch.testing.assert_close(scale.double(), torch.tensor([6e38 / 255]).double())
        assert int(zero_point) in (127, 128)


def test_poisoned_statistics_are_refused() -> None:
    """What a state dict may bring along: extremes that are NaN, or in the wrong order."""
    for low, high in ((torch.nan, 1.0), (2.0, 1.0), (0.0, torch.inf)):
        observer = tq.MinMaxObserver()
        observer.min_val.fill_(low)
        observer.max_val.fill_(high)
        with pytest.raises(ValueError, match="must be finite with min <= max"):
            observer.calculate_qparams()


# Per channel


def test_per_channel_shape_errors() -> None:
    observer = tq.PerChannelMinMaxObserver(ch_axis=1)
    with pytest.raises(ValueError, match=r"ch_axis=1 needs a tensor with that axis.*\(3,\)"):
        observer(torch.ones(3))
    observer(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"observed 3 channels along axis 1 before.*\(2, 4\)"):
        observer(torch.ones(2, 4))


def test_per_channel_of_a_vector() -> None:
    observer = tq.PerChannelMinMaxObserver()
    observer(torch.tensor([1.0, -2.0]))
    assert observer.min_val.tolist() == [1.0, -2.0]


# Wrong arguments


@pytest.mark.parametrize(
    ("cls", "kwargs", "error", "text"),
    [
        (tq.MinMaxObserver, {"dtype": torch.float32}, TypeError, "dtype must be octavo.quint8"),
        (tq.MinMaxObserver, {"qscheme": "affine"}, NotImplementedError, "qscheme must be"),
        (
            tq.MinMaxObserver,
            {"qscheme": torch.per_channel_affine},
            NotImplementedError,
            "per_tensor_affine",
        ),
        (
            tq.PerChannelMinMaxObserver,
            {"qscheme": torch.per_tensor_affine},
            NotImplementedError,
            "per_channel_affine",
        ),
        (
            tq.HistogramObserver,
            {"qscheme": torch.per_channel_affine},
            NotImplementedError,
            "per_tensor_affine",
        ),
        (tq.MinMaxObserver, {"quant_min": 0}, ValueError, "both quant_min and quant_max"),
        (tq.MinMaxObserver, {"quant_min": 3, "quant_max": 9}, ValueError, "enclose 0"),
        (tq.MinMaxObserver, {"quant_min": 0, "quant_max": 0}, ValueError, "enclose 0"),
        (tq.MinMaxObserver, {"quant_min": 0, "quant_max": 256}, ValueError, "do not fit"),
        (tq.MinMaxObserver, {"quant_min": -1, "quant_max": 9}, ValueError, "do not fit"),
        (
            tq.MinMaxObserver,
            {"reduce_range": True, "qscheme": torch.per_tensor_symmetric},
            NotImplementedError,
            "needs a signed dtype",
        ),
        (tq.MovingAverageMinMaxObserver, {"is_dynamic": True}, NotImplementedError, "constant=1"),
        (tq.PerChannelMinMaxObserver, {"is_dynamic": True}, NotImplementedError, "is_dynamic"),
        (tq.HistogramObserver, {"is_dynamic": True}, NotImplementedError, "is_dynamic"),
        (tq.HistogramObserver, {"bins": 0}, ValueError, "bins must be at least 1"),
        (tq.MinMaxObserver, {"factory_kwargs": {"size": 3}}, TypeError, "factory_kwargs"),
        (
            tq.FixedQParamsObserver,
            {"scale": 0.0, "zero_point": 0},
            ValueError,
            "scale must be finite and > 0",
        ),
        (
            tq.FixedQParamsObserver,
            {"scale": 1.0, "zero_point": 256},
            ValueError,
            r"zero_point must be within \[0, 255\]",
        ),
    ],
)
def test_wrong_arguments(cls: Any, kwargs: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        cls(**kwargs)
