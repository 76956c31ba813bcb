"""What stands between layers: views, pools, functions, sums, products, joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowering_support import Grid, Weight, kinds, lowered_like
from octavo.lowering import lowering_report

A, B = Grid(0.02, 120), Grid(0.035, 100)
INT8 = Grid(0.03, -5, torch.int8)


class Between(nn.Module):
    """Rounds x, applies a function, rounds to integers on another grid or the same."""

    def __init__(self, function: Callable[[Tensor], Any], x: Grid = A, out: Grid = A) -> None:
        super().__init__()
        self.function, self.x, self.out = function, x, out

    def forward(self, x: Tensor) -> Any:
        result = self.function(self.x(x))
        if isinstance(result, Tensor):
            return self.out.q(result)
        return [self.out.q(part) for part in result]


# Exactly the graph's integers: nothing is rounded.
EXACT: dict[str, Callable[[Tensor], Any]] = {
    "view": lambda x: x.view(2, -1),
    "reshape": lambda x: x.reshape(6, 4, -1),
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, -1),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "slice": lambda x: x[:, 1:, ::2, -3:],
    "select": lambda x: x[:, 1],
    "split": lambda x: x.split([1, 2], dim=1),
    "chunk": lambda x: x.chunk(3, dim=1),
    "unbind": lambda x: x.unbind(1),
    "flip": lambda x: x.flip(2),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, :1].expand(-1, 4, -1, -1), 2),
    "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "clone": lambda x: x.clone(),
    "dropout": lambda x: F.dropout(x, 0.3, training=False),
    "relu": F.relu,
    "relu_": lambda x: x.relu_(),
    "clamp at a value of the grid": lambda x: x.clamp(-0.5, 0.5),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d, rectangular": lambda x: F.max_pool2d(x, (1, 2), dilation=(2, 1), ceil_mode=True),
    "max_pool1d": lambda x: F.max_pool1d(x[:, 0], 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "cat": lambda x: torch.cat([x, F.relu(x)], 1),
    "stack": lambda x: torch.stack([x, x.flip(0)], 2),
    "hardtanh": lambda x: F.hardtanh(x, -0.333, 0.777),
    "relu6": F.relu6,
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    _, lowered = lowered_like(Between(EXACT[name]), torch.randn(2, 3, 8, 6), steps=0)
    assert not lowering_report(lowered).left_float
    assert kinds(lowered).count("Quantize") == 1
    assert "DeQuantize" not in kinds(lowered)


MEANS: dict[str, Callable[[Tensor], Any]] = {
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool2d, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool1d": lambda x: F.avg_pool1d(x[:, 0], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x[:, 0], 2),
    "mean": lambda x: x.mean((2, 3)),
    "mean, kept": lambda x: x.mean(-1, keepdim=True),
    "bilinear": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=False),
}


@pytest.mark.parametrize("name", MEANS)
def test_means(name: str) -> None:
    x = 2 * torch.randn(4, 3, 8, 6)
    # Means of few integers are often exact ties, which the graph's float32 rounds either way.
    _, lowered = lowered_like(Between(MEANS[name]), x, share=0.5)
    assert not lowering_report(lowered).left_float
    _, other = lowered_like(Between(MEANS[name], A, B), x)
    assert any("scale or zero point" in row.reason for row in lowering_report(other).left_float)


FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "hardswish": ("Hardswish", F.hardswish),
    "hardsigmoid": ("Hardsigmoid", F.hardsigmoid),
    "sigmoid": ("Sigmoid", torch.sigmoid),
    "tanh": ("Tanh", torch.tanh),
    "silu": ("SiLU", F.silu),
    "gelu": ("GELU", F.gelu),
    "gelu, tanh": ("GELU", lambda x: F.gelu(x, approximate="tanh")),
    "elu": ("ELU", lambda x: F.elu(x, 0.7)),
    "leaky_relu": ("LeakyReLU", lambda x: F.leaky_relu(x, 0.3)),
    "softmax": ("Softmax", lambda x: torch.softmax(x, -1)),
    "mish": ("LookupTable", F.mish),
    "hardswish in pieces": ("LookupTable", lambda x: x * F.relu6(x + 3.0) / 6.0),
    "scalars": ("LookupTable", lambda x: 2.0 * x - 0.3),
    "relu to another grid": ("LookupTable", F.relu),
    "square": ("LookupTable", lambda x: x * x),
    "sub and relu": ("LookupTable", lambda x: F.relu(x - 0.3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("x", [A, INT8])
@pytest.mark.parametrize("out", [Grid(0.01, 30), Grid(0.01, -20, torch.int8)])
def test_functions(name: str, x: Grid, out: Grid) -> None:
    expected, function = FUNCTIONS[name]
    net = Between(function, x, out)
    tables = expected == "LookupTable"
    _, lowered = lowered_like(net, 2 * torch.randn(3, 50), steps=0 if tables else 1)
    assert kinds(lowered) == ["Quantize", expected, "int_repr"]


def test_another_grid() -> None:
    _, lowered = lowered_like(
        Between(lambda x: x.flatten(1), A, INT8), torch.randn(2, 3, 8), steps=0
    )
    assert kinds(lowered) == ["Quantize", "flatten", "LookupTable", "int_repr"]


class Pair(nn.Module):
    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], a: Grid, b: Grid, out: Grid
    ) -> None:
        super().__init__()
        self.function, self.a, self.b, self.out = function, a, b, out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out.q(self.function(self.a(x), self.b(y)))


PAIRS: dict[str, tuple[list[str], Callable[[Tensor, Tensor], Tensor]]] = {
    "add": (["Add"], lambda x, y: x + y),
    "add, broadcast": (["getitem", "Add"], lambda x, y: x + y[:, :1]),
    "add_": (["Add"], lambda x, y: x.add_(y)),
    "add and relu": (["AddReLU"], lambda x, y: F.relu(x + y)),
    "add and relu6": (["Add", "clamp"], lambda x, y: F.relu6(x + y)),
    "mul": (["Mul"], lambda x, y: x * y),
    "mul and relu": (["Mul", "clamp"], lambda x, y: F.relu(x * y)),
    "cat": (["Cat"], lambda x, y: torch.cat([x, y], -1)),
    "cat and relu": (["Cat", "clamp"], lambda x, y: F.relu(torch.cat([x, y], 0))),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("int8", [False, True])
def test_pairs(name: str, int8: bool) -> None:
    expected, function = PAIRS[name]
    grids = (
        (Grid(0.02, 3, torch.int8), Grid(0.0311, -9, torch.int8), Grid(0.0473, 1, torch.int8))
        if int8
        else (A, B, Grid(0.05, 90))
    )
    _, lowered = lowered_like(Pair(function, *grids), torch.randn(4, 7, 6), torch.randn(4, 7, 6))
    found = [kind for kind in kinds(lowered) if kind not in ("Quantize", "int_repr", "Slice")]
    assert found == [kind for kind in expected if kind != "getitem"]
    assert not lowering_report(lowered).left_float


def test_a_pair_of_two_dtypes_stays_float() -> None:
    net = Pair(lambda x, y: x + y, A, INT8, A)
    _, lowered = lowered_like(net, torch.randn(4, 7), torch.randn(4, 7))
    (row,) = lowering_report(lowered).left_float
    assert "one dtype" in row.reason


def test_a_product_of_two_activations_stays_float() -> None:
    net = Pair(lambda x, y: x @ y.transpose(0, 1), A, B, Grid(0.1, 128))
    _, lowered = lowered_like(net, torch.randn(4, 7), torch.randn(5, 7))
    reasons = {row.op: row.reason for row in lowering_report(lowered).left_float}
    assert "two activations" in reasons["matmul"]
    assert reasons["transpose"] == "nothing reads it as int8"


NORMS: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: nn.LayerNorm((6,)),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "PReLU": lambda: nn.PReLU(4),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = NORMS[name]()
            for parameter in self.norm.parameters():
                nn.init.uniform_(parameter, 0.3, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return Grid(0.03, 128).q(self.norm(A(x)))

    _, lowered = lowered_like(Norm(), torch.randn(2, 4, 5, 6))
    assert kinds(lowered) == ["Quantize", name, "int_repr"]


def test_a_whole_chain_keeps_to_int8() -> None:
    """Quantize once, dequantize once, and nothing between them is float."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = Weight(8, 3, 3, 3), Weight(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = B(F.relu(F.conv2d(A(x), self.conv(), padding=1)))
            x = B(F.max_pool2d(x, 2))
            x = B(x.mean((2, 3)))
            return A(F.linear(B(x.flatten(1)), self.fc()))

    _, lowered = lowered_like(Chain(), torch.randn(2, 3, 8, 8), atol=0.021)
    assert kinds(lowered) == [
        "Quantize", "ConvReLU2d", "MaxPool2d", "mean", "flatten", "Linear", "DeQuantize",
    ]  # fmt: skip
