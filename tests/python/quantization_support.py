"""torch.ao.quantization as an oracle where this torch has it, and data that observers meet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.nn.quantized import FloatFunctional


def oracle() -> Any:
    """``torch.ao.quantization``; skips the test where it is gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch.ao.quantization")


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of the oracle, without its deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))


def assert_same_qparams(ours: Any, theirs: Any) -> None:
    """Both observers give the same scales and zero points, to the bit and in the same dtypes."""
    for mine, other in zip(ours.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert equal_bits(mine, other), f"{mine} != {other}"


def batches() -> Iterator[tuple[str, list[Tensor]]]:
    """Names and sequences of tensors: distributions and corner cases that calibration meets."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    generator = torch.Generator().manual_seed(5)
    yield "normal", [normal(40, 50)]
    yield "growing", [normal(8, 30) * factor for factor in (1, 3, 2, 9, 27)]
    yield "relu", [normal(8, 200).relu(), normal(8, 100).relu() * 1.5]
    yield "heavy tails", [normal(4, 1000) ** 3, normal(4, 1000) ** 5]
    yield "one outlier", [torch.cat([normal(5000), torch.tensor([1000.0])])]
    yield "two clusters", [torch.cat([normal(1000) - 100, normal(1000) + 100])]
    yield "positive", [torch.rand(3, 100, generator=generator) + 5]
    yield "negative", [-torch.rand(3, 100, generator=generator) - 5]
    yield "exponential", [torch.exp(normal(2000) * 3)]
    yield "constant", [torch.full((3, 4), 2.5)]
    yield "two constants", [torch.full((3, 4), 2.5), torch.full((3, 4), -1.0)]
    yield "constant, then spread", [torch.full((3, 4), 2.5), normal(3, 100)]
    yield "zeros", [torch.zeros(3, 4)]
    yield "one value", [torch.tensor([[1.5]])]
    yield "neighbours", [torch.tensor([1.5, 1.5000001])]
    yield "tiny", [normal(30) * 1e-30]
    yield "denormal", [normal(30) * 1e-41]
    yield "huge", [normal(30) * 1e30]


class Block(nn.Module):
    """conv-bn-relu, then a residual addition."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.add = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.add.add_relu(self.relu(self.bn(self.conv(x))), x)


class Net(nn.Module):
    """Float [N, 3, 8, 8] to float [N, 5], with every kind of module that this library replaces."""

    FUSED = (["stem", "relu"], ["block.conv", "block.bn", "block.relu"])

    def __init__(self, parts: Any = tq, functional: Callable[[], Any] = FloatFunctional) -> None:
        super().__init__()
        self.quant = parts.QuantStub()
        self.stem = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.block = Block()
        self.block.add = functional()
        self.relu6 = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)
        self.dequant = parts.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.relu(self.stem(self.quant(x))))
        return self.dequant(self.fc(torch.flatten(self.pool(self.relu6(x)), 1)))


def trained_net(**kwargs: Any) -> Net:
    """A Net in eval mode whose batch norm has something to fold."""
    torch.manual_seed(3)
    net = Net(**kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def fused_net(**kwargs: Any) -> nn.Module:
    """A Net whose batch norm is folded."""
    return tq.fuse_modules(trained_net(**kwargs), [list(group) for group in Net.FUSED])


def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def prepared_net(**kwargs: Any) -> nn.Module:
    """A fused and calibrated Net."""
    net = fused_net(**kwargs)
    net.qconfig = tq.get_default_qconfig()
    prepared = tq.prepare(net)
    prepared(images())
    return prepared
