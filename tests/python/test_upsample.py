"""Interpolation: on every ISA equal to the reference, and within a step of torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

import octavo
import reference as ref
from image_support import (
    CHANNELS,
    EIGHT_BIT,
    check,
    eight_bit,
    image,
    layouts,
    qtensor,
    zero_points,
)
from torch_oracle import torch_quantized

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
FACTORS = [1.0, 2.0, 3.0, 4.0, 0.5, 0.7, 1.1, 1.37, 2.1, 2.5, 1 / 3]


@st.composite
def resizes(draw: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A shape, and size or scale_factor as interpolate takes them."""
    dims = draw(st.integers(1, 3))
    most = 9 if dims < 3 else 5
    shape = (
        draw(st.integers(1, 2)),
        draw(CHANNELS),
        *(draw(st.integers(1, most)) for _ in range(dims)),
    )
    if draw(st.booleans()):
        return shape, {"size": tuple(draw(st.integers(1, 2 * most)) for _ in range(dims))}
    factors = tuple(
        draw(st.sampled_from([f for f in FACTORS if int(n * f) >= 1])) for n in shape[2:]
    )
    recompute = draw(st.sampled_from([None, False, True]))
    return shape, {"scale_factor": factors, "recompute_scale_factor": recompute}


def placed(shape: tuple[int, ...], resize: dict[str, Any]) -> tuple[Any, Any]:
    """The output's sizes, and the factors that count."""
    if "size" in resize:
        return resize["size"], (None,) * len(resize["size"])
    factors = resize["scale_factor"]
    to = tuple(int(n * f) for n, f in zip(shape[2:], factors, strict=True))
    return to, (None,) * len(to) if resize["recompute_scale_factor"] else factors


@given(case=resizes(), exact=st.booleans(), dtype=eight_bit, layout=layouts)
def test_nearest(isa: str, case: Any, exact: bool, dtype: Any, layout: str) -> None:
    shape, resize = case
    q = image(dtype, shape, 5)
    x = qtensor(q, layout)
    mode = "nearest-exact" if exact else "nearest"
    got = F.interpolate(x, mode=mode, **resize)
    check(got, ref.upsample_nearest(q.array, *placed(shape, resize), exact), x)
    # Contiguous, because torch's 3-D form places samples otherwise in channels-last tensors.
    values = x.dequantize().contiguous()
    assert torch.equal(got.dequantize(), F.interpolate(values, mode=mode, **resize))


@given(
    case=resizes(), align_corners=st.booleans(), dtype=eight_bit, zero=zero_points, layout=layouts
)
@example(
    case=((1, 3, 4, 5), {"size": (9, 11)}),
    align_corners=True,
    dtype=octavo.quint8,
    zero=100,
    layout="contiguous",
)
def test_linear(
    isa: str, case: Any, align_corners: bool, dtype: Any, zero: int, layout: str
) -> None:
    shape, resize = case
    q = image(dtype, shape, zero)
    x = qtensor(q, layout)
    mode = LINEAR[len(shape) - 2]
    got = F.interpolate(x, mode=mode, align_corners=align_corners, **resize)
    check(got, ref.upsample_linear(q, *placed(shape, resize), align_corners), x)
    values = F.interpolate(x.dequantize(), mode=mode, align_corners=align_corners, **resize)
    # Half a step of rounding, and what 14 bits for the weights cost in up to three dimensions.
    assert ((got.dequantize() - values) / 0.1).abs().max() <= 0.56


@given(case=resizes(), dtype=eight_bit, zero=zero_points)
def test_area(isa: str, case: Any, dtype: Any, zero: int) -> None:
    shape, resize = case
    q = image(dtype, shape, zero)
    x = qtensor(q)
    got = F.interpolate(x, mode="area", **resize)
    check(got, ref.adaptive_avg_pool(q, placed(shape, resize)[0]), x)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_bilinear_is_within_a_step_of_torch(isa: str, dtype: Any, align_corners: bool) -> None:
    x = qtensor(image(dtype, (2, 16, 9, 7), 3))
    with torch_quantized() as torch_:
        theirs = torch_._make_per_tensor_quantized_tensor(x.int_repr(), 0.1, 3)
        for size in ((18, 14), (31, 20), (5, 4)):
            want = F.interpolate(theirs, size, mode="bilinear", align_corners=align_corners)
            got = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
            assert (got.int_repr().int() - want.int_repr().int()).abs().max() <= 1


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_modules_and_older_names(isa: str) -> None:
    nn = torch.nn
    q = image(octavo.quint8, (2, 5, 4, 3), 7)
    x = qtensor(q)
    nearest = ref.upsample_nearest(q.array, (8, 6), (None, None), False)
    linear = ref.upsample_linear(q, (8, 6), (None, None), False)
    aligned = ref.upsample_linear(q, (8, 6), (None, None), True)
    check(nn.Upsample(scale_factor=2)(x), nearest, x)
    check(nn.Upsample((8, 6))(x), nearest, x)
    check(nn.UpsamplingNearest2d(scale_factor=2)(x), nearest, x)
    check(nn.Upsample(scale_factor=2, mode="bilinear")(x), linear, x)
    check(nn.UpsamplingBilinear2d(scale_factor=2)(x), aligned, x)
    check(F.upsample(x, scale_factor=2), nearest, x)
    check(F.upsample_nearest(x, scale_factor=2), nearest, x)
    check(F.upsample_bilinear(x, scale_factor=2), aligned, x)
    qf = octavo.nn.quantized.functional
    check(qf.upsample_bilinear(x, scale_factor=2), aligned, x)
    check(qf.interpolate(x, (8, 6), mode="bilinear"), linear, x)
    assert F.interpolate(x, scale_factor=2).is_contiguous(memory_format=torch.channels_last)
    assert F.interpolate(x[:0], scale_factor=2).shape == (0, 5, 8, 6)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_constant_images_stay(isa: str, dtype: Any) -> None:
    for value in (dtype.qmin, dtype.qmax):
        ints = torch.full((1, 70, 5, 5), value, dtype=dtype.storage)
        for zero in (dtype.qmin, 0, dtype.qmax):
            x = octavo.QTensor.from_int_repr(ints, 0.1, zero)
            for align in (False, True):
                out = F.interpolate(x, (11, 13), mode="bilinear", align_corners=align)
                assert bool((out.int_repr() == value).all())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of size and scale_factor must be given"),
        ({"size": 4, "scale_factor": 2}, ValueError, "exactly one of size and scale_factor"),
        ({"size": (4, 4, 4)}, ValueError, r"size: expected one number or 2, .*got \(4, 4, 4\)"),
        ({"scale_factor": (2.0,)}, ValueError, "scale_factor: expected one number or 2"),
        ({"size": 0}, ValueError, r"size=0 .*it must have at least one element"),
        ({"scale_factor": 0.01}, ValueError, r"scale_factor=0\.01 give the output \[0, 0\]"),
        ({"size": 2.5}, TypeError, r"size: expected integers, got 2\.5"),
        ({"size": 4, "align_corners": True}, ValueError, "align_corners is for the modes linear"),
        ({"size": 4, "mode": "linear"}, ValueError, "mode='linear' needs .* 1 spatial dim"),
        ({"size": 4, "mode": "trilinear"}, ValueError, "mode='trilinear' needs .* 3 spatial"),
        ({"size": 4, "mode": "bicubic"}, TypeError, "mode='bicubic' .*computes in float"),
        ({"size": 4, "recompute_scale_factor": True}, ValueError, "needs scale_factor, got size=4"),
    ],
)
def test_messages(arguments: Any, error: Any, message: str) -> None:
    x = qtensor(image(octavo.quint8, (2, 5, 4, 3), 7))
    with pytest.raises(error, match=message):
        F.interpolate(x, **arguments)


def test_wrong_arguments_of_the_operators() -> None:
    q = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    for call in (
        lambda *a: octavo.ops.upsample_nearest(*a),
        lambda q, *a: octavo.ops.upsample_linear(q, 0, *a),
    ):
        with pytest.raises(ValueError, match="size: expected 2 integers of at least 1"):
            call(q, (4,))
        with pytest.raises(ValueError, match="scales: expected 2 positive numbers"):
            call(q, (4, 4), (float("nan"), 1.0))
        with pytest.raises(ValueError, match="channels and spatial sizes must be at least 1"):
            call(q[:, :, :0], (4, 4))
        with pytest.raises(TypeError, match=r"uint8 or torch\.int8, got torch\.float32"):
            call(q.float(), (4, 4))
