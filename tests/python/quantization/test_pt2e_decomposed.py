"""Graphs that were decomposed into core operators are quantized as those that were not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from octavo.lowering import lowering_report
from octavo.quantization.quantize_pt2e import convert_pt2e, prepare_pt2e
from octavo.quantization.quantizer import (
    OctavoQuantizer,
    get_default_octavo_quantization_config,
)

# torch's own decomposition.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Encoder(nn.Module):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.output, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            layer(x).view(*x.shape[:2], 2, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = self.norm(x + self.output(mixed))
        return self.narrow(F.relu(self.wide(x)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """The second half of a layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        return F.relu(self.narrow(F.relu(self.wide(x))))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.GroupNorm(2, 8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def lines() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 2, 3), nn.Softmax(1))


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "feed_forward": (FeedForward, (2, 7, 16)),
    "convolutions": (convolutions, (2, 3, 12, 12)),
    "lines": (lines, (2, 3, 20)),
}


def quantized(program: Any, x: Tensor) -> tuple[Any, Any]:
    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    prepared: Any = prepare_pt2e(program.module(), quantizer)
    prepared(x)
    converted = convert_pt2e(prepared)
    return converted, octavo.lower(converted)


@pytest.mark.parametrize("name", sorted(CASES))
def test_same_bits_as_without_decomposition(name: str) -> None:
    build, shape = CASES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    model(x)  # lazy layers
    program = torch.export.export(model, (x,))
    want, want_int8 = quantized(program, x)
    got, got_int8 = quantized(program.run_decompositions(), x)
    assert torch.equal(got(x), want(x))
    assert torch.equal(got_int8(x), want_int8(x))
    left = [(row.op, row.reason) for row in lowering_report(got_int8).left_float]
    assert left == [(row.op, row.reason) for row in lowering_report(want_int8).left_float]


def test_attention_is_taken_apart() -> None:
    """torch writes attention, and the layer behind it, as products of matrices; the others are
    layers again."""
    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(2, 7, 16)
    program = torch.export.export(model, (x,)).run_decompositions()
    _, int8 = quantized(program, x)
    want = model(x).detach()
    assert float(want.square().mean() / (want - int8(x).detach()).square().mean()) > 10**2.5
    layers = [row.becomes for row in lowering_report(int8) if row.op == "linear"]
    assert layers == ["Linear", "Linear", "Linear", "LinearReLU", "Linear"]


def test_products_that_are_no_layers_stay() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(x, x, self.weight[:4], beta=2) @ x

    torch.manual_seed(0)
    model, x = Products().eval(), torch.randn(4, 4)
    program = torch.export.export(model, (x,)).run_decompositions()
    quantizer = OctavoQuantizer().set_global(get_default_octavo_quantization_config())
    prepared: Any = prepare_pt2e(program.module(), quantizer)
    assert torch.allclose(prepared(x), model(x))
    names = [str(node.target) for node in prepared.graph.nodes]
    assert "aten.addmm.default" in names
    assert "aten.linear.default" not in names
