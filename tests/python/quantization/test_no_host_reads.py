"""What runs on other devices than the CPU: the same results, and no number read back per step.

There may be no such device here, so the CPU plays one: the package is told not to read numbers,
and every read that reaches torch's dispatcher is an error.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import octavo
import octavo.quantization as tq


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert "_local_scalar_dense" not in str(func), "a number was read back"
        assert "nonzero" not in str(func), "a size depends on data"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in list(sys.modules.items()):
        ours = name.startswith(("octavo.quantization", "octavo.nn.intrinsic.qat"))
        if ours and hasattr(module, "on_host"):
            monkeypatch.setattr(module, "on_host", lambda x: False)


OBSERVERS = {
    "minmax": tq.MinMaxObserver,
    "symmetric": tq.MinMaxObserver.with_args(
        dtype=octavo.qint8, qscheme=octavo.per_tensor_symmetric
    ),
    "average": tq.MovingAverageMinMaxObserver,
    "channels": tq.PerChannelMinMaxObserver,
    "channel average": tq.MovingAveragePerChannelMinMaxObserver,
    "histogram": tq.HistogramObserver,
}
FAKES = {
    "fake": tq.FakeQuantize,
    "fake reduced": tq.default_fake_quant,
    "fake weight": tq.default_weight_fake_quant,
    "fake channels": tq.default_per_channel_weight_fake_quant,
    "fused": tq.default_fused_act_fake_quant,
    "fused weight": tq.default_fused_wt_fake_quant,
    "fused channels": tq.default_fused_per_channel_wt_fake_quant,
    "fixed": tq.default_fixed_qparams_range_0to1_fake_quant,
}


def steps() -> list[torch.Tensor]:
    return [torch.randn(6, 40) * factor for factor in (1.0, 5.0, 0.5, 8.0)]


def test_the_check_itself() -> None:
    with NoReads(), pytest.raises(AssertionError, match="read back"):
        torch.ones(()).item()


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers(name: str, request: pytest.FixtureRequest) -> None:
    batches = steps()
    batches[1][0, 0], batches[1][1, 1] = torch.nan, -torch.inf
    expected = OBSERVERS[name]()
    for x in batches:
        expected(x)
    request.getfixturevalue("as_device")
    observer = OBSERVERS[name]()
    with NoReads():
        for x in batches:
            assert observer(x) is x
    assert observer.nonfinite_count == expected.nonfinite_count == 2
    for key in ("min_val", "max_val"):
        torch.testing.assert_close(getattr(observer, key), getattr(expected, key))
    tolerance = 0.05 if name == "histogram" else 1e-6
    for a, b in zip(observer.calculate_qparams(), expected.calculate_qparams(), strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=tolerance, atol=tolerance * 255)


@pytest.mark.parametrize("name", FAKES)
@pytest.mark.parametrize("size", [1, 40])
def test_fake_quantize(name: str, size: int, request: pytest.FixtureRequest) -> None:
    batches = [x.repeat(1, size * 10) for x in steps()]
    expected = FAKES[name]()
    reference = [expected(x) for x in batches]
    request.getfixturevalue("as_device")
    module = FAKES[name]()
    module(batches[0])  # reads the switches, once
    with NoReads():
        out = [module(x) for x in batches[1:]]
    for a, b in zip(out, reference[1:], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(module.scale, expected.scale)
    module.disable_fake_quant()
    assert module(batches[0]) is batches[0] or name == "fused"  # torch's operation copies


def test_fused_and_plain_modules_agree_with_torchs_fused_operation(as_device: None) -> None:
    """On a device the affine module takes torch's operation; the statistics are the same."""
    fused, plain = tq.default_fused_act_fake_quant(), tq.FakeQuantize(quant_min=0, quant_max=255)
    for x in steps():
        torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(fused.scale, plain.scale)
    assert torch.equal(fused.zero_point, plain.zero_point)


def test_an_empty_first_batch(as_device: None) -> None:
    for name in ("fake", "fake channels", "fused weight"):
        module = FAKES[name]()
        assert module(torch.empty(6, 0)).shape == (6, 0)
        assert bool((module.scale == 1).all())


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize("gamma", [0.0, -0.5])
def test_a_step_of_training_reads_no_number(gamma: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    torch.nn.init.constant_(model[1].weight[1:2].detach(), gamma)
    fused = tq.fuse_modules_qat(model, [["0", "1"]])
    fused.qconfig = tq.get_default_qat_qconfig()
    prepared = tq.prepare_qat(fused)
    reference = copy.deepcopy(prepared)
    x = torch.randn(4, 3, 6, 6)
    prepared(x)  # the observers' first tensors
    reference(x)
    with NoReads():
        out = prepared(x)
        out.square().mean().backward()
    expected = reference(x)
    expected.square().mean().backward()
    assert torch.allclose(out, expected)
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in prepared.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name]), name
