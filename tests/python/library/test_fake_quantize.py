"""Quantization-aware training under torch.compile: one graph, the numbers of the modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _step(module: Any, run: Any, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = run(x)
    (y * factor).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


KINDS = {
    "moving average": tq.default_fake_quant,
    "per channel": tq.default_per_channel_weight_fake_quant,
    "fused": tq.default_fused_act_fake_quant,
    "fused per channel": tq.default_fused_per_channel_wt_fake_quant,
    "symmetric": tq.default_weight_fake_quant,
    "fixed": tq.default_fixed_qparams_range_0to1_fake_quant,
    "extremes": tq.FakeQuantize.with_args(observer=tq.MinMaxObserver, dtype=torch.quint8),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_module_in_one_graph(kind: str, backend: str) -> None:
    torch.manual_seed(0)
    eager, module = KINDS[kind](), KINDS[kind]()
    first = torch.randn(6, 5)
    assert torch.equal(eager(first), module(first))
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for step in range(4):
        if step == 2:
            eager.disable_observer()
            module.disable_observer()
        if step == 3:
            eager.disable_fake_quant()
            module.disable_fake_quant()
        x, factor = torch.randn(6, 5) * (step + 1), torch.randn(6, 5)
        for got, want in zip(
            _step(module, compiled, x, factor), _step(eager, eager, x, factor), strict=True
        ):
            assert torch.equal(got, want)
        for key, value in eager.state_dict().items():
            assert torch.equal(module.state_dict()[key], value), key


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", ["moving average", "fused", "per channel"])
def test_nonfinite_values_are_counted(kind: str, backend: str) -> None:
    torch.manual_seed(0)
    eager, module = KINDS[kind](), KINDS[kind]()
    x = torch.randn(6, 5)
    eager(x), module(x)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    x[0, 1], x[3, 4], x[5, 0] = torch.nan, torch.inf, -torch.inf
    for step in range(1, 3):
        assert torch.equal(compiled(x).nan_to_num(9.0), eager(x).nan_to_num(9.0))
        observers = [m.activation_post_process for m in (eager, module)]
        assert [observer.nonfinite_count for observer in observers] == [3 * step] * 2
    module.activation_post_process.reset_min_max_vals()
    assert module.activation_post_process.nonfinite_count == 0
    module(x)
    assert module.activation_post_process.nonfinite_count == 3


def test_qparams_of_nothing_finite_are_refused_after_compiled_steps() -> None:
    module = tq.default_fake_quant()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for _ in range(2):
        compiled(torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="12 NaN or Inf"):
        module.calculate_qparams()


def _network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(
        tq.QuantStub(),
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
        tq.DeQuantStub(),
    ).train()
    fused = tq.fuse_modules_qat(body, [["1", "2", "3"]])
    fused.qconfig = tq.get_default_qat_qconfig()  # type: ignore[assignment]
    return tq.prepare_qat(fused)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_training_a_network(backend: str) -> None:
    """A compiler's float operations may differ in the last bit, which can tip a value to the next
    step of the output."""
    eager, network = _network(), _network()
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(eager(x), network(x))
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (eager, network)]
    for _ in range(3):
        x = torch.randn(4, 3, 8, 8)
        results = []
        for run, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            y = run(x)
            y.square().mean().backward()
            optimizer.step()
            results.append(y.detach())
        step = float(eager[5].activation_post_process.scale)  # type: ignore[index, union-attr, arg-type]
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1.01 * step)
    converted = [tq.convert(m.eval()) for m in (eager, network)]
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(converted[1](x), converted[0](x), rtol=0.0, atol=2 * step)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    torch.manual_seed(0)
    x, on = torch.randn(4, 5, requires_grad=True), torch.ones(1, dtype=torch.uint8)
    scale, zero_point = torch.tensor([0.05]), torch.tensor([3], dtype=torch.int32)
    rounding = (None, 0, 255)
    op = torch.ops.octavo
    torch.library.opcheck(op.fake_quantize.default, (x, on, scale, zero_point, *rounding))
    scales, zeros = torch.rand(5) * 0.02 + 0.01, torch.zeros(5, dtype=torch.int32)
    torch.library.opcheck(op.fake_quantize.default, (x, on, scales, zeros, 1, -128, 127))
    statistics = (torch.tensor(-1.0), torch.tensor(1.0))
    others = torch.zeros(1, dtype=torch.int64)
    rule = (torch.tensor([1e-7]), others, *rounding, 0.01, 0, 255, None)
    arguments = (x.detach(), on, *statistics, scale, zero_point, *rule)
    torch.library.opcheck(op.observe_extremes.default, arguments)
