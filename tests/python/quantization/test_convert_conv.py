"""Models of 1-, 2- and 3-D convolutions through fuse_modules, prepare and convert."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavo.quantization as tq
from module_support import generator, random_q, random_weight
from octavo.nn import quantized as nnq
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import functional as qF

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


class ClampedNet(nn.Module):
    """conv + bn + ReLU6, conv + Hardtanh."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv1, self.bn1, self.act1 = conv(3, 16, 3, padding=1), norm(16), nn.ReLU6()
        self.conv2, self.act2 = conv(16, 8, 3, bias=False), nn.Hardtanh(-0.5, 0.75)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(self.quant(x))))
        return self.dequant(self.act2(self.conv2(x)))  # type: ignore[no-any-return]


def clamped(rank: int) -> Any:
    """In eval mode, with values well beyond the bounds."""
    net = ClampedNet(rank)
    nn.init.constant_(net.bn1.weight, 8.0)
    nn.init.constant_(net.bn1.bias, 2.0)
    net(torch.randn(8, 3, *SPATIAL[rank]))
    return net.eval()


@pytest.mark.parametrize("rank", SPATIAL)
def test_relu6_and_hardtanh_are_fused(rank: int) -> None:
    net = clamped(rank)
    x = torch.randn(2, 3, *SPATIAL[rank])
    fused = tq.fuse_modules(net, [["conv1", "bn1", "act1"], ["conv2", "act2"]])
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(fused(x), want, rtol=1e-4, atol=1e-4)
    assert want.min() == -0.5
    assert want.max() == 0.75
    fused.qconfig = tq.get_default_qconfig()
    model = tq.prepare(fused)
    for _ in range(4):
        model(torch.randn(4, 3, *SPATIAL[rank]))
    int8 = tq.convert(model)
    assert type(int8.conv1) is type(int8.conv2) is getattr(nniq, f"ConvHardtanh{rank}d")
    assert (int8.conv1.min_val, int8.conv1.max_val) == (0.0, 6.0)
    assert sqnr(int8(x), want) > 20
    for layer in (int8.conv1, int8.conv2):  # bounds that bind, also where the scale reaches further
        layer.scale, layer.zero_point = 0.06, 50
        q = random_q((2, layer.in_channels, *SPATIAL[rank]), generator(1), scale=0.05)
        plain = getattr(nnq, f"Conv{rank}d")(
            layer.in_channels, layer.out_channels, 3, padding=layer.padding
        )
        plain.set_weight_bias(layer.weight(), layer.bias())
        plain.scale, plain.zero_point = 0.06, 50
        apart = qF.hardtanh(plain(q), layer.min_val, layer.max_val)
        assert torch.equal(layer(q).int_repr(), apart.int_repr())
        assert not torch.equal(apart.int_repr(), plain(q).int_repr())
        assert torch.equal(copy.deepcopy(layer)(q).int_repr(), apart.int_repr())
        assert torch.equal(pickle.loads(pickle.dumps(layer))(q).int_repr(), apart.int_repr())


def test_a_clamp_with_a_padding_mode_and_its_refusals() -> None:
    module = nniq.ConvHardtanh2d(
        3, 4, 3, padding=1, padding_mode="reflect", min_val=-1, max_val=0.5
    )
    module.set_weight_bias(random_weight((4, 3, 3, 3), generator(2)), None)
    plain = nnq.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    plain.set_weight_bias(module.weight(), None)
    for each in (module, plain):
        each.scale, each.zero_point = 0.02, 100
    x = random_q((1, 3, 5, 5), generator(3))
    assert torch.equal(module(x).int_repr(), qF.hardtanh(plain(x), -1, 0.5).int_repr())
    assert repr(module).endswith("padding_mode=reflect, min_val=-1.0, max_val=0.5)")
    with pytest.raises(ValueError, match="min_val must not exceed max_val"):
        nniq.ConvHardtanh1d(1, 1, 1, min_val=1.0, max_val=0.0)
    with pytest.raises(TypeError, match=r"expected octavo\.nn\.intrinsic\.ConvHardtanh2d"):
        nniq.ConvHardtanh2d.from_float(nn.Conv2d(1, 1, 1))
