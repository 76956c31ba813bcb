"""Learned step size: torch's outputs and gradients, and that learning helps."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch

import octavo
import octavo.quantization as tq
from octavo.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from quantization_support import oracle

PER_TENSOR = {"dtype": "quint8", "qscheme": torch.per_tensor_affine}
SYMMETRIC = {"dtype": "qint8", "qscheme": torch.per_tensor_symmetric, "quant_min": -8}
CHANNELS = {
    "dtype": "qint8",
    "qscheme": torch.per_channel_symmetric,
    "quant_min": -128,
    "quant_max": 127,
    "channel_len": 4,
    "ch_axis": 1,
}
AFFINE_CHANNELS = {**CHANNELS, "qscheme": torch.per_channel_affine}


def pair(scaled: bool, **kwargs: Any) -> tuple[Any, Any]:
    channels = "PerChannel" if "ch_axis" in kwargs else ""
    name = f"MovingAverage{channels}MinMaxObserver"
    settings = {"quant_min": 0, "quant_max": 7, "use_grad_scaling": scaled, **kwargs}
    dtype = settings.pop("dtype")
    oracle()
    module = importlib.import_module("torch.ao.quantization._learnable_fake_quantize")
    theirs = module._LearnableFakeQuantize
    return (
        tq.LearnableFakeQuantize(getattr(tq, name), dtype=getattr(octavo, dtype), **settings),
        theirs(getattr(oracle(), name), dtype=getattr(torch, dtype), **settings),
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kwargs", [PER_TENSOR, SYMMETRIC, CHANNELS, AFFINE_CHANNELS])
def test_outputs_and_gradients_equal_torch(kwargs: dict[str, Any], scaled: bool) -> None:
    ours, theirs = pair(scaled, **kwargs)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for module in (ours, theirs):
        module(torch.linspace(-1, 2, 60).reshape(5, 4, 3))
        module.enable_param_learning()
    for _ in range(3):
        data, weight = torch.randn(5, 4, 3) * 2, torch.randn(5, 4, 3)
        found = []
        for module in (ours, theirs):
            x = data.clone().requires_grad_()
            module.zero_grad()
            out = module(x)
            (out * weight).sum().backward()
            found.append((out.detach(), x.grad, module.scale.grad, module.zero_point.grad))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert torch.equal(a, b)


def test_learning_lowers_the_error() -> None:
    """From minimum and maximum of data with an outlier, 4 bits: to almost the best scale."""
    x = torch.cat([torch.randn(2000), torch.tensor([12.0, -12.0])])
    module = tq.LearnableFakeQuantize(
        tq.MinMaxObserver,
        quant_min=-8,
        quant_max=7,
        dtype=octavo.qint8,
        qscheme=octavo.per_tensor_symmetric,
    )
    module(x)
    start = module.scale.item()
    module.enable_param_learning()
    optimizer = torch.optim.Adam([module.scale], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        (module(x) - x).square().mean().backward()
        optimizer.step()

    def error(scale: float) -> float:
        out = torch.fake_quantize_per_tensor_affine(x, scale, 0, -8, 7)
        return float((out - x).square().mean())

    best = min(error(start * k / 200) for k in range(1, 201))
    assert error(module.scale.item()) < 1.1 * best < 0.9 * error(start)


def test_modes() -> None:
    module = tq.LearnableFakeQuantize(tq.MovingAverageMinMaxObserver, dtype=octavo.quint8)
    assert _LearnableFakeQuantize is tq.LearnableFakeQuantize
    assert not module.is_calibrated
    x = torch.randn(50)
    module.enable_static_observation()
    assert module(x) is x
    assert module.is_calibrated
    module.enable_static_estimate()
    out = module(x)
    assert not module.scale.requires_grad
    assert float((out - x).abs().max()) <= float(module.scale)
    module.enable_param_learning()
    assert module.scale.requires_grad
    with torch.no_grad():
        module.scale.fill_(-1.0)
    module(x)
    assert module.scale.item() > 0
    other = copy.deepcopy(module)
    assert torch.equal(other(x), module(x))
    module.apply(tq.disable_fake_quant)
    assert module(x) is x


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="quant_min must be less than quant_max"):
        tq.LearnableFakeQuantize(tq.MinMaxObserver, quant_min=3, quant_max=3)
    with pytest.raises(ValueError, match="channel_len must be positive or -1, got 0"):
        tq.LearnableFakeQuantize(tq.MinMaxObserver, channel_len=0)
    with pytest.raises(ValueError, match="do not fit dtype"):
        tq.LearnableFakeQuantize(tq.MinMaxObserver, quant_max=256)
