"""Quantized dtypes, schemes and the validation of quantization parameters."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import octavo
from octavo._tensor.qparams import check_axis, check_channels, check_scale, check_zero_point
from octavo.dtypes import as_qdtype, as_qscheme, is_per_channel, is_symmetric, qscheme_name

DTYPES = [octavo.quint8, octavo.qint8, octavo.qint32]
SCHEMES = [
    octavo.per_tensor_affine,
    octavo.per_tensor_symmetric,
    octavo.per_channel_affine,
    octavo.per_channel_symmetric,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_range_is_that_of_the_storage(dtype: Any) -> None:
    info = torch.iinfo(dtype.storage)
    assert (dtype.qmin, dtype.qmax, dtype.itemsize) == (info.min, info.max, info.bits // 8)
    assert dtype.signed == dtype.is_signed == (info.min < 0)
    assert not dtype.is_floating_point
    assert not dtype.is_complex
    assert repr(dtype) == f"octavo.{dtype.name}"
    with pytest.raises(AttributeError):
        dtype.qmin = 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_to_torchs_dtype(dtype: Any) -> None:
    theirs = getattr(torch, dtype.name, None)
    if theirs is None:
        pytest.skip("this torch has no quantized dtypes (torch.quint8)")
    assert dtype == theirs
    assert theirs == dtype
    assert dtype in {theirs}
    assert as_qdtype(theirs) is dtype
    assert dtype != dtype.storage
    assert dtype is not None


def test_distinct() -> None:
    assert len(set(DTYPES)) == 3
    assert octavo.quint8 != octavo.qint8
    assert octavo.quint8 != "quint8"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_object_per_dtype(dtype: Any) -> None:
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert copy.deepcopy(dtype) is dtype
    assert copy.copy(dtype) is dtype
    file = io.BytesIO()
    torch.save({"dtype": dtype}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["dtype"] is dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_qdtype(dtype: Any) -> None:
    assert as_qdtype(dtype) is dtype
    assert as_qdtype(dtype.storage) is dtype


@pytest.mark.parametrize("wrong", [torch.float32, torch.int16, "quint8", None, 8, []])
def test_as_qdtype_names_the_argument_and_the_choice(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"dtype: .*octavo\.quint8, octavo\.qint8"):
        as_qdtype(wrong)


def test_schemes() -> None:
    assert [qscheme_name(s) for s in SCHEMES] == [
        "per_tensor_affine",
        "per_tensor_symmetric",
        "per_channel_affine",
        "per_channel_symmetric",
    ]
    assert [is_per_channel(s) for s in SCHEMES] == [False, False, True, True]
    assert [is_symmetric(s) for s in SCHEMES] == [False, True, False, True]
    for scheme in SCHEMES:
        assert as_qscheme(scheme) is scheme
        assert as_qscheme(qscheme_name(scheme)) is scheme
    for wrong in ("affine", None, [], torch.uint8):
        with pytest.raises(TypeError, match="qscheme"):
            as_qscheme(wrong)


def _usable(scale: float) -> bool:
    with np.errstate(all="ignore"):
        s = np.float32(scale)
        return bool(np.isfinite(s) and s > 0 and np.isfinite(np.float32(1.0) / s))


TINY = 2.0**-128


@given(st.floats(width=64))
@example(0.0)
@example(-0.0)
@example(-1.0)
@example(math.nan)
@example(math.inf)
@example(TINY)
@example(TINY + 2.0**-150)
@example(math.nextafter(TINY + 2.0**-150, 1.0))
@example(TINY + 2.0**-149)
@example(2.0**-126)
@example(float(np.finfo(np.float32).max))
@example(2.0**128 - 2.0**103)
@example(math.nextafter(2.0**128 - 2.0**103, 0.0))
def test_scale_is_accepted_if_and_only_if_float32_can_use_it(scale: float) -> None:
    if _usable(scale):
        assert check_scale(scale) == scale
    else:
        with pytest.raises(ValueError, match="scale"):
            check_scale(scale)


@pytest.mark.parametrize(
    "scale", [1, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64)]
)
def test_scale_forms(scale: Any) -> None:
    assert check_scale(scale) == float(scale)
    assert type(check_scale(scale)) is float


@pytest.mark.parametrize("scale", ["0.1", None, True, 1j, [0.1], {}])
def test_scale_of_a_wrong_type(scale: Any) -> None:
    with pytest.raises(TypeError, match="scale: expected a positive number"):
        check_scale(scale)


def test_several_scales_point_to_per_channel() -> None:
    with pytest.raises(ValueError, match="quantize_per_channel"):
        check_scale(torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_point_range(dtype: Any) -> None:
    for zero in (dtype.qmin, dtype.qmax, torch.tensor(3), np.int64(5), 7.0):
        assert check_zero_point(zero, dtype) == int(zero)
        assert type(check_zero_point(zero, dtype)) is int
    for zero in (dtype.qmin - 1, dtype.qmax + 1):
        with pytest.raises(ValueError, match=f"zero_point: {zero} is outside"):
            check_zero_point(zero, dtype)
    for wrong in (0.5, "0", None, math.nan, torch.tensor(0.5)):
        with pytest.raises(TypeError, match="zero_point: expected an integer"):
            check_zero_point(wrong, dtype)


def test_channels_are_copied_and_widened() -> None:
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([1, 2], dtype=torch.int32)
    ss, zs, axis = check_channels(scales, zeros, -1, (3, 2), octavo.quint8)
    scales.zero_()
    assert ss.tolist() == torch.tensor([0.1, 0.2]).tolist()
    assert (ss.dtype, zs.dtype, axis) == (torch.float64, torch.int64, 1)
    ss, zs, _ = check_channels([0.5, 1], [1, 2], 0, (2,), octavo.quint8)
    assert (ss.tolist(), zs.tolist()) == ([0.5, 1.0], [1, 2])
    assert check_channels([], [], 0, (0,), octavo.qint8)[0].numel() == 0


@pytest.mark.parametrize(
    ("scales", "zeros", "error", "message"),
    [
        ([0.1], [0, 0], ValueError, r"scales: expected one per channel, 2 for axis 1, got .*\[1\]"),
        ([0.1, 0.1], [0], ValueError, "zero_points: expected one per channel, 2 for axis 1"),
        ([[0.1, 0.1]], [0, 0], ValueError, "scales: expected one per channel"),
        ([0.1, -0.1], [0, 0], ValueError, r"scales\[1\]: must be finite and positive"),
        ([math.nan, 0.1], [0, 0], ValueError, r"scales\[0\]: must be finite and positive, got nan"),
        ([0.1, 0.1], [0, 256], ValueError, r"zero_points\[1\]: 256 is outside \[0, 255\]"),
        ([0.1, 0.1], [0.5, 0.0], TypeError, "zero_points: expected integers"),
        ([True, True], [0, 0], TypeError, "scales: expected numbers"),
    ],
)
def test_wrong_channels(scales: Any, zeros: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_channels(torch.tensor(scales), torch.tensor(zeros), 1, (3, 2), octavo.quint8)


def test_axis() -> None:
    assert [check_axis(a, 3) for a in (0, 2, -1, -3)] == [0, 2, 2, 0]
    for wrong in (3, -4):
        with pytest.raises(ValueError, match=f"axis: {wrong} is out of range"):
            check_axis(wrong, 3)
    with pytest.raises(ValueError, match="axis: 0 is out of range for a tensor of 0 dimensions"):
        check_axis(0, 0)
    with pytest.raises(TypeError, match="axis: expected an integer"):
        check_axis(1.5, 3)
