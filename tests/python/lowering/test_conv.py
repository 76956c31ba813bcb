"""Convolutions of Q/DQ graphs, and what is fused into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from lowering_support import Grid, PerTensorWeight, Weight, exported, kinds, lowered_like
from octavo.lowering import lowering_report
from octavo.nn import quantized as nnq

X = Grid(0.02, 120)
OUT = Grid(0.1, 131)
SHAPE = {1: (11,), 2: (9, 8), 3: (5, 6, 4)}
CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class Net(nn.Module):
    def __init__(
        self,
        weight: nn.Module,
        conv: Callable[[Tensor, Tensor, Tensor], Tensor],
        out: Grid | None = OUT,
        channels: int = 8,
        x: Grid = X,
    ) -> None:
        super().__init__()
        self.weight, self.conv, self.out, self.x = weight, conv, out, x
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.x(x), self.weight(), self.bias)
        return y if self.out is None else self.out.q(y)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("Conv", lambda y: y),
        ("ConvReLU", F.relu),
        ("ConvHardtanh", F.relu6),
        ("ConvHardtanh", lambda y: y.clamp(min=-1.0)),
    ],
)
def test_static(rank: int, name: str, function: Callable[[Tensor], Tensor]) -> None:
    net = Net(
        Weight(8, 3, *(3,) * rank),
        lambda x, w, b: function(CONV[rank](x, w, b, stride=2, padding=1)),
    )
    _, lowered = lowered_like(net, torch.randn(2, 3, *SHAPE[rank]))
    assert kinds(lowered) == ["Quantize", f"{name}{rank}d", "int_repr"]


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 4},
        {"dilation": (2, 1), "padding": (2, 0)},
        {"padding": "same"},
        {"padding": "valid", "stride": (1, 2)},
    ],
)
@pytest.mark.parametrize("int8", [False, True])
def test_geometry(options: dict[str, Any], int8: bool) -> None:
    x, out = (Grid(0.02, -3, torch.int8), Grid(0.1, 5, torch.int8)) if int8 else (X, OUT)
    inputs = 4 // options.get("groups", 1)
    net = Net(
        PerTensorWeight(8, inputs, 3, 3), lambda x, w, b: F.conv2d(x, w, b, **options), out, x=x
    )
    _, lowered = lowered_like(net, torch.randn(2, 4, 9, 8))
    assert kinds(lowered) == ["Quantize", "Conv2d", "int_repr"]


def test_the_general_operator() -> None:
    def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.convolution(x, w, b, [2, 1], [1, 0], [1, 1], False, [0, 0], 1)

    _, lowered = lowered_like(Net(Weight(8, 3, 3, 3), conv), torch.randn(2, 3, 9, 8))
    assert kinds(lowered) == ["Quantize", "Conv2d", "int_repr"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed(rank: int) -> None:
    def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y: Tensor = TRANSPOSED[rank](x, w, b, stride=2, padding=1, output_padding=1)
        return F.relu(y)

    net = Net(Weight(3, 8, *(3,) * rank, axis=1), conv)
    _, lowered = lowered_like(net, torch.randn(2, 3, *SHAPE[rank]))
    assert kinds(lowered) == ["Quantize", f"ConvTranspose{rank}d", "clamp", "int_repr"]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("function", [lambda y: y, F.relu, F.relu6])
def test_float_output(rank: int, function: Callable[[Tensor], Tensor]) -> None:
    net = Net(
        Weight(8, 3, *(3,) * rank), lambda x, w, b: function(CONV[rank](x, w, b, padding=1)), None
    )
    _, lowered = lowered_like(net, torch.randn(2, 3, *SHAPE[rank]))
    assert kinds(lowered) == ["Quantize", f"FloatConv{rank}d"]


def test_float_output_of_a_transposed_convolution() -> None:
    net = Net(Weight(3, 8, 3, 3, axis=1), lambda x, w, b: F.conv_transpose2d(x, w, b, 2), None)
    _, lowered = lowered_like(net, torch.randn(2, 3, 5, 6))
    assert kinds(lowered) == ["Quantize", "FloatConvTranspose2d"]


class Residual(nn.Module):
    """function(conv(x) + x), the addition to a quantized x."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], out: Grid = OUT) -> None:
        super().__init__()
        self.conv = Weight(3, 3, 3, 3)
        self.add, self.out = add, out

    def forward(self, x: Tensor) -> Tensor:
        x = X(x)
        return self.out.q(self.add(F.conv2d(x, self.conv(), padding=1), x))


@pytest.mark.parametrize(
    ("expected", "add"),
    [
        (["ConvAdd2d"], lambda y, x: y + x),
        (["ConvAdd2d"], lambda y, x: x + y),
        (["ConvAddReLU2d"], lambda y, x: F.relu(y + x)),
        (["ConvAddReLU2d"], lambda y, x: F.relu(y.add_(x), inplace=True)),
        (["ConvAdd2d", "clamp"], lambda y, x: F.relu6(y + x)),
    ],
)
def test_residual(expected: list[str], add: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, lowered = lowered_like(Residual(add), torch.randn(2, 3, 9, 8))
    assert kinds(lowered) == ["Quantize", *expected, "int_repr"]


def test_an_addition_that_broadcasts_is_not_fused() -> None:
    class Broadcast(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = X(x)
            return OUT.q(F.conv2d(x, self.conv(), padding=1) + x[:, :, :1])

    _, lowered = lowered_like(Broadcast(torch.add), torch.randn(2, 3, 9, 8))
    assert "FloatConv2d" in kinds(lowered)
    reasons = {row.op: row.reason for row in lowering_report(lowered).left_float}
    assert reasons["add"] == "not all of its inputs are quantized"


def test_the_bits_are_those_of_modules_with_the_same_parameters() -> None:
    net = Residual(lambda y, x: F.relu(y + x))
    x = torch.randn(2, 3, 9, 8)
    module = octavo.nn.intrinsic.quantized.ConvAddReLU2d(3, 3, 3, padding=1, bias=False)
    w = octavo.QTensor.from_int_repr(net.conv.ints, net.conv.scales, net.conv.zero_points, axis=0)
    module.set_weight_bias(w, None)
    module.scale, module.zero_point = OUT.scale, OUT.zero_point
    q = octavo.quantize_per_tensor(x, X.scale, X.zero_point, octavo.quint8)
    assert torch.equal(octavo.lower(exported(net, x))(x), module(q, q).int_repr())


def test_results_are_channels_last() -> None:
    net = Net(Weight(8, 3, 3, 3), lambda x, w, b: F.conv2d(x, w, b))
    x = torch.randn(2, 3, 9, 8)
    out = octavo.lower(exported(net, x))(x)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_batch_norm_that_stands_alone() -> None:
    class Norm(nn.Module):
        def __init__(self, relu: bool) -> None:
            super().__init__()
            self.bn, self.relu = nn.BatchNorm2d(3), relu
            self.bn.running_mean = torch.randn(3)
            self.bn.running_var = torch.rand(3) + 0.5

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(X(x))
            return Grid(0.02, 128).q(F.relu(y) if self.relu else y)

    for relu, name in ((False, "BatchNorm2d"), (True, "BNReLU2d")):
        _, lowered = lowered_like(Norm(relu), torch.randn(2, 3, 5, 5))
        assert kinds(lowered) == ["Quantize", name, "int_repr"]
        assert isinstance(lowered.get_submodule("bn"), nnq.BatchNorm2d)
