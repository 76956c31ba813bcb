"""A whole converted network gives the same bits on every instruction set and thread count."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from module_support import threads
from octavo.nn.quantized import FloatFunctional


class Block(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.skip = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.skip.add_relu(x, y)


class Net(nn.Module):
    """Dense, depthwise and grouped convolutions, both poolings, cat, mul and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.act = nn.ReLU6()
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(24, 1), Block(24, 24), Block(24, 3))
        self.cat, self.scale = FloatFunctional(), FloatFunctional()
        self.average = nn.AdaptiveAvgPool2d(2)
        self.hidden, self.relu = nn.Linear(48 * 4, 70), nn.ReLU()
        self.out = nn.Linear(70, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.stem(self.quant(x))))
        y = self.blocks(x)
        y = self.cat.cat([y, self.scale.mul(x, y)], 1)
        y = torch.flatten(self.average(y), 1)
        return self.dequant(self.out(self.relu(self.hidden(y))))


def converted(qconfig: str) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 37, 29))  # gives the batch norms statistics
    blocks = [f"blocks.{i}" for i in range(3)]
    pairs = [[f"{b}.conv1", f"{b}.bn1", f"{b}.relu"] for b in blocks]
    pairs += [[f"{b}.conv2", f"{b}.bn2"] for b in blocks] + [["hidden", "relu"]]
    model = tq.fuse_modules(model.eval(), pairs)
    model.qconfig = tq.get_default_qconfig(qconfig)
    prepared = tq.prepare(model)
    with torch.no_grad():
        for _ in range(3):
            prepared(torch.randn(8, 3, 37, 29))
    return tq.convert(prepared)


@pytest.mark.kernel
@pytest.mark.parametrize("qconfig", ["octavo", "fbgemm", "qnnpack"])
def test_same_bits_on_every_isa_and_thread_count(qconfig: str) -> None:
    model = converted(qconfig)
    packed_once = copy.deepcopy(model)
    x = torch.randn(5, 3, 37, 29)
    with octavo.backend.force("scalar"), threads(1):
        expected = model(x)
    assert expected.std() > 0
    for isa in octavo.backend.supported():
        for count in (1, 2):
            with octavo.backend.force(isa), threads(count):
                assert torch.equal(model(x), expected), (isa, count)
                assert octavo.backend.last_kernel().endswith(f"__{isa}")
                rows = torch.cat([packed_once(x[i : i + 1]) for i in range(5)])
                assert torch.equal(rows, expected), f"{isa}: depends on the batch"
