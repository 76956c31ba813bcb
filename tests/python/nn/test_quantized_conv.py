"""Quantized Conv2d, ConvReLU2d and ConvAdd(ReLU)2d against the integer reference and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import octavo
import reference as ref
from conv_support import LAYOUTS, relaid, run
from module_observers import observed
from module_support import (
    as_ref,
    assert_equals,
    expected_conv,
    generator,
    output_of,
    random_conv,
    random_q,
    weight_arrays,
)
from octavo import QTensor
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from torch_oracle import assert_close_to_torch

SUPPRESS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
KERNELS = st.tuples(st.integers(1, 5), st.integers(1, 5))
SMALL = st.tuples(st.integers(1, 3), st.integers(1, 3))
IMAGES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def channel_counts(draw: Any) -> tuple[int, int, int]:
    """(in, out, groups): dense, grouped, depthwise, and depthwise with a multiplier."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 16, 17, 33]))
    per_in = draw(st.sampled_from([1, 2, 3, 5, 16, 33, 64])) if groups <= 4 else 1
    per_out = draw(st.sampled_from([1, 2, 5, 17, 65] if groups <= 4 else [1, 1, 2]))
    return groups * per_in, groups * per_out, groups


@pytest.mark.kernel
@settings(max_examples=80, deadline=None, suppress_health_check=SUPPRESS)
@given(
    channels=channel_counts(),
    kernel=KERNELS,
    stride=SMALL,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=SMALL,
    batch=st.integers(1, 3),
    image=IMAGES,
    layout=st.sampled_from(LAYOUTS),
    zero=st.sampled_from([0, 1, 127, 128, 255]),
    signed_in=st.booleans(),
    out=st.sampled_from(["quint8", "qint8"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**16),
)
def test_equals_reference(
    isa: str,
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    batch: int,
    image: tuple[int, int],
    layout: str,
    zero: int,
    signed_in: bool,
    out: str,
    flags: tuple[bool, bool, bool, bool],
    seed: int,
) -> None:
    for size, k, p, d in zip(image, kernel, padding, dilation, strict=True):
        assume(size + 2 * p >= d * (k - 1) + 1)
    c_in, c_out, groups = channels
    bias, relu, per_channel, weight_zeros = flags
    module = random_conv(
        c_in,
        c_out,
        kernel,
        seed,
        relu=relu,
        dtype=out,
        per_channel=per_channel and c_out > 1,
        zeros=weight_zeros,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    dtype, zero = ("qint8", zero - 128) if signed_in else ("quint8", zero)
    x = relaid(random_q((batch, c_in, *image), generator(seed + 1), zero=zero, dtype=dtype), layout)
    y = run(module, x)
    assert_equals(y, module, expected_conv(module, x))
    assert y.int_repr().is_contiguous(memory_format=torch.channels_last)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("channels", "image", "args"),
    [
        ((3, 8, 1), (1, 1), {"kernel": 3, "padding": 1}),
        ((3, 8, 1), (1, 1), {"kernel": 1}),
        ((3, 8, 1), (2, 3), {"kernel": 7, "padding": 3}),
        ((16, 16, 16), (9, 1), {"kernel": 5, "padding": 2}),
        ((16, 16, 16), (1, 1), {"kernel": 3, "padding": 1}),
        ((32, 64, 32), (7, 7), {"kernel": 3, "padding": 1, "stride": 2}),
        ((1, 1, 1), (5, 5), {"kernel": 3}),
        ((3, 16, 1), (15, 15), {"kernel": 7, "padding": 3, "stride": 2}),
        ((64, 70, 1), (7, 7), {"kernel": 3, "padding": 1}),
        ((8, 8, 1), (9, 9), {"kernel": 1, "stride": 3}),
        ((8, 8, 1), (5, 5), {"kernel": 1, "padding": 2}),
        ((8, 8, 2), (6, 6), {"kernel": (1, 4), "padding": (0, 3), "dilation": (1, 2)}),
        ((65, 33, 1), (3, 3), {"kernel": 3}),
    ],
)
def test_special_shapes(
    isa: str, channels: tuple[int, int, int], image: tuple[int, int], args: dict[str, Any]
) -> None:
    c_in, c_out, groups = channels
    module = random_conv(c_in, c_out, args["kernel"], groups=groups, **_without(args, "kernel"))
    x = random_q((2, c_in, *image), generator(7), zero=91)
    assert_equals(run(module, x), module, expected_conv(module, x))


def _without(args: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in args.items() if k != key}


@pytest.mark.kernel
@pytest.mark.parametrize("groups", [1, 8])
def test_empty_batch(isa: str, groups: int) -> None:
    module = random_conv(8, 16, 3, groups=groups, stride=2)
    y = run(module, random_q((0, 8, 9, 10), generator(0)))
    assert y.shape == (0, 16, 4, 4)
    assert y.q_scale() == module.scale


@pytest.mark.kernel
def test_unbatched_input(isa: str) -> None:
    module = random_conv(5, 6, 3, padding=1)
    x = random_q((1, 5, 8, 9), generator(0))
    single = QTensor.from_int_repr(x.int_repr()[0], x.q_scale(), x.q_zero_point())
    y = run(module, single)
    assert y.shape == (6, 8, 9)
    assert torch.equal(y.int_repr(), module(x).int_repr()[0])


@pytest.mark.kernel
def test_result_of_an_image_does_not_depend_on_the_batch(isa: str) -> None:
    module = random_conv(9, 21, 3, padding=1)
    x = random_q((5, 9, 7, 7), generator(0))
    whole = module(x).int_repr()
    for i in range(5):
        one = QTensor.from_int_repr(x.int_repr()[i : i + 1], x.q_scale(), x.q_zero_point())
        assert torch.equal(module(one).int_repr()[0], whole[i])


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"),
    [
        (3, "same", 1),
        (4, "same", 1),
        ((2, 5), "same", (3, 1)),
        (3, "valid", 1),
        (3, (2, 1), 1),
        (1, 0, 1),
    ],
)
def test_string_paddings_and_modes(
    isa: str, mode: str, kernel: Any, padding: Any, dilation: Any
) -> None:
    """The same as an unpadded convolution of an image that was padded in float."""
    args: dict[str, Any] = {"padding": padding, "dilation": dilation, "padding_mode": mode}
    module = random_conv(4, 6, kernel, bias=True, **args)
    x = random_q((2, 4, 8, 9), generator(3), zero=77)
    twin = torch.nn.Conv2d(4, 6, kernel, **args)
    widths = twin._reversed_padding_repeated_twice
    how = {"mode": "constant"} if mode == "zeros" else {"mode": mode}
    steps = torch.nn.functional.pad(x.int_repr().float() - 77, widths, **how)
    padded = QTensor.from_int_repr((steps + 77).to(torch.uint8), x.q_scale(), 77)
    plain = nnq.Conv2d(4, 6, kernel, dilation=dilation)
    plain.set_weight_bias(*module._weight_bias())
    plain._set_output(module.scale, module.zero_point, octavo.quint8)
    y = run(module, x)
    assert_equals(y, module, expected_conv(plain, padded))
    assert y.shape == twin(x.dequantize()).shape


@pytest.mark.kernel
@pytest.mark.parametrize("cls", [nniq.ConvAdd2d, nniq.ConvAddReLU2d])
@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("dtype", ["quint8", "qint8"])
def test_residual_add(isa: str, cls: Any, groups: int, dtype: str) -> None:
    module = random_conv(12, 24, 3, cls=cls, padding=1, groups=groups, dtype=dtype)
    x = random_q((2, 12, 7, 5), generator(1))
    extra = random_q((2, 24, 7, 5), generator(2), scale=module.scale * 0.7, zero=10, dtype=dtype)
    y = run(module, x, extra)
    assert_equals(y, module, expected_conv(module, x, extra))
    assert torch.equal(module(x, relaid(extra, "channels last")).int_repr(), y.int_repr())


@pytest.mark.kernel
def test_extremes_and_both_clamps(isa: str) -> None:
    for groups in (1, 4):
        module = nnq.Conv2d(4, 4, 3, groups=groups, padding=1, bias=False)
        weight = torch.full((4, 4 // groups, 3, 3), -128, dtype=torch.int8)
        weight[::2] = 127
        module.set_weight_bias(QTensor.from_int_repr(weight, 1.0, 0), None)
        module._set_output(1000.0, 100, octavo.quint8)
        for zero, value in ((0, 255), (255, 0)):
            image = torch.full((1, 4, 6, 6), value, dtype=torch.uint8)
            x = QTensor.from_int_repr(image, 1.0, zero)
            y = run(module, x)
            assert_equals(y, module, expected_conv(module, x))
            assert {0, 255} <= set(y.int_repr().flatten().tolist())


def test_from_float() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    module = nnq.Conv2d.from_float(observed(conv))
    assert (module.stride, module.padding, module.groups) == ((2, 2), (1, 1), 2)
    x = octavo.quantize_per_tensor(torch.randn(2, 6, 9, 9), 0.03, 120, octavo.quint8)
    y = module(x)
    assert (y.dequantize() - conv(x.dequantize())).abs().max() < 0.06
    fused = observed(nni.ConvReLU2d(conv, torch.nn.ReLU()))
    with_relu = nniq.ConvReLU2d.from_float(fused)
    assert torch.equal(with_relu(x).int_repr(), y.int_repr().clamp(min=module.zero_point))


@pytest.mark.parametrize("padding", [1, "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_from_float_keeps_padding(padding: Any, mode: str) -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode)
    module = nnq.Conv2d.from_float(observed(conv))
    x = octavo.quantize_per_tensor(torch.randn(1, 2, 6, 6), 0.03, 120, octavo.quint8)
    y = module(x)
    assert module.padding == conv.padding
    assert y.shape == conv(x.dequantize()).shape
    assert (y.dequantize() - conv(x.dequantize())).abs().max() < 0.06


def test_weight_attribute_and_repr() -> None:
    module = random_conv(6, 4, 3, groups=2, padding=1, dilation=2)
    assert module.weight.shape == (4, 3, 3, 3)
    assert module.weight().q_per_channel_axis() == 0
    module._set_output(0.5, 3, octavo.quint8)
    assert repr(module) == (
        "QuantizedConv2d(6, 4, kernel_size=(3, 3), stride=(1, 1), scale=0.5, zero_point=3, "
        "padding=(1, 1), dilation=(2, 2), groups=2)"
    )
    assert repr(nniq.ConvReLU2d(3, 4, 1, bias=False)).endswith("bias=False)")
    assert repr(nniq.ConvAdd2d(3, 4, 1)).startswith("QuantizedConvAdd2d(")


@pytest.mark.kernel
@pytest.mark.parametrize("groups", [1, 16])
def test_against_torch(isa: str, groups: int) -> None:
    """torch's engines compute the same sums; results may differ by one step near ties."""
    module = random_conv(16, 32, 3, groups=groups, padding=1)
    x = random_q((2, 16, 9, 9), generator(4), zero=100)
    assert_close_to_torch(module, x, "conv2d", [1, 1], [1, 1], [1, 1], groups)


def test_reference_agrees_with_float_arithmetic() -> None:
    """The reference itself: within half a step of the real-valued layer, or at a clamp."""
    args: dict[str, Any] = {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "groups": 2}
    module = random_conv(4, 6, (3, 2), **args)
    x = random_q((2, 4, 9, 8), generator(3))
    real = torch.nn.functional.conv2d(
        x.dequantize().double(), module.weight.dequantize().double(), module.bias.double(), **args
    )
    steps = real.numpy() / module.scale + module.zero_point
    out = ref.conv2d(
        as_ref(x),
        *weight_arrays(module),
        output_of(module),
        *args.values(),
    )
    assert np.abs(np.clip(steps, 0, 255) - out).max() < 0.5001
