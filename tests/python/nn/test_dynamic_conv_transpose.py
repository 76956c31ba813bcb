"""Dynamically quantized ConvTranspose1d, 2d and 3d: against the definition, to the bit, across
instruction sets and threads."""

from __future__ import annotations

import copy
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
    float_shape,
    laid_out,
    run_dynamic,
)
from module_support import generator
from octavo import QTensor
from octavo.nn import quantized as nnq
from octavo.nn.quantized import dynamic as nnqd
from reference import dynamic_qparams

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MODULES: dict[int, Any] = {
    1: nnqd.ConvTranspose1d,
    2: nnqd.ConvTranspose2d,
    3: nnqd.ConvTranspose3d,
}
SUPPRESS = [HealthCheck.function_scoped_fixture]


def transposed(rank: int, c_in: int, c_out: int, kernel: Any, seed: int = 0, **args: Any) -> Any:
    """A float transposed convolution."""
    module = getattr(nn, f"ConvTranspose{rank}d")(c_in, c_out, kernel, **args)
    g = generator(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return module


def images(batch: int, channels: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Images of different ranges."""
    g = generator(seed)
    scale = torch.exp2(torch.randint(-12, 9, (batch, 1, *(1,) * len(size)), generator=g).float())
    return torch.randn(batch, channels, *size, generator=g) * scale


def expected(module: Any, x: Tensor, output_padding: Any = None) -> Tensor:
    """What the module should give for a batch, its integers exact and its floats rounded once an
    operation."""
    qmax, rank = (127 if module.reduce_range else 255), x.dim() - 2
    each = (-1, *(1,) * rank)
    scales = module._packed.scales
    if scales.numel() not in (1, module.out_channels):
        scales = scales.repeat(module.groups)
    out = []
    for part in [x] if module.per_tensor else x.split(1):
        values = part.float()
        low, high = float(values.min()), float(values.max())
        scale, zero = dynamic_qparams(low, high, qmax, module.per_tensor)
        q = ((values * (1 / torch.tensor(scale))).round() + zero).clamp(0, qmax).double() - zero
        acc = getattr(F, f"conv_transpose{rank}d")(  # exact: sums below 2^53
            q,
            module.weight().int_repr().double(),
            None,
            module.stride,
            module.padding,
            module.output_padding if output_padding is None else output_padding,
            module.groups,
            module.dilation,
        ).round()
        y = acc.float() * (torch.tensor(scale) * scales).reshape(each)
        out.append(y if module.bias() is None else y + module.bias().reshape(each))
    return torch.cat(out).to(x.dtype)


@pytest.mark.kernel
@settings(max_examples=60, deadline=None, suppress_health_check=SUPPRESS)
@given(
    rank=st.sampled_from(RANKS),
    groups=st.sampled_from([1, 1, 2, 3]),
    channels=st.tuples(st.sampled_from([1, 3, 16, 17]), st.sampled_from([1, 2, 8, 33])),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    extra=st.integers(0, 2),
    dilation=st.integers(1, 2),
    options=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(FLOATS),
    batch=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_equals_the_definition(
    isa: str,
    rank: int,
    groups: int,
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    extra: int,
    dilation: int,
    options: tuple[bool, bool, bool],
    layout: str,
    dtype: torch.dtype,
    batch: int,
    seed: int,
) -> None:
    bias, per_tensor, reduce_range = options
    float_module = transposed(
        rank,
        channels[0] * groups,
        channels[1] * groups,
        kernel,
        seed,
        stride=stride,
        padding=min(padding, dilation * (kernel - 1)),
        output_padding=min(extra, max(stride, dilation) - 1),
        groups=groups,
        dilation=dilation,
        bias=bias,
    )
    module = MODULES[rank].from_float(
        float_module, per_tensor=per_tensor, reduce_range=reduce_range
    )
    x = images(batch, channels[0] * groups, SPATIAL[rank], seed).to(dtype)
    y = run_dynamic(module, laid_out(x, layout))
    assert y.dtype == dtype
    assert y.shape == float_shape(float_module, x)
    if batch:
        assert torch.equal(y, expected(module, x))
        assert torch.equal(module(x[0]), y[0] if not per_tensor else expected(module, x[:1])[0])


@pytest.mark.kernel
@pytest.mark.parametrize("rank", RANKS)
def test_output_size_and_accuracy(isa: str, rank: int) -> None:
    float_module = transposed(rank, 8, 12, 3, stride=2, padding=1)
    module = MODULES[rank].from_float(float_module)
    assert module.weight().q_per_channel_axis() == 1
    x = torch.randn(3, 8, *SPATIAL[rank], generator=generator(1))
    x[1] *= 1000
    size = tuple(2 * s for s in SPATIAL[rank])
    with torch.no_grad():
        want = float_module(x, size)
    y = module(x, output_size=size)
    assert torch.equal(y, expected(module, x, (1,) * rank))
    error = (y - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)
    assert float(error.max()) < 0.015
    with pytest.raises(ValueError, match="output_size must be from"):
        module(x, output_size=tuple(s + 5 for s in size))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_nan_and_harm_no_other(bad: float) -> None:
    module = MODULES[2].from_float(transposed(2, 4, 5, 3, stride=2))
    x = torch.randn(3, 4, 5, 6, generator=generator(2))
    clean = module(x)
    x[1, 2, 3, 4] = bad
    y = module(x)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("rank", RANKS)
def test_state_dict_copies_and_the_static_module(rank: int) -> None:
    args: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    module = MODULES[rank].from_float(transposed(rank, 4, 6, 3, **args), reduce_range=True)
    x = images(2, 4, SPATIAL[rank])
    want = module(x)
    other = MODULES[rank](4, 6, 3, reduce_range=True, **args)
    other.load_state_dict(module.state_dict())
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), want)
        assert repr(same) == repr(module)
    assert repr(module).startswith(f"DynamicQuantizedConvTranspose{rank}d(4, 6, kernel_size=")
    assert "activations=per_image, bits=7" in repr(module)
    static = getattr(nnq, f"ConvTranspose{rank}d")(4, 6, 3, **args)
    static.set_weight_bias(*module._weight_bias())
    scale, zero = dynamic_qparams(float(x[0].min()), float(x[0].max()), 127, False)
    q = QTensor.from_int_repr(
        octavo.ops.quantize(x[:1].contiguous(), scale, zero, octavo.quint8, 0, 127), scale, zero
    )
    result = static._packed.dequantized_output(q._int, scale, zero)
    assert torch.equal(result, want[:1])


def test_errors_say_what_to_do() -> None:
    module = nnqd.ConvTranspose2d(4, 6, 3)
    module._qualified_name = "up.0"
    with pytest.raises(TypeError, match=r"up\.0.*Dequantize it first"):
        module(octavo.quantize_per_tensor(torch.randn(2, 4, 5, 5), 0.1, 0, octavo.quint8))
    with pytest.raises(TypeError, match=r"up\.0.*float32, bfloat16 or float16.*float\(\)"):
        module(torch.zeros(2, 4, 5, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"up\.0.*\[N, 4, H, W\].*\(2, 3, 5, 5\)"):
        module(torch.zeros(2, 3, 5, 5))
    with pytest.raises(RuntimeError, match=r"up\.0.*the image is empty"):
        module(torch.zeros(2, 4, 0, 5))
    with pytest.raises(RuntimeError, match=r"output_padding must be smaller"):
        nnqd.ConvTranspose2d(4, 6, 3, output_padding=1)(torch.zeros(2, 4, 5, 5))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.ConvTranspose2d"):
        nnqd.ConvTranspose2d.from_float(nn.Conv2d(1, 1, 1))
