"""Convolutions over all arguments: what the sweeps reach, float outputs, agreement with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import reference as ref
from conv_support import LAYOUTS, conv_cases, conv_transpose_cases, relaid, run
from module_support import (
    as_ref,
    generator,
    padded_for,
    random_conv,
    random_q,
    threads,
    weight_arrays,
)
from octavo import QTensor, backend
from octavo.nn import quantized as nnq
from torch_oracle import torch_quantized

SUPPRESS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
EVERY = settings(max_examples=40, deadline=None, suppress_health_check=SUPPRESS)
FEWER = settings(EVERY, max_examples=20)
MANY = settings(max_examples=3000, deadline=None, database=None, phases=[Phase.generate])
Shape = tuple[int, ...]
Case = tuple[dict[str, Any], Shape]
SIZES: dict[int, Shape] = {1: (50,), 2: (14, 15), 3: (5, 8, 9)}

# What the sweeps have to reach, from a convolution's arguments and its input's shape.
BOTH: dict[str, Callable[[dict[str, Any], Shape], bool]] = {
    "one pixel": lambda a, x: all(n == 1 for n in x[2:]) and a["rank"] > 1,
    "width 1": lambda a, x: x[-1] == 1 and max(x[2:]) > 1,
    "empty batch": lambda a, x: x[0] == 0,
    "one channel": lambda a, x: x[1] == 1,
    "one output channel": lambda a, x: a["c_out"] == 1,
    "kernel larger than the image": lambda a, x: any(
        k > n for k, n in zip(a["kernel"], x[2:], strict=True)
    ),
    "stride larger than the kernel": lambda a, x: any(
        s > k for s, k in zip(a["stride"], a["kernel"], strict=True)
    ),
    "dilation": lambda a, x: a["dilation"] != (1,) * a["rank"] and max(a["kernel"]) > 1,
    "depthwise": lambda a, x: a["groups"] == x[1] == a["c_out"] > 1,
    "multiplier": lambda a, x: a["groups"] == x[1] > 1 and a["c_out"] > x[1],
    "groups": lambda a, x: 1 < a["groups"] < x[1],
    "weight zero points": lambda a, x: a["zeros"],
    "per tensor": lambda a, x: not a["per_channel"] and a["c_out"] > 1,
    "no bias": lambda a, x: not a["bias"],
    "1d": lambda a, x: a["rank"] == 1,
    "2d": lambda a, x: a["rank"] == 2,
    "3d": lambda a, x: a["rank"] == 3,
}
PLAIN = BOTH | {
    "same": lambda a, x: a["padding"] == "same" and max(a["kernel"]) > 1,
    "valid": lambda a, x: a["padding"] == "valid",
    "reflect": lambda a, x: a["padding_mode"] == "reflect" and max(a["kernel"]) > 1,
    "replicate": lambda a, x: a["padding_mode"] == "replicate",
    "circular": lambda a, x: a["padding_mode"] == "circular",
}
TRANSPOSED = BOTH | {
    "output padding": lambda a, x: max(a["output_padding"]) > 0,
    "output padding above the stride": lambda a, x: any(
        e >= s for e, s in zip(a["output_padding"], a["stride"], strict=True)
    ),
}


@pytest.mark.parametrize("what", PLAIN)
def test_the_sweep_of_convolutions_reaches(what: str) -> None:
    find(conv_cases(), lambda case: PLAIN[what](*case), settings=MANY)


@pytest.mark.parametrize("what", TRANSPOSED)
def test_the_sweep_of_transposed_convolutions_reaches(what: str) -> None:
    find(conv_transpose_cases(), lambda case: TRANSPOSED[what](*case), settings=MANY)


def transposed(seed: int, **args: Any) -> Any:
    return random_conv(seed=seed, cls=getattr(nnq, f"ConvTranspose{args['rank']}d"), **args)


def activation(shape: Shape, seed: int, signed: bool, layout: str) -> QTensor:
    dtype, zero = ("qint8", -28) if signed else ("quint8", 100)
    return relaid(random_q(shape, generator(seed), zero=zero, dtype=dtype), layout)


def equal_on_threads(call: Callable[[], torch.Tensor], want: Any) -> None:
    for count in (1, 2):
        with threads(count):
            np.testing.assert_array_equal(call().numpy(), want)


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@EVERY
@given(
    case=conv_cases(),
    layout=st.sampled_from(LAYOUTS),
    signed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_float_outputs(isa: str, case: Case, layout: str, signed: bool, seed: int) -> None:
    args, shape = case
    module = random_conv(seed=seed, **args)
    x = activation(shape, seed + 1, signed, layout)
    q = as_ref(x)
    w, scales, zeros, bias = weight_arrays(module)
    padded = ref.Q(padded_for(module, q.array, q.zero), q.scale, q.zero)
    geometry = (module.stride, None, module.dilation, module.groups)
    acc = ref.conv_sums(padded, w, zeros, *geometry)
    want = ref.float_output(acc, bias, q.scale, scales, args["relu"])
    inside = module._with_border(x._int)
    equal_on_threads(
        lambda: module._packed.dequantized_output(inside, q.scale, q.zero, args["relu"]), want
    )


@pytest.mark.kernel
@EVERY
@given(
    case=conv_transpose_cases(),
    layout=st.sampled_from(LAYOUTS),
    signed=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_float_outputs_of_transposed_convolutions(
    isa: str, case: Case, layout: str, signed: bool, relu: bool, seed: int
) -> None:
    args, shape = case
    module = transposed(seed, **args)
    x = activation(shape, seed + 1, signed, layout)
    q = as_ref(x)
    w, scales, zeros, bias = weight_arrays(module)
    acc = ref.conv_transpose_sums(
        q,
        w,
        zeros,
        module.stride,
        module.padding,
        module.output_padding,
        module.dilation,
        module.groups,
    )
    scales = scales if scales.size == 1 else np.tile(scales, module.groups)
    want = ref.float_output(acc, bias, q.scale, scales, relu)
    equal_on_threads(lambda: module._packed.dequantized_output(x._int, q.scale, q.zero, relu), want)


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@FEWER
@given(case=conv_cases(), signed=st.booleans(), seed=st.integers(0, 2**16))
def test_within_half_a_step_of_torch_in_float64(
    isa: str, case: Case, signed: bool, seed: int
) -> None:
    args, shape = case
    module = random_conv(seed=seed, **args)
    x = activation(shape, seed + 1, signed, "channels last")
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    float_conv = getattr(torch.nn, f"Conv{args['rank']}d")(
        args["c_in"],
        args["c_out"],
        args["kernel"],
        **{name: args[name] for name in names},
        bias=args["bias"],
        dtype=torch.float64,
    )
    w, scales, zeros, bias = (
        None if a is None else torch.from_numpy(a).double() for a in weight_arrays(module)
    )
    assert w is not None
    assert scales is not None
    assert zeros is not None
    channels = (-1, *(1,) * (args["rank"] + 1))
    with torch.no_grad():
        float_conv.weight.copy_((w - zeros.reshape(channels)) * scales.reshape(channels))
        if bias is not None:
            float_conv.bias.copy_(bias)
        real = (x.int_repr().double() - x.q_zero_point()) * float(np.float32(x.q_scale()))
        want = float_conv(real)
    want = want.relu() if args["relu"] else want
    steps = (want / module.scale + module.zero_point).clamp(0, 255)
    assert steps.shape == module(x).shape
    assert not ((module(x).int_repr().double() - steps).abs() > 0.5 + 1e-3).any()


# Layers that networks have. torch 2.13's engine is no oracle for any other: where the padding is
# wider than the kernel, the width dilated or a group tiny, it reads and writes memory not its own.
ORDINARY: list[tuple[int, Shape, dict[str, Any]]] = [
    (1, (32, 48, 3), {"padding": 1}),
    (1, (64, 64, 5), {"stride": 2, "padding": 2}),
    (1, (32, 32, 3), {"groups": 32, "padding": 1, "per_channel": False}),
    (2, (3, 32, 3), {"stride": 2, "padding": 1}),
    (2, (3, 64, 7), {"stride": 2, "padding": 3, "per_channel": False}),
    (2, (16, 96, 1), {"bias": False}),
    (2, (64, 64, 3), {"padding": 1}),
    (2, (96, 96, 3), {"groups": 96, "padding": 1}),
    (2, (96, 96, 5), {"groups": 96, "stride": 2, "padding": 2, "bias": False}),
    (2, (64, 64, 3), {"groups": 4, "padding": 1}),
    (2, (128, 24, 1), {"stride": 2}),
    (3, (3, 32, 3), {"stride": (1, 2, 2), "padding": 1}),
    (3, (32, 32, 3), {"padding": 1, "per_channel": False}),
    (3, (32, 32, 1), {"bias": False}),
]


@pytest.mark.kernel
@pytest.mark.parametrize(("rank", "shape", "args"), ORDINARY)
def test_within_a_step_of_torch_quantized(
    isa: str, rank: int, shape: tuple[int, int, int], args: dict[str, Any]
) -> None:
    """Integers so small that none of torch's engines saturates them."""
    if backend.emulated_features():
        pytest.skip("torch's engines are not run under the AMX instruction emulator")
    c_in, c_out, kernel = shape
    module = random_conv(c_in, c_out, kernel, rank=rank, **args)
    arrays = weight_arrays(module)
    w, scales, zeros, bias = (None if a is None else torch.from_numpy(a) for a in arrays)
    assert w is not None
    assert scales is not None
    assert zeros is not None
    w, zeros = w // 2, zeros.long()
    half = random_q((2, c_in, *SIZES[rank]), generator(1)).int_repr() // 2
    numbers = [list(n) for n in (module.stride, module.padding, module.dilation)]
    with torch_quantized():
        theirs_w = (
            torch._make_per_channel_quantized_tensor(w, scales.double(), zeros, 0)
            if scales.numel() > 1
            else torch._make_per_tensor_quantized_tensor(w, float(scales), 0)
        )
        ops = torch.ops.quantized
        packed = getattr(ops, f"conv{rank}d_prepack")(theirs_w, bias, *numbers, module.groups)
        theirs = getattr(ops, f"conv{rank}d")(
            torch._make_per_tensor_quantized_tensor(half, 0.02, 50),
            packed,
            module.scale,
            module.zero_point,
        ).int_repr()
    axis = {"axis": 0} if scales.numel() > 1 else {}
    module.set_weight_bias(QTensor.from_int_repr(w, scales, zeros, **axis), bias)
    ours = run(module, QTensor.from_int_repr(half, 0.02, 50)).int_repr()
    assert ours.shape == theirs.shape
    assert len(ours.unique()) > 50
    assert (ours.int() - theirs.int()).abs().max() <= 1
