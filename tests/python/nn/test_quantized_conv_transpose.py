"""Quantized ConvTranspose1d, 2d and 3d: all arguments against the integer reference and torch."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import octavo
import octavo.nn.quantized.functional as qF
from conv_support import (
    LAYOUTS,
    RANKS,
    SPATIAL,
    check_attributes,
    check_batches,
    conv_transpose_cases,
    is_channels_last,
    relaid,
    run,
)
from module_observers import Config, observed
from module_support import (
    assert_equals,
    expected_conv_transpose,
    generator,
    random_conv,
    random_q,
    random_weight,
    weight_arrays,
)
from octavo import QTensor
from octavo.nn import quantized as nnq
from octavo.quantization.observer import PerChannelMinMaxObserver
from torch_oracle import torch_quantized

SUPPRESS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
MODULES = {1: nnq.ConvTranspose1d, 2: nnq.ConvTranspose2d, 3: nnq.ConvTranspose3d}
FLOAT = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FUNCTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def random_transposed(c_in: int, c_out: int, kernel: Any, rank: int = 2, **args: Any) -> Any:
    return random_conv(c_in, c_out, kernel, cls=MODULES[rank], rank=rank, **args)


@pytest.mark.kernel
@settings(max_examples=120, deadline=None, suppress_health_check=SUPPRESS)
@given(
    case=conv_transpose_cases(),
    layout=st.sampled_from(LAYOUTS),
    zero=st.sampled_from([0, 1, 127, 128, 255]),
    signed_in=st.booleans(),
    out=st.sampled_from(["quint8", "qint8"]),
    relu=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_reference(
    isa: str,
    case: tuple[dict[str, Any], tuple[int, ...]],
    layout: str,
    zero: int,
    signed_in: bool,
    out: str,
    relu: bool,
    seed: int,
) -> None:
    args, shape = case
    module = random_transposed(seed=seed, dtype=out, **args)
    module._relu = relu
    dtype, zero = ("qint8", zero - 128) if signed_in else ("quint8", zero)
    x = relaid(random_q(shape, generator(seed + 1), zero=zero, dtype=dtype), layout)
    y = run(module, x)
    assert_equals(y, module, expected_conv_transpose(module, x))
    assert is_channels_last(y.int_repr())


@pytest.mark.kernel
@settings(max_examples=60, deadline=None, suppress_health_check=SUPPRESS)
@given(case=conv_transpose_cases(), seed=st.integers(0, 2**16))
def test_equals_torch_on_dequantized_values(
    isa: str, case: tuple[dict[str, Any], tuple[int, ...]], seed: int
) -> None:
    """The float result, in float64, lies within half a step of ours (and what float32 rounds)."""
    args, shape = case
    module = random_transposed(seed=seed, **args)
    x = random_q(shape, generator(seed + 1), zero=100)
    w, scales, zeros, bias = (
        None if a is None else torch.from_numpy(a).double() for a in weight_arrays(module)
    )
    assert w is not None
    assert scales is not None
    assert zeros is not None
    channels = (1, -1, *(1,) * args["rank"])
    want = FUNCTIONS[args["rank"]](
        (x.int_repr().double() - 100) * np.float32(x.q_scale()).astype(float),
        (w - zeros.reshape(channels)) * scales.reshape(channels),
        bias,
        args["stride"],
        args["padding"],
        args["output_padding"],
        args["groups"],
        args["dilation"],
    )
    steps = (want / module.scale + module.zero_point).clamp(0, 255)
    far = (module(x).int_repr().double() - steps).abs() > 0.5 + 1e-3
    assert not far.any()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("rank", "channels", "size", "args"),
    [
        (2, (64, 32, 1), (16, 16), {"kernel": 2, "stride": 2}),
        (2, (64, 32, 1), (3, 130), {"kernel": 2, "stride": 2}),
        (2, (16, 24, 1), (7, 5), {"kernel": 4, "stride": 2, "padding": 1}),
        (2, (8, 8, 1), (6, 6), {"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1}),
        (2, (3, 8, 1), (1, 1), {"kernel": 1}),
        (2, (3, 8, 1), (1, 1), {"kernel": 7, "padding": 3}),
        (2, (3, 8, 1), (2, 3), {"kernel": 9, "stride": 2}),
        (2, (4, 6, 2), (4, 5), {"kernel": 2, "stride": 5}),
        (2, (4, 6, 2), (4, 5), {"kernel": 1, "stride": 3, "output_padding": 2}),
        (2, (21, 21, 1), (3, 2), {"kernel": 16, "stride": 8, "padding": 4}),
        (2, (16, 16, 16), (6, 7), {"kernel": 4, "stride": 2, "padding": 1}),
        (2, (8, 8, 1), (5, 5), {"kernel": 3, "stride": 4, "dilation": 6}),
        (2, (8, 8, 1), (5, 5), {"kernel": 3, "dilation": 2, "output_padding": 1}),
        (1, (80, 40, 1), (25,), {"kernel": 16, "stride": 8, "padding": 4}),
        (1, (1, 1, 1), (33,), {"kernel": 4, "stride": 7}),
        (1, (3, 8, 1), (1,), {"kernel": 9, "padding": 4}),
        (3, (8, 4, 1), (2, 3, 4), {"kernel": 2, "stride": 2}),
        (3, (3, 8, 1), (1, 1, 1), {"kernel": 3, "padding": 1}),
        (3, (4, 6, 2), (3, 2, 2), {"kernel": (1, 2, 3), "stride": (3, 1, 2)}),
    ],
)
def test_special_shapes(
    isa: str,
    rank: int,
    channels: tuple[int, int, int],
    size: tuple[int, ...],
    args: dict[str, Any],
) -> None:
    c_in, c_out, groups = channels
    kernel = args["kernel"]
    rest = {key: value for key, value in args.items() if key != "kernel"}
    module = random_transposed(c_in, c_out, kernel, rank=rank, groups=groups, **rest)
    x = random_q((2, c_in, *size), generator(7), zero=91)
    assert_equals(run(module, x), module, expected_conv_transpose(module, x))


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 8])
def test_empty_batch_and_unbatched_input(isa: str, rank: int, groups: int) -> None:
    module = random_transposed(8, 16, 3, rank=rank, groups=groups, stride=2, padding=1)
    check_batches(module, random_q((1, 8, *SPATIAL[rank]), generator(0)))


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_output_size(isa: str, rank: int) -> None:
    """The sizes that torch takes, with and without batch and channels in front, and no others."""
    args = {"stride": 3, "padding": 1, "dilation": 2, "output_padding": 1}
    module = random_transposed(4, 6, 2, rank=rank, **args)
    theirs = FLOAT[rank](4, 6, 2, **args)
    x = random_q((2, 4, *SPATIAL[rank]), generator(3))
    least = [(size - 1) * 3 - 2 + 2 + 1 for size in SPATIAL[rank]]
    for extra in range(3):
        size = [low + extra for low in least]
        size[-1] = least[-1] + (extra + 1) % 3
        padding = tuple(s - low for s, low in zip(size, least, strict=True))
        want = expected_conv_transpose(module, x, padding)
        assert_equals(run(module, x, size), module, want)
        assert_equals(run(module, x, [9, 9, *size]), module, want)
        assert module(x, size).shape == theirs(x.dequantize(), size).shape
    for wrong in ([low - 1 for low in least], [low + 3 for low in least], [*least, 7, 7, 7]):
        for run_it in (lambda s: module(x, s), lambda s: theirs(x.dequantize(), s)):
            with pytest.raises(ValueError, match=r"output.size"):
                run_it(wrong)


@pytest.mark.parametrize("rank", RANKS)
def test_shapes_and_arguments_are_those_of_torch(rank: int) -> None:
    for args in (
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "groups": 2, "bias": False},
        {"kernel_size": 3, "dilation": 3, "output_padding": 2},
    ):
        theirs, ours = FLOAT[rank](4, 6, **args), MODULES[rank](4, 6, **args)
        check_attributes(ours, theirs)
        x = random_q((2, 4, *SPATIAL[rank]), generator(0))
        assert ours(x).shape == theirs(x.dequantize()).shape
        assert ours.weight.shape == theirs.weight.shape
        assert (ours.bias() is None) == (theirs.bias is None)


@pytest.mark.parametrize("rank", RANKS)
def test_signature_is_that_of_torch(rank: int) -> None:
    oracle = pytest.importorskip("torch.ao.nn.quantized")

    def parameters(cls: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(cls).parameters.values()]

    assert parameters(MODULES[rank]) == parameters(getattr(oracle, f"ConvTranspose{rank}d"))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 2])
def test_from_float(rank: int, groups: int) -> None:
    conv = FLOAT[rank](6, 8, 3, stride=2, padding=1, output_padding=1, groups=groups)
    with torch.no_grad():  # channels that one scale could not serve
        conv.weight *= torch.logspace(-2, 0, 8 // groups).reshape(1, -1, *(1,) * rank)
    module = MODULES[rank].from_float(observed(conv))
    x = octavo.quantize_per_tensor(torch.randn(2, 6, *SPATIAL[rank]), 0.03, 120, octavo.quint8)
    assert (module(x).dequantize() - conv(x.dequantize())).abs().max() < 0.06
    assert module.weight.q_per_channel_axis() == 1
    assert len(module.weight.q_per_channel_scales()) == 8 // groups
    exact = conv.weight.detach()
    error = (module.weight.dequantize() - exact).abs().amax(dim=[0, *range(2, rank + 2)])
    largest = exact.abs().amax(dim=[0, *range(2, rank + 2)])
    assert (error <= largest / 127 * 0.51).all()
    assert repr(module).startswith(f"QuantizedConvTranspose{rank}d(6, 8, kernel_size=")
    assert f"output_padding={(1,) * rank}" in repr(module)


def test_per_channel_observers_are_set_to_axis_1() -> None:
    conv = nn.ConvTranspose2d(6, 4, 2, stride=2)
    for axis in (0, 1, -3):

        class Axis(Config):
            weight = PerChannelMinMaxObserver.with_args(
                dtype=octavo.qint8, qscheme=octavo.per_channel_symmetric, ch_axis=axis
            )

        mod = observed(copy.deepcopy(conv))
        mod.qconfig = Axis()
        module = nnq.ConvTranspose2d.from_float(mod)
        assert module.weight.q_per_channel_axis() == 1
        want = conv.weight.detach().abs().amax(dim=(0, 2, 3)) / 127.5
        assert torch.allclose(module.weight.q_per_channel_scales().float(), want)
    mod.qconfig.weight = PerChannelMinMaxObserver.with_args(
        dtype=octavo.qint8, qscheme=octavo.per_channel_symmetric, ch_axis=2
    )
    with pytest.raises(ValueError, match="per channel on axis 1"):
        nnq.ConvTranspose2d.from_float(mod)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 2])
def test_state_dict_and_copies(rank: int, groups: int, tmp_path: Any) -> None:
    args = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups}
    module = random_transposed(6, 8, 3, rank=rank, **args)
    x = random_q((2, 6, *SPATIAL[rank]), generator(1))
    want = module(x).int_repr()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in state.values())
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "weight_int8": (6, 8 // groups, *(3,) * rank),
        "weight_scale": (8 // groups,),
        "weight_zero_point": (8 // groups,),
        "bias": (8,),
        "scale": (),
        "zero_point": (),
    }
    loaded = MODULES[rank](6, 8, 3, **args)
    loaded.load_state_dict(state)
    for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x).int_repr(), want)
        assert repr(other) == repr(module)
    for key, wrong in {
        "weight_scale": torch.ones(5),
        "bias": torch.zeros(6),
        "weight_int8": state["weight_int8"].transpose(0, 1).contiguous(),
    }.items():
        with pytest.raises(RuntimeError, match=f"'{key}' must have shape"):
            loaded.load_state_dict({**state, key: wrong})
    assert torch.equal(loaded(x).int_repr(), want)


def test_set_weight_bias() -> None:
    module = nnq.ConvTranspose2d(4, 6, 2, groups=2)
    w = random_weight((4, 3, 2, 2), generator(0), axis=1)
    module.set_weight_bias(w, torch.arange(6.0))
    assert torch.equal(module.weight.int_repr(), w.int_repr())
    assert torch.equal(module.weight().q_per_channel_scales(), w.q_per_channel_scales())
    assert torch.equal(module.bias(), torch.arange(6.0))
    with pytest.raises(ValueError, match="per channel on axis 1, got axis 0"):
        module.set_weight_bias(random_weight((4, 3, 2, 2), generator(0)), None)
    with pytest.raises(ValueError, match=r"bias must have shape \[6\]"):
        module.set_weight_bias(w, torch.zeros(3))


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_functional(isa: str, rank: int) -> None:
    args = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}
    module = random_transposed(6, 8, 3, rank=rank, dtype="qint8", **args)
    x = random_q((2, 6, *SPATIAL[rank]), generator(1))
    function = getattr(qF, f"conv_transpose{rank}d")
    y = function(
        x,
        module.weight,
        module.bias(),
        **args,
        scale=module.scale,
        zero_point=module.zero_point,
        dtype=octavo.qint8,
    )
    assert_equals(y, module, module(x).int_repr().numpy())
    names = list(inspect.signature(function).parameters)
    assert names == [
        *("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
        *("scale", "zero_point", "dtype"),
    ]
    with pytest.raises(TypeError, match=rf"functional\.conv_transpose{rank}d: weight must be"):
        function(x, torch.zeros(6, 4, *(3,) * rank))
    with pytest.raises(RuntimeError, match=rf"functional\.conv_transpose{rank}d: .*smaller than"):
        function(x, module.weight, output_padding=7, groups=2)


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_against_torch(isa: str, rank: int) -> None:
    """fbgemm computes the same sums; results may differ by one step near ties."""
    module = random_transposed(
        16, 8, 4, rank=rank, stride=2, padding=1, per_channel=False, zeros=False
    )
    w, scales, _, bias = (None if a is None else torch.from_numpy(a) for a in weight_arrays(module))
    assert w is not None
    assert scales is not None
    x = random_q((2, 16, *SPATIAL[rank]), generator(4), zero=100)
    w, half = w // 2, x.int_repr() // 2  # where fbgemm without VNNI does not saturate
    before = torch.backends.quantized.engine
    with torch_quantized():
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            pytest.skip("this torch has no fbgemm engine")
        torch.backends.quantized.engine = "fbgemm"
        try:
            theirs_w = torch._make_per_tensor_quantized_tensor(w, float(scales), 0)
            ops = torch.ops.quantized
            two, one, none = [2] * rank, [1] * rank, [0] * rank
            packed = getattr(ops, f"conv_transpose{rank}d_prepack")(
                theirs_w, bias, two, one, none, one, 1
            )
            theirs = getattr(ops, f"conv_transpose{rank}d")(
                torch._make_per_tensor_quantized_tensor(half, 0.02, 50),
                packed,
                module.scale,
                module.zero_point,
            )
        finally:
            torch.backends.quantized.engine = before
    module.set_weight_bias(QTensor.from_int_repr(w, scales, torch.zeros(1).long()), bias)
    ours = module(QTensor.from_int_repr(half, 0.02, 50))
    assert ours.shape == theirs.shape
    difference = (ours.int_repr().int() - theirs.int_repr().int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
