"""Models of 1-, 2- and 3-D convolutions through fuse_modules, prepare and convert."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq

SPATIAL = {1: (32,), 2: (12, 10), 3: (6, 7, 8)}


class Net(nn.Module):
    """conv + bn + relu, grouped conv + relu, a strided conv in another padding mode + bn."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv1, self.bn1, self.relu1 = conv(3, 16, 3, padding=1), norm(16), nn.ReLU()
        self.conv2, self.relu2 = conv(16, 16, 3, padding="same", groups=16), nn.ReLU()
        self.conv3 = conv(16, 8, 3, stride=2, padding=1, padding_mode="replicate", bias=False)
        self.bn3 = norm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(self.quant(x))))
        x = self.relu2(self.conv2(x))
        return self.dequant(self.bn3(self.conv3(x)))  # type: ignore[no-any-return]


def trained(rank: int) -> Net:
    """In eval mode, with batch norms that do something."""
    net = Net(rank)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(3):
        net(torch.randn(8, 3, *SPATIAL[rank]))
    return net.eval()


def prepared(net: Net) -> Any:
    groups = [["conv1", "bn1", "relu1"], ["conv2", "relu2"], ["conv3", "bn3"]]
    fused = tq.fuse_modules(net, groups)
    fused.qconfig = tq.get_default_qconfig()
    return tq.prepare(fused)


def sqnr(got: Tensor, want: Tensor) -> float:
    return float(10 * torch.log10(want.pow(2).sum() / (got - want).pow(2).sum()))


@pytest.mark.parametrize("rank", SPATIAL)
def test_fuse_prepare_convert(rank: int) -> None:
    net = trained(rank)
    model = prepared(net)
    for _ in range(4):
        model(torch.randn(4, 3, *SPATIAL[rank]))
    int8 = tq.convert(model)
    assert type(int8.conv1) is getattr(nniq, f"ConvReLU{rank}d")
    assert type(int8.conv2) is getattr(nniq, f"ConvReLU{rank}d")
    assert type(int8.conv3) is getattr(nnq, f"Conv{rank}d")
    assert (int8.conv2.padding, int8.conv3.padding_mode) == ("same", "replicate")
    x = torch.randn(2, 3, *SPATIAL[rank])
    with torch.no_grad():
        want = net(x)
    assert sqnr(int8(x), want) > 25
    assert int8.conv1.weight().q_per_channel_scales().numel() == 16

    skeleton = tq.convert(_calibrated_anyhow(prepared(trained(rank)), rank))
    assert not torch.equal(skeleton(x), int8(x))
    skeleton.load_state_dict(int8.state_dict())
    assert torch.equal(skeleton(x), int8(x))
    assert torch.equal(copy.deepcopy(int8)(x), int8(x))


def _calibrated_anyhow(model: Any, rank: int) -> Any:
    model(torch.randn(1, 3, *SPATIAL[rank]) * 3)
    return model


@pytest.mark.parametrize("rank", SPATIAL)
def test_mapping(rank: int) -> None:
    mapping = tq.get_default_static_quant_module_mappings()
    assert mapping[getattr(nn, f"Conv{rank}d")] is getattr(nnq, f"Conv{rank}d")
    oracle = pytest.importorskip("torch.ao.quantization")
    theirs = oracle.get_default_static_quant_module_mappings()
    assert getattr(nn, f"Conv{rank}d") in theirs
