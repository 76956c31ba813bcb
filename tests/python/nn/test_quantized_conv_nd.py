"""Quantized Conv1d, Conv2d and Conv3d: all arguments against the integer reference and torch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import octavo
from conv_support import (
    LAYOUTS,
    RANKS,
    SPATIAL,
    check_attributes,
    check_batches,
    conv_cases,
    is_channels_last,
    relaid,
    run,
)
from module_observers import observed
from module_support import (
    assert_equals,
    expected_conv,
    generator,
    random_conv,
    random_q,
)
from octavo.nn import intrinsic as nni
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from torch_oracle import assert_close_to_torch

SUPPRESS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
CONVS = {1: nnq.Conv1d, 2: nnq.Conv2d, 3: nnq.Conv3d}


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=120, deadline=None, suppress_health_check=SUPPRESS)
@given(
    case=conv_cases(),
    layout=st.sampled_from(LAYOUTS),
    zero=st.sampled_from([0, 1, 127, 128, 255]),
    signed_in=st.booleans(),
    out=st.sampled_from(["quint8", "qint8"]),
    seed=st.integers(0, 2**16),
)
def test_equals_reference(
    isa: str,
    case: tuple[dict[str, Any], tuple[int, ...]],
    layout: str,
    zero: int,
    signed_in: bool,
    out: str,
    seed: int,
) -> None:
    args, shape = case
    module = random_conv(seed=seed, dtype=out, **args)
    dtype, zero = ("qint8", zero - 128) if signed_in else ("quint8", zero)
    x = relaid(random_q(shape, generator(seed + 1), zero=zero, dtype=dtype), layout)
    y = run(module, x)
    assert_equals(y, module, expected_conv(module, x))
    assert is_channels_last(y.int_repr())


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("rank", "channels", "size", "args"),
    [
        (1, (3, 8, 1), (1,), {"kernel": 1}),
        (1, (3, 8, 1), (1,), {"kernel": 3, "padding": 1}),
        (1, (3, 8, 1), (2,), {"kernel": 9, "padding": 4}),
        (1, (16, 16, 16), (40,), {"kernel": 15, "padding": 7}),
        (1, (80, 64, 1), (50,), {"kernel": 3, "padding": "same"}),
        (1, (1, 1, 1), (33,), {"kernel": 4, "stride": 7}),
        (1, (8, 16, 8), (20,), {"kernel": 2, "dilation": 5}),
        (1, (2, 4, 1), (8,), {"kernel": 3, "padding": 8, "padding_mode": "circular"}),
        (3, (3, 8, 1), (1, 1, 1), {"kernel": 1}),
        (3, (3, 8, 1), (1, 1, 1), {"kernel": 3, "padding": 1}),
        (3, (3, 8, 1), (2, 1, 3), {"kernel": 5, "padding": 2}),
        (3, (16, 16, 16), (3, 4, 5), {"kernel": 3, "padding": 1}),
        (3, (8, 8, 1), (7, 7, 7), {"kernel": 1, "stride": (3, 2, 4)}),
        (3, (4, 6, 2), (4, 4, 4), {"kernel": (1, 2, 3), "padding": "same", "dilation": (2, 1, 1)}),
        (3, (2, 4, 1), (2, 3, 2), {"kernel": 2, "padding": 1, "padding_mode": "reflect"}),
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
    module = random_conv(c_in, c_out, args["kernel"], rank=rank, groups=groups, **_rest(args))
    x = random_q((2, c_in, *size), generator(7), zero=91)
    assert_equals(run(module, x), module, expected_conv(module, x))


def _rest(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if key != "kernel"}


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 8])
def test_empty_batch_and_unbatched_input(isa: str, rank: int, groups: int) -> None:
    module = random_conv(8, 16, 3, rank=rank, groups=groups, stride=2, padding=1)
    check_batches(module, random_q((1, 8, *SPATIAL[rank]), generator(0)))


@pytest.mark.parametrize("rank", RANKS)
def test_shapes_and_arguments_are_those_of_torch(rank: int) -> None:
    float_class = getattr(nn, f"Conv{rank}d")
    for args in (
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "padding": "same", "padding_mode": "circular"},
        {"kernel_size": 3, "padding": "valid", "dilation": 2, "groups": 2, "bias": False},
    ):
        theirs, ours = float_class(4, 6, **args), CONVS[rank](4, 6, **args)
        check_attributes(ours, theirs)
        x = random_q((2, 4, *(size + 3 for size in SPATIAL[rank])), generator(0))
        assert ours(x).shape == theirs(x.dequantize()).shape
        assert (ours.bias() is None) == (theirs.bias is None)


@pytest.mark.parametrize("rank", RANKS)
def test_from_float(rank: int) -> None:
    conv = getattr(nn, f"Conv{rank}d")(6, 8, 3, stride=2, padding=1, groups=2)
    module = CONVS[rank].from_float(observed(conv))
    x = octavo.quantize_per_tensor(torch.randn(2, 6, *SPATIAL[rank]), 0.03, 120, octavo.quint8)
    y = module(x)
    assert (y.dequantize() - conv(x.dequantize())).abs().max() < 0.06
    fused = observed(getattr(nni, f"ConvReLU{rank}d")(conv, nn.ReLU()))
    with_relu = getattr(nniq, f"ConvReLU{rank}d").from_float(fused)
    assert torch.equal(with_relu(x).int_repr(), y.int_repr().clamp(min=module.zero_point))
    assert repr(module).startswith(f"QuantizedConv{rank}d(6, 8, kernel_size=")
    assert repr(with_relu).startswith(f"QuantizedConvReLU{rank}d(6, 8, kernel_size=")


@pytest.mark.parametrize("rank", RANKS)
def test_state_dict_and_copies(rank: int, tmp_path: Any) -> None:
    module = random_conv(6, 8, 3, rank=rank, groups=2, padding=1, padding_mode="replicate")
    x = random_q((2, 6, *SPATIAL[rank]), generator(1))
    want = module(x).int_repr()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in state.values())
    loaded = CONVS[rank](6, 8, 3, groups=2, padding=1, padding_mode="replicate")
    loaded.load_state_dict(state)
    for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x).int_repr(), want)
        assert repr(other) == repr(module)


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 16])
def test_against_torch(isa: str, rank: int, groups: int) -> None:
    """torch's engines compute the same sums; results may differ by one step near ties."""
    module = random_conv(16, 32, 3, rank=rank, groups=groups, padding=1)
    x = random_q((2, 16, *SPATIAL[rank]), generator(4), zero=100)
    ones = [1] * rank
    assert_close_to_torch(module, x, f"conv{rank}d", ones, ones, ones, groups)
