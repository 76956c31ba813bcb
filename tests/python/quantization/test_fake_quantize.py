from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import octavo
import octavo.quantization as tq
from octavo.quantization import fake_quantize
from octavo.quantization.fake_quantize_function import (
    fake_quantize_per_channel,
    fake_quantize_per_tensor,
)
from quantization_support import oracle, quietly

SIZES = ((3, 5), (7, 4, 30, 40))  # torch's own function, and several vectorized ones


def run(module: Any, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and input gradient."""
    x = x.clone().requires_grad_()
    out = module(x)
    (out * weight).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


DEFAULTS = [
    name
    for name in fake_quantize.__all__
    if name.startswith(("default_", "fused_")) and "weight" not in name and "wt" not in name
]
WEIGHT_DEFAULTS = [name for name in fake_quantize.__all__ if "weight" in name or "wt" in name]


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("shape", SIZES)
def test_default_activations_equal_torch(name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = getattr(tq, name)(), quietly(getattr(oracle(), name))
    assert type(ours).__name__ == type(theirs).__name__
    assert (ours.dtype, ours.qscheme, ours.ch_axis) == (
        theirs.dtype,
        theirs.qscheme,
        theirs.ch_axis,
    )
    assert (ours.quant_min, ours.quant_max) == (theirs.quant_min, theirs.quant_max)
    for factor in (1.0, 3.0, 0.5):
        x = torch.randn(shape) * factor
        weight = torch.randn(shape)
        mine, other = run(ours, x, weight), run(theirs, x, weight)
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours.scale, theirs.scale)
        torch.testing.assert_close(ours.zero_point, theirs.zero_point)
    assert set(ours.state_dict()) == set(theirs.state_dict())


@pytest.mark.parametrize("name", WEIGHT_DEFAULTS)
def test_default_weights_follow_the_weight(name: str) -> None:
    """Settings as in torch, but for the average: weights that grow are not clipped."""
    ours, theirs = getattr(tq, name)(), quietly(getattr(oracle(), name))
    for attribute in ("dtype", "qscheme", "ch_axis", "quant_min", "quant_max"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert torch.equal(ours.activation_post_process.eps, theirs.activation_post_process.eps)
    for factor in (1.0, 10.0, 2.0):
        x = torch.randn(16, 3, 20, 10) * factor
        out, grad = run(ours, x, torch.ones_like(x))
        # The largest magnitude lies half a step beyond the range: the divisor is 127.5.
        scale = ours.scale.reshape(-1, 1, 1, 1) if ours.is_per_channel else ours.scale
        assert bool(((out - x).abs() <= 0.51 * scale).all())
        assert float(grad.mean()) > 0.99
        observer = ours.activation_post_process
        expected = x.amin(dim=(1, 2, 3)) if ours.is_per_channel else x.min()
        assert torch.equal(observer.min_val, expected)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("scheme", ["per_tensor_symmetric", "per_channel_symmetric"])
def test_symmetric_fused_modules_train_with_the_scale_of_convert(
    scheme: str, shape: tuple[int, ...]
) -> None:
    per_channel = "channel" in scheme
    observer = (
        tq.MovingAveragePerChannelMinMaxObserver if per_channel else tq.MovingAverageMinMaxObserver
    )
    module = tq.FusedMovingAvgObsFakeQuantize(
        observer, -128, 127, dtype=octavo.qint8, qscheme=getattr(octavo, scheme)
    )
    for factor in (1.0, 4.0):
        module(torch.randn(shape) * factor)
        scale, zero_point = module.calculate_qparams()
        assert torch.equal(module.scale, scale)
        assert torch.equal(module.zero_point.long(), zero_point.long())


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    scale=st.floats(2.0**-10, 2.0**10, width=32),
    zero_point=st.integers(0, 255),
    top=st.sampled_from([15, 127, 255]),
)
def test_rounding_and_gradient_equal_torch(
    values: list[float], scale: float, zero_point: int, top: int
) -> None:
    zero_point = min(zero_point, top)
    x = torch.tensor(values * 400)[:9000].repeat(2)
    plain = torch.fake_quantize_per_tensor_affine
    ours = run(lambda x: fake_quantize_per_tensor(x, scale, zero_point, 0, top), x, x)
    theirs = run(lambda x: plain(x, scale, zero_point, 0, top), x, x)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5), (30, 20, 40)])
def test_channels_equal_torch(shape: tuple[int, ...], axis: int, symmetric: bool) -> None:
    x = torch.randn(shape)
    scale = torch.rand(shape[axis]) * 0.02 + 0.001
    zero_point = torch.zeros(shape[axis], dtype=torch.int32)
    if not symmetric:
        zero_point.random_(-128, 127)
    arguments = (axis % 3, -128, 127)
    plain = torch.fake_quantize_per_channel_affine
    ours = run(
        lambda x: fake_quantize_per_channel(x, scale, zero_point, *arguments, symmetric), x, x
    )
    theirs = run(lambda x: plain(x, scale, zero_point, *arguments), x, x)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", SIZES)
def test_the_forward_is_what_quantizing_gives(shape: tuple[int, ...]) -> None:
    """The integer a value is stored as later is the one that training rounded it to."""
    module = tq.default_fused_act_fake_quant()
    x = torch.randn(shape) * 5
    out = module(x)
    scale, zero_point = (t.item() for t in module.calculate_qparams())
    q = octavo.quantize_per_tensor(x, scale, int(zero_point), octavo.quint8)
    assert torch.equal(out, q.dequantize())


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) * 3).to(dtype)
    ours, reference = tq.default_fused_act_fake_quant(), tq.default_fused_act_fake_quant()
    out, grad = run(ours, x, torch.ones_like(x))
    expected = reference(x.float())
    assert out.dtype is dtype
    torch.testing.assert_close(out, expected.to(dtype))
    assert bool((grad == 1).all())


def test_memory_formats_are_kept() -> None:
    x = torch.randn(4, 8, 20, 20).to(memory_format=torch.channels_last)
    for module in (tq.default_fused_act_fake_quant(), tq.default_fused_per_channel_wt_fake_quant()):
        out = module(x)
        assert out.is_contiguous(memory_format=torch.channels_last)
        fresh = copy.deepcopy(module)
        fresh.disable_observer()
        assert torch.equal(fresh(x.contiguous()), out)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", ["default_fused_act_fake_quant", "default_fake_quant"])
def test_nan_shows_and_does_not_spoil_the_scale(shape: tuple[int, ...], name: str) -> None:
    module, clean = getattr(tq, name)(), getattr(tq, name)()
    x = torch.randn(shape)
    spoiled = x.clone()
    spoiled[0, 0] = torch.nan
    spoiled[1, 0] = torch.inf
    out = module(spoiled)
    clean(torch.where(torch.isfinite(spoiled), spoiled, 0.0))
    assert bool(out[0, 0].isnan().all())
    assert bool((out[1, 0] == (module.quant_max - module.zero_point) * module.scale).all())
    assert torch.equal(module.scale, clean.scale)
    assert torch.isfinite(module(x)).all()


@pytest.mark.parametrize("name", ["default_fused_act_fake_quant", "default_fused_wt_fake_quant"])
def test_empty_batches(name: str) -> None:
    module = getattr(tq, name)()
    assert module(torch.empty(0, 4)).shape == (0, 4)
    assert module.scale.tolist() == [1.0]
    module(torch.randn(20))
    before = module.scale.clone()
    module(torch.empty(0, 4))
    assert torch.equal(module.scale, before)


# Switches


def test_switches() -> None:
    module = tq.default_fused_act_fake_quant()
    x = torch.randn(100)
    module(x)
    scale = module.scale.clone()
    module.disable_observer()
    out = module(x * 50)
    assert torch.equal(module.scale, scale)
    assert float(out.max()) < 10
    module.disable_fake_quant()
    assert module(x) is x
    module.enable_fake_quant()
    module.enable_observer()
    module(x * 50)
    assert float(module.scale) > float(scale)
    assert "observer_enabled=True" in repr(module)


def test_switches_by_apply() -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), tq.default_fused_act_fake_quant(), tq.default_fake_quant()
    )
    foreign = quietly(oracle().default_fake_quant)
    model.append(foreign)
    for function, buffer, value in (
        (tq.disable_fake_quant, "fake_quant_enabled", 0),
        (tq.disable_observer, "observer_enabled", 0),
        (tq.enable_fake_quant, "fake_quant_enabled", 1),
        (tq.enable_observer, "observer_enabled", 1),
    ):
        model.apply(function)
        assert [getattr(m, buffer).item() for m in list(model)[1:]] == [value] * 3


def test_switches_written_by_hand_count() -> None:
    module = tq.default_fused_act_fake_quant()
    module.fake_quant_enabled[0] = 0
    x = torch.randn(9)
    assert module(x) is x


# As objects


@pytest.mark.parametrize(
    "name", ["default_fused_act_fake_quant", "default_per_channel_weight_fake_quant"]
)
def test_state_dicts_go_both_ways_with_torch(name: str) -> None:
    ours, theirs = getattr(tq, name)(), quietly(getattr(oracle(), name))
    x = torch.randn(6, 50)
    theirs(x)
    theirs.disable_observer()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))
    assert not ours.observer_enabled.item()
    ours.enable_observer()
    ours(x * 3)
    ours.disable_observer()
    fresh = quietly(getattr(oracle(), name))
    fresh.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), fresh(x))


def test_copies_and_pickles() -> None:
    module = tq.default_fused_per_channel_wt_fake_quant()
    x = torch.randn(4, 300)
    out = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.disable_observer()
        assert torch.equal(other(x), out)


def test_user_written_observers_need_not_know_is_dynamic() -> None:
    class Fixed(tq.ObserverBase):
        quant_min, quant_max, qscheme = 0, 255, octavo.per_tensor_affine

        def __init__(self) -> None:
            super().__init__(dtype=octavo.quint8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def calculate_qparams(self, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([0.5]), torch.tensor([3])

    module = tq.FakeQuantize(Fixed)
    assert module(torch.tensor([0.6, -9.0])).tolist() == [0.5, -1.5]


def test_they_serve_as_activation_observers() -> None:
    model = nn.Sequential(tq.QuantStub(), nn.Linear(5, 4), tq.DeQuantStub()).eval()
    model.qconfig = tq.QConfig(tq.default_fused_act_fake_quant, tq.default_weight_observer)
    prepared = tq.prepare(model)
    with pytest.raises(RuntimeError, match="never saw data"):
        tq.convert(prepared)
    x = torch.randn(10, 5)
    expected = prepared(x)
    out = tq.convert(prepared)(x)
    step = float(prepared[1].activation_post_process.scale)
    torch.testing.assert_close(out, expected, rtol=0, atol=4 * step)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="both quant_min and quant_max"):
        tq.FakeQuantize(quant_min=0)
    with pytest.raises(ValueError, match="do not fit dtype"):
        tq.FakeQuantize(quant_min=0, quant_max=300)
    with pytest.raises(TypeError, match="NoopObserver has no scale"):
        tq.FakeQuantize(tq.NoopObserver)
    with pytest.raises(TypeError, match="must be a FixedQParamsObserver, got MinMaxObserver"):
        tq.FixedQParamsFakeQuantize(tq.MinMaxObserver)
    with pytest.raises(TypeError, match=r"MovingAverageMinMaxObserver.*got MinMaxObserver"):
        tq.FusedMovingAvgObsFakeQuantize(tq.MinMaxObserver)
