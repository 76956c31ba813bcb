"""The same float model through eager mode and as a graph gives the same bits; torch.ao's graph has
the same scales.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import octavo.quantization as tq
from fx_models import ZOO, batch, calibrated, zoo_model
from octavo.nn import intrinsic as nni
from octavo.nn.intrinsic import quantized as nniq
from octavo.nn.quantized import FloatFunctional
from octavo.quantization.backend_config import get_native_backend_config
from octavo.quantization.quantize_fx import convert_fx, prepare_fx
from quantization_support import Net, oracle, quietly, trained_net

IMAGE = ((2, 3, 8, 8),)


def eager(model: nn.Module, groups: list[list[str]], qconfig: Any, shapes: Any) -> nn.Module:
    fused = tq.fuse_modules(model, groups)
    fused.qconfig = qconfig
    return tq.convert(calibrated(tq.prepare(fused), shapes))


@pytest.mark.parametrize("backend", ["octavo", "x86", "qnnpack"])
def test_network_with_stubs(backend: str) -> None:
    """conv-bn-relu, a residual addition, ReLU6, pooling, Linear."""
    net = trained_net()
    stubbed = eager(
        net, [list(group) for group in Net.FUSED], tq.get_default_qconfig(backend), IMAGE
    )
    mapping = tq.get_default_qconfig_mapping(backend)
    prepared = prepare_fx(net, mapping, batch(IMAGE), backend_config=get_native_backend_config())
    graph = convert_fx(calibrated(prepared, IMAGE))
    (x,) = batch(IMAGE, 3)
    assert torch.equal(graph(x), stubbed(x))


class Skip(nn.Module):
    """A convolution that adds, written by hand for eager mode."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        if self.fused:
            return self.dequant(self.conv(x, x))
        return self.dequant(F.relu(x + self.conv(x)))


def test_convolution_that_adds() -> None:
    torch.manual_seed(1)
    net = Skip(fused=False).eval()
    by_hand = Skip(fused=True).eval()
    by_hand.load_state_dict(net.state_dict())
    by_hand.conv = nni.ConvAddReLU2d(by_hand.conv, torch.add, torch.relu)
    stubbed = eager(by_hand.eval(), [], tq.get_default_qconfig(), IMAGE)
    prepared = prepare_fx(net, tq.get_default_qconfig_mapping(), batch(IMAGE))
    graph = convert_fx(calibrated(prepared, IMAGE))
    assert type(graph.conv) is nniq.ConvAddReLU2d
    (x,) = batch(IMAGE, 3)
    assert torch.equal(graph(x), stubbed(x))


class Mobile(nn.Module):
    """Depthwise with ReLU6, scalars, concatenation of branches that share an observer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.a, self.bn, self.relu6 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6()
        self.b = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.act = nn.Hardswish()
        self.scale, self.cat = FloatFunctional(), FloatFunctional()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(self.bn(self.a(self.quant(x))))
        y = self.act(self.b(F.max_pool2d(x, 2)))
        x = self.scale.mul_scalar(F.avg_pool2d(x, 2), 0.5)
        x = self.cat.cat([x, y], 1).mean((2, 3))
        return self.dequant(self.fc(x))


def test_mobile() -> None:
    """``x * 0.5`` has a scale of its own, so the concatenation cannot share one."""
    torch.manual_seed(1)
    net = Mobile().eval()
    stubbed = eager(net, [["a", "bn", "relu6"]], tq.get_default_qconfig(), IMAGE)
    prepared = prepare_fx(net, tq.get_default_qconfig_mapping(), batch(IMAGE))
    graph = convert_fx(calibrated(prepared, IMAGE))
    (x,) = batch(IMAGE, 3)
    assert torch.equal(graph(x), stubbed(x))


def scales(model: fx.GraphModule) -> list[tuple[str, float, int]]:
    """Producer, scale and zero point of what the observers of a prepared model saw."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for node in model.graph.nodes:
        if str(node.target).startswith("activation_post_process"):
            scale, zero_point = modules[node.target].calculate_qparams()
            if scale.numel() == 1:  # torch observes the weights of functions too
                found.append((node.args[0].name, float(scale), int(zero_point)))
    return found


@pytest.mark.parametrize(
    "name", ["residual", "inverted", "squeeze_excite", "dense_concat", "functions", "recurrent"]
)
def test_scales_are_those_of_torch(name: str) -> None:
    oracle()
    theirs_fx = quietly(importlib.import_module, "torch.ao.quantization.quantize_fx")
    theirs = oracle()
    model, shapes = zoo_model(name)
    mapping = tq.QConfigMapping().set_global(
        tq.QConfig(tq.MinMaxObserver, tq.default_per_channel_weight_observer)
    )
    qconfig = theirs.QConfig(theirs.MinMaxObserver, theirs.default_per_channel_weight_observer)
    their_mapping = theirs.QConfigMapping().set_global(qconfig)
    ours = prepare_fx(model, mapping, batch(shapes), backend_config=get_native_backend_config())
    other = quietly(theirs_fx.prepare_fx, copy.deepcopy(model), their_mapping, batch(shapes))
    calibrated(ours, shapes)
    quietly(calibrated, other, shapes)
    mine = scales(ours)
    known = {(scale, zero_point) for _, scale, zero_point in scales(other)}
    assert len(mine) > 3
    assert [row for row in mine if row[1:] not in known] == []
    extra = {row[0] for row in scales(other) if row[1:] not in {r[1:] for r in mine}}
    assert extra <= {"dropout"}


def test_zoo_is_complete() -> None:
    assert len(ZOO) == 16
