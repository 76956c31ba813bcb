"""Networks written by hand for eager mode, with stubs and FloatFunctionals, beside the unedited
ones as graphs: three ways to the same bits.

Concatenations are not here: eager mode gives each part a scale of its own, graphs one for all.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
import octavo.quantization as tq
from fx_models import (
    Attention,
    Inverted,
    Residual,
    SqueezeExcite,
    batch,
    calibrated,
    sqnr,
    warmed,
)
from octavo.nn import intrinsic as nni
from octavo.nn.quantized import FloatFunctional
from octavo.quantization.quantize_fx import convert_fx, prepare_fx
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)

IMAGE = ((2, 3, 16, 16),)


def adding(conv: nn.Module, relu: bool) -> nn.Module:
    """A convolution that adds its second argument, which only graphs find by themselves."""
    if relu:
        return nni.ConvAddReLU2d(conv, torch.add, torch.relu).eval()
    return nni.ConvAdd2d(conv, torch.add).eval()


class ResidualTwin(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.stem_relu = nn.ReLU()

    @classmethod
    def of(cls, model: nn.Module) -> nn.Module:
        twin = cls().eval()
        twin.load_state_dict(model.state_dict())
        groups = [["stem", "stem_relu"]]
        for i in range(2):
            groups += [
                [f"blocks.{i}.conv1", f"blocks.{i}.bn1"],
                [f"blocks.{i}.conv2", f"blocks.{i}.bn2"],
            ]
        twin = tq.fuse_modules(twin, groups)
        for block in twin.blocks:
            block.conv1 = nni.ConvReLU2d(block.conv1, nn.ReLU()).eval()
            block.conv2 = adding(block.conv2, relu=True)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem_relu(self.stem(self.quant(x))))
        for block in self.blocks:
            x = block.conv2(block.conv1(x), x)
        return self.dequant(self.fc(torch.flatten(self.mean(x), 1)))


class InvertedTwin(Inverted):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()

    @classmethod
    def of(cls, model: nn.Module) -> nn.Module:
        twin = cls().eval()
        twin.load_state_dict(model.state_dict())
        paths = ["stem", "block.0", "block.1"]
        groups = [[f"{path}.{i}" for i in range(3)] for path in paths]
        twin = tq.fuse_modules(twin, [*groups, ["block.2.0", "block.2.1"]])
        twin.block[2][0] = adding(twin.block[2][0], relu=False)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.quant(x))
        x = self.block[2][0](self.block[1](self.block[0](x)), x)
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)
        return self.dequant(self.fc(self.dropout(x)))


class SqueezeExciteTwin(SqueezeExcite):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.relu, self.sigmoid, self.product = nn.ReLU(), nn.Sigmoid(), FloatFunctional()

    @classmethod
    def of(cls, model: nn.Module) -> nn.Module:
        twin = cls().eval()
        twin.load_state_dict(model.state_dict())
        groups = [["conv.0", "conv.1"], ["reduce", "relu"], ["out.0", "out.1"]]
        return tq.fuse_modules(twin, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.quant(x))
        weights = self.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        x = self.product.mul(x, self.sigmoid(self.expand(weights)))
        return self.dequant(self.out(x))


class AttentionTwin(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.scores, self.scaled, self.mixed, self.first, self.second = (
            FloatFunctional() for _ in range(5)
        )
        self.softmax = nn.Softmax(-1)

    @classmethod
    def of(cls, model: nn.Module) -> nn.Module:
        twin = cls().eval()
        twin.load_state_dict(model.state_dict())
        return twin

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        x = self.quant(x)
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.scaled.mul_scalar(self.scores.matmul(q, k.transpose(-2, -1)), 0.35)
        mixed = self.mixed.matmul(self.softmax(scores), v)
        x = self.first.add(x, self.proj(mixed.transpose(1, 2).reshape(n, t, c)))
        return self.dequant(self.second.add(x, self.mlp(x)))


TWINS: list[tuple[Any, Any, Any]] = [
    (Residual, ResidualTwin, IMAGE),
    (Inverted, InvertedTwin, IMAGE),
    (SqueezeExcite, SqueezeExciteTwin, IMAGE),
    (Attention, AttentionTwin, ((2, 7, 16),)),
]


@pytest.mark.parametrize(
    ("plain", "twin", "shapes"), TWINS, ids=lambda v: getattr(v, "__name__", "")
)
def test_three_ways_to_the_same_bits(plain: Any, twin: Any, shapes: Any) -> None:
    torch.manual_seed(0)
    model = warmed(plain(), shapes)
    x = batch(shapes, 5)
    by_hand: Any = twin.of(model)
    by_hand.qconfig = tq.get_default_qconfig()
    if hasattr(by_hand, "softmax"):
        fixed = tq.default_fixed_qparams_range_0to1_observer
        by_hand.softmax.qconfig = tq.QConfig(fixed, tq.default_weight_observer)
    eager = tq.convert(calibrated(tq.prepare(by_hand), shapes))
    prepared = prepare_fx(model, tq.get_default_qconfig_mapping(), batch(shapes))
    traced = convert_fx(calibrated(prepared, shapes))  # type: ignore[arg-type]
    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    graph = torch.export.export(model, batch(shapes)).module()
    exported = octavo.lower(convert_pt2e(calibrated(prepare_pt2e(graph, quantizer), shapes)))  # type: ignore[arg-type]
    want = eager(*x)
    assert torch.equal(traced(*x), want)
    assert torch.equal(exported(*x), want)
    assert sqnr(model(*x), want) > 25
