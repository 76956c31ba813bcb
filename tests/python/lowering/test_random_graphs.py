"""Random Q/DQ graphs whose float arithmetic is exact: lowered ones must give the same integers.

All scales are powers of two and all biases few bits long, so that every sum in the graph's float32
is exact, and so is every product with an inverse scale. What is then rounded is the same number in
the graph and in the kernels.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavo
from lowering_support import Grid, Weight, exported, kinds
from octavo.lowering import lowering_report

CHANNELS = 4


class Dyadic(Weight):
    """Small integers with scales that are powers of two."""

    def __init__(self, *shape: int, axis: int | None = 0) -> None:
        super().__init__(*shape, axis=axis)
        self.ints = torch.randint(-16, 17, shape, dtype=torch.int8)
        self.scales = 2.0 ** -torch.randint(4, 7, self.scales.shape).float()


class Net(nn.Module):
    """Random steps on images of four channels, each with readers of any earlier value."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.dtype = self.random.choice([torch.uint8, torch.int8])
        self.weights, self.biases = nn.ModuleList(), nn.ParameterList()
        self.steps = [self.make(i) for i in range(self.random.randint(4, 12))]

    def grid(self) -> Grid:
        scale = 2.0 ** -self.random.randint(2, 5)
        zero = self.random.randint(-20, 20) + (128 if self.dtype == torch.uint8 else 0)
        narrow = self.random.random() < 0.15
        least, greatest = (0, 255) if self.dtype == torch.uint8 else (-128, 127)
        return Grid(scale, zero, self.dtype, least + 9 * narrow, greatest - 5 * narrow)

    def make(self, index: int) -> Any:
        """A step: what it does, from which values, and how its result is rounded (or not)."""
        kinds = [
            "conv",
            "conv",
            "residual",
            "add",
            "mul",
            "cat",
            "pool",
            "mean",
            "view",
            "table",
            "float",
        ]
        kind = self.random.choice(kinds)
        sources = [self.random.randrange(index + 1) for _ in range(2)]
        activation = self.random.choice(["none", "relu", "relu_", "relu6", "clamp", "none"])
        grid = None if self.random.random() < 0.12 else self.grid()
        number = len(self.weights)
        self.weights.append(Dyadic(CHANNELS, CHANNELS, 3, 3, axis=self.random.choice([0, None])))
        self.biases.append(nn.Parameter(torch.randint(-40, 40, (CHANNELS,)) / 16))
        twice = self.random.random() < 0.2
        return kind, sources, activation, grid, number, twice

    def run(self, kind: str, a: Tensor, b: Tensor, number: int) -> Tensor:
        weight, bias = self.weights[number], self.biases[number]
        if kind in ("conv", "residual"):
            y = F.conv2d(a, weight(), bias, padding=1)
            return y + b if kind == "residual" else y
        if kind == "cat":
            return torch.cat([a[:, :1], b[:, 1:]], 1)
        if kind == "pool":
            return F.pad(F.max_pool2d(a, 2, 1), (0, 1, 0, 1))
        if kind == "mean":
            return F.pad(F.avg_pool2d(a, 2, 1), (0, 1, 0, 1))
        if kind == "view":
            return a.permute(0, 2, 3, 1).reshape(a.shape[0], -1).flip(1).view(a.shape)
        if kind == "table":
            return (0.5 * a + 1.0) * (a - 0.25)
        if kind == "float":
            return a.floor() + b.abs()
        return a + b if kind == "add" else 0.125 * (a * b) if number % 2 else a * b

    def forward(self, x: Tensor) -> list[Tensor]:
        values, outputs = [Grid(0.125, 0, torch.int8)(x)], []
        activations: dict[str, Any] = {
            "relu": F.relu,
            "relu_": lambda y: F.relu(y, inplace=True),
            "relu6": F.relu6,
            "clamp": lambda y: y.clamp(-1.5, 4.25),
        }
        if self.dtype == torch.uint8:
            values = [Grid(0.125, 128)(x)]
        for kind, (a, b), activation, grid, number, twice in self.steps:
            y = self.run(kind, values[a], values[b], number)
            if activation != "none" and kind != "view":
                y = activations[activation](y)
            if grid is None:
                y = Grid(0.0625, 0, torch.int16)(y)  # no 8 bits: it stays float, on a grid
            else:
                q = grid.q(y)
                outputs.append(q)
                y = grid.dq(q)
                if twice:
                    outputs.append(grid.q(F.relu(y)))
            values.append(y)
        return [*outputs, values[-1]]


@pytest.mark.parametrize("seed", range(40))
def test_the_same_integers(seed: int) -> None:
    net = Net(seed)
    inputs = torch.randint(-60, 60, (2, CHANNELS, 5, 6)) / 8
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=16)}} if seed % 2 else None
    graph = exported(net, inputs, dynamic=batch)
    lowered = octavo.lower(graph)
    for x in (inputs, torch.randint(-30, 30, (2, CHANNELS, 5, 6)) / 8):
        with torch.no_grad():
            for i, (a, b) in enumerate(zip(graph(x), lowered(x), strict=True)):
                assert torch.equal(a, b), (
                    f"output {i}\n{lowering_report(lowered)}\n{kinds(lowered)}"
                )
    rows = lowering_report(lowered)
    assert rows
    assert all(row.reason for row in rows.left_float)
