"""Dynamically quantized Conv1d, Conv2d, Conv3d and their ReLU forms: against the definition, to the
bit, across instruction sets and threads, and against torch's own."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import octavo
from conv_support import (
    LAYOUTS,
    RANKS,
    SPATIAL,
    conv_cases,
    float_shape,
    laid_out,
    run_dynamic,
)
from module_support import generator, padded_for, threads
from octavo import _C, backend
from octavo.nn import intrinsic as nni
from octavo.nn.intrinsic.quantized import dynamic as nniqd
from octavo.nn.quantized import dynamic as nnqd
from reference import dynamic_qparams
from torch_oracle import torch_quantized

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
CONVS: dict[int, Any] = {1: nnqd.Conv1d, 2: nnqd.Conv2d, 3: nnqd.Conv3d}
SUPPRESS = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


def conv(rank: int, c_in: int, c_out: int, kernel: Any = 3, seed: int = 0, **args: Any) -> Any:
    """A float convolution."""
    module = getattr(nn, f"Conv{rank}d")(c_in, c_out, kernel, **args)
    g = generator(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return module


def images(batch: int, channels: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Images of different ranges, on one side of zero or on both."""
    g = generator(seed)
    each = (batch, 1, *(1,) * len(size))
    scale = torch.exp2(torch.randint(-20, 9, each, generator=g).float())
    shift = torch.randint(-2, 3, each, generator=g)
    return (torch.randn(batch, channels, *size, generator=g) + shift) * scale


def quantized(x: Tensor, qmax: int, per_tensor: bool) -> tuple[Tensor, float, int]:
    """Values as steps from the zero point, with their scale and zero point, by the definition."""
    scale, zero = dynamic_qparams(float(x.min()), float(x.max()), qmax, per_tensor)
    q = (x * (1 / torch.tensor(scale))).round() + zero
    return q.clamp(0, qmax).double() - zero, scale, zero


def expected(module: Any, x: Tensor) -> Tensor:
    """What the module should give for a batch, its integers exact and its floats rounded once an
    operation."""
    qmax = 127 if module.reduce_range else 255
    weight, rank = module.weight(), x.dim() - 2
    w_scale = module._packed.scales
    parts = [x] if module.per_tensor else x.split(1)
    out = []
    for part in parts:
        steps, scale, _ = quantized(part.float(), qmax, module.per_tensor)
        padded = torch.from_numpy(padded_for(module, steps.numpy(), 0))
        acc = getattr(F, f"conv{rank}d")(  # exact: sums below 2^53
            padded,
            weight.int_repr().double(),
            None,
            module.stride,
            0,
            module.dilation,
            module.groups,
        ).round()
        each = (-1, *(1,) * rank)
        y = acc.float() * (torch.tensor(scale) * w_scale).reshape(each)
        if module.bias() is not None:
            y = y + module.bias().reshape(each)
        out.append(y.relu() if module._relu else y)
    return torch.cat(out).to(x.dtype)


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@settings(max_examples=80, deadline=None, suppress_health_check=SUPPRESS)
@given(
    case=conv_cases(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(FLOATS),
    per_tensor=st.booleans(),
    reduce_range=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(
    isa: str,
    case: tuple[dict[str, Any], tuple[int, ...]],
    layout: str,
    dtype: torch.dtype,
    per_tensor: bool,
    reduce_range: bool,
    seed: int,
) -> None:
    args, (batch, channels, *size) = case
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "bias")
    rank = args["rank"]
    float_module = conv(
        rank, channels, args["c_out"], args["kernel"], seed, **{name: args[name] for name in names}
    )
    module = dynamic(rank, float_module, args["relu"], per_tensor, reduce_range)
    x = laid_out(images(batch, channels, tuple(size), seed).to(dtype), layout)
    y = run_dynamic(module, x)
    assert y.dtype == dtype
    assert y.shape == float_shape(float_module, x)
    if batch:
        assert torch.equal(y, expected(module, x))
        assert backend.last_kernel().endswith(f"__{isa}")


def dynamic(rank: int, module: nn.Module, relu: bool, per_tensor: bool, reduce_range: bool) -> Any:
    options = {"per_tensor": per_tensor, "reduce_range": reduce_range}
    if not relu:
        return CONVS[rank].from_float(module, **options)
    pair = getattr(nni, f"ConvReLU{rank}d")(module, nn.ReLU())
    return getattr(nniqd, f"ConvReLU{rank}d").from_float(pair, **options)


@pytest.mark.parametrize("rank", RANKS)
def test_every_isa_gives_the_same_bits(rank: int) -> None:
    module = CONVS[rank].from_float(conv(rank, 20, 33, padding=1))
    x = images(3, 20, SPATIAL[rank])
    results = []
    for isa in backend.supported():
        with backend.force(isa):
            results.append(module(x))
    assert all(torch.equal(results[0], y) for y in results)


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("groups", [1, 10])
def test_an_image_does_not_depend_on_the_others(isa: str, rank: int, groups: int) -> None:
    module = CONVS[rank].from_float(conv(rank, 10, 20, groups=groups, padding=1))
    for batch in (2, 5, 9):
        x = images(batch, 10, SPATIAL[rank])
        x[1] *= 1e4
        whole = run_dynamic(module, x)
        for i in range(batch):
            assert torch.equal(module(x[i : i + 1]), whole[i : i + 1])
            assert torch.equal(module(x[i]), whole[i])


@pytest.mark.kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_images_that_are_not_finite_are_nan_and_harm_no_other(
    isa: str, bad: float, dtype: torch.dtype, layout: str
) -> None:
    x = torch.randn(5, 7, 6, 5, generator=generator(3)).to(dtype)
    for relu in (False, True):
        module = dynamic(2, conv(2, 7, 9), relu, False, False)
        clean = module(x)
        broken = x.clone()
        broken[2, 4, 3, 3] = bad
        y = run_nan(module, laid_out(broken, layout))
        assert bool(y[2].isnan().all())
        keep = [0, 1, 3, 4]
        assert torch.equal(y[keep], clean[keep])
        per_tensor = dynamic(2, conv(2, 7, 9), relu, True, False)
        assert bool(per_tensor(broken).isnan().all())


def run_nan(module: Any, x: Tensor) -> Tensor:
    with threads(1):
        y = module(x)
    with threads(2):
        again = module(x)
    assert torch.equal(y.nan_to_num(123.0), again.nan_to_num(123.0))
    return y  # type: ignore[no-any-return]


def sqnr(got: Tensor, want: Tensor) -> Tensor:
    """Signal to noise of each image, in dB."""
    dims = tuple(range(1, want.dim()))
    return 10 * torch.log10(want.pow(2).sum(dims) / (got - want).pow(2).sum(dims))


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_images_of_different_ranges_keep_their_accuracy(isa: str, rank: int) -> None:
    """Ranges 1000 times apart: one scale for the batch leaves nothing of the small images."""
    float_module = conv(rank, 16, 24, padding=1)
    x = torch.randn(4, 16, *SPATIAL[rank], generator=generator(1))
    x[2] *= 1000
    with torch.no_grad():
        want = float_module(x)
    per_image = sqnr(CONVS[rank].from_float(float_module)(x), want)
    per_tensor = sqnr(CONVS[rank].from_float(float_module, per_tensor=True)(x), want)
    assert float(per_image.min()) > 35
    assert float(per_tensor[2]) > 35
    assert float(per_tensor[[0, 1, 3]].max()) < 10


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_agrees_with_torch(isa: str, rank: int) -> None:
    """Per tensor and with 7 bits these are torch's sums. torch then rounds and clips the outputs to
    the scale and range of the input, whatever they are; where ours are brought there, too, they
    differ by one step at most."""
    float_module = conv(rank, 16, 12, padding=1)
    with torch_quantized() as t:
        if "fbgemm" not in t.backends.quantized.supported_engines:
            pytest.skip("this torch has no fbgemm engine")
        t.backends.quantized.engine = "fbgemm"
        weight, bias = float_module.weight.detach(), float_module.bias.detach()
        scales = weight.abs().flatten(1).amax(1) / 127.5
        zeros = torch.zeros(12, dtype=torch.int64)
        q = t.quantize_per_channel(weight, scales, zeros, 0, t.qint8)
        ones = [1] * rank
        prepack = getattr(t.ops.quantized, f"conv{rank}d_prepack")
        packed = prepack(q, bias, ones, ones, ones, 1)
        ours = CONVS[rank](16, 12, 3, padding=1, per_tensor=True, reduce_range=True)
        ours.set_weight_bias(
            octavo.QTensor.from_int_repr(q.int_repr(), scales, zeros, axis=0), bias
        )
        for seed, size in enumerate((0.1, 1.0, 50.0)):
            x = torch.randn(3, 16, *SPATIAL[rank], generator=generator(seed)) * size
            theirs = getattr(t.ops.quantized, f"conv{rank}d_dynamic")(x, packed, True)
            _, scale, zero = quantized(x, 127, True)
            clipped = octavo.quantize_per_tensor(ours(x), scale, zero, octavo.quint8).dequantize()
            difference = ((clipped - theirs) / scale).abs()
            assert float(difference.max()) < 1.01
            assert float((difference > 0.5).float().mean()) < 0.02
            assert float((ours(x) - theirs).abs().max()) > 10 * scale


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("access", ["none", "attributes", "exchange"])
def test_every_way_in_gives_the_same(access: str, rank: int) -> None:
    before = _C.tensor_access()
    module = CONVS[rank].from_float(conv(rank, 6, 10, padding=1))
    x = images(2, 6, SPATIAL[rank])
    want = module(x)
    if not _C.set_tensor_access(access):
        pytest.skip("this torch has no __dlpack_c_exchange_api__")
    try:
        for layout in LAYOUTS:
            y = module(laid_out(x, layout))
            assert torch.equal(y, want)
            assert y.stride() == want.stride()
            alone = module(laid_out(x, layout)[0])
            assert torch.equal(alone, want[0])
            assert alone.stride() == want[0].stride()
        taken = module._packed.dynamic_direct(x, False, False, False)
        assert (taken is None) == (access == "none")
        assert module._packed.dynamic_direct(x[..., ::2], False, False, False) is None
        assert module._packed.dynamic_direct(x.double(), False, False, False) is None
    finally:
        _C.set_tensor_access(before)


def test_gradients_stop_here() -> None:
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    module = nnqd.Conv2d.from_float(conv(2, 4, 3))
    assert not module(x).requires_grad
    assert torch.equal(module(nn.Parameter(x.detach())), module(x))


@pytest.mark.parametrize("rank", RANKS)
def test_state_dict_pickle_and_copies(rank: int) -> None:
    args: dict[str, Any] = {"padding": 1, "padding_mode": "circular", "groups": 2}
    module = CONVS[rank].from_float(conv(rank, 4, 6, **args), reduce_range=True)
    x = images(2, 4, SPATIAL[rank])
    want = module(x)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert set(state) == {"weight_int8", "weight_scale", "weight_zero_point", "bias"}
    other = CONVS[rank](4, 6, 3, reduce_range=True, **args)
    other.load_state_dict(state)
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), want)
        assert same.reduce_range
        assert not same.per_tensor
        assert repr(same) == repr(module)


def test_repr() -> None:
    module = nnqd.Conv2d(4, 6, 3, padding="same", per_tensor=True, bias=False)
    assert repr(module) == (
        "DynamicQuantizedConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), "
        "qscheme=torch.per_tensor_affine, activations=per_tensor, bits=8, padding=same, bias=False)"
    )
    assert "per_channel_affine, activations=per_image, bits=7" in repr(
        nniqd.ConvReLU1d.from_float(nni.ConvReLU1d(conv(1, 2, 3), nn.ReLU()), reduce_range=True)
    )


def test_from_float_takes_the_qconfig() -> None:
    float_module = conv(2, 4, 6)
    float_module.qconfig = octavo.quantization.QConfig(
        activation=octavo.quantization.MinMaxObserver,
        weight=octavo.quantization.default_weight_observer,
    )
    assert nnqd.Conv2d.from_float(float_module).weight().q_scale() > 0  # per tensor
    pair = nni.ConvReLU2d(conv(2, 4, 6), nn.ReLU())
    pair.qconfig = float_module.qconfig
    assert nniqd.ConvReLU2d.from_float(pair).weight().q_scale() > 0


def test_errors_say_what_to_do() -> None:
    module = nnqd.Conv2d.from_float(conv(2, 4, 6))
    module._qualified_name = "encoder.0"
    with pytest.raises(TypeError, match=r"encoder\.0.*Dequantize it first"):
        module(octavo.quantize_per_tensor(torch.randn(2, 4, 5, 5), 0.1, 0, octavo.quint8))
    with pytest.raises(TypeError, match=r"encoder\.0.*float32, bfloat16 or float16.*float\(\)"):
        module(torch.zeros(2, 4, 5, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*\[N, 4, H, W\].*\(2, 3, 5, 5\)"):
        module(torch.zeros(2, 3, 5, 5))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*\[N, 4, H, W\].*\(4, 5\)"):
        module(torch.zeros(4, 5))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*smaller than the kernel"):
        module(torch.zeros(1, 4, 2, 5))
    with pytest.raises(RuntimeError, match=r"encoder\.0.*\[N, 4, H, W\].*\(2, 3, 5, 5\)"):
        module(torch.zeros(2, 3, 5, 5, device="meta"))
    huge = nnqd.Conv2d(4, 6, 3)
    huge._qualified_name = "encoder.0"
    huge.set_weight_bias(octavo.QTensor.from_int_repr(huge.weight().int_repr(), 1e30, 0), None)
    with pytest.raises(ValueError, match=r"encoder\.0.*scale is not a finite float32"):
        huge(torch.full((2, 4, 5, 5), 3e38))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Conv2d"):
        nnqd.Conv2d.from_float(nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"expected octavo\.nn\.intrinsic\.ConvReLU3d"):
        nniqd.ConvReLU3d.from_float(conv(3, 1, 1))
    with pytest.raises(ValueError, match="qint8"):
        nnqd.Conv1d(3, 4, 1, dtype=octavo.quint8)
    broken = conv(2, 4, 6)
    with torch.no_grad():
        broken.weight[3, 2, 1, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        nnqd.Conv2d.from_float(broken)
