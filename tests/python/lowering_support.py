"""Q/DQ graphs made by hand, and how lowered ones are compared with them.

The operators of Q/DQ graphs come from torch.ao: models call them in their forward, and torch.export
makes the graph that convert_pt2e would.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import octavo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torch.ao.quantization.fx._decomposed
    except ImportError:  # a torch without torch.ao
        pytest.skip(
            "needs torch.ao, which registers quantized_decomposed, and this torch lacks it",
            allow_module_level=True,
        )

RANGE = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767)}


def quantize(
    x: Tensor, scale: float, zero_point: int, dtype: torch.dtype, lo: int | None, hi: int | None
) -> Tensor:
    least, greatest = RANGE[dtype]
    return torch.ops.quantized_decomposed.quantize_per_tensor(
        x, scale, zero_point, least if lo is None else lo, greatest if hi is None else hi, dtype
    )


def dequantize(
    q: Tensor, scale: float, zero_point: int, dtype: torch.dtype, lo: int | None, hi: int | None
) -> Tensor:
    least, greatest = RANGE[dtype]
    return torch.ops.quantized_decomposed.dequantize_per_tensor(
        q, scale, zero_point, least if lo is None else lo, greatest if hi is None else hi, dtype
    )


class Grid:
    """One scale, zero point, dtype and range: `grid(x)` quantizes and dequantizes."""

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: torch.dtype = torch.uint8,
        lo: int | None = None,
        hi: int | None = None,
    ) -> None:
        self.arguments = (scale, zero_point, dtype, lo, hi)
        self.scale, self.zero_point, self.dtype = scale, zero_point, dtype

    def q(self, x: Tensor) -> Tensor:
        return quantize(x, *self.arguments)

    def dq(self, q: Tensor) -> Tensor:
        return dequantize(q, *self.arguments)

    def __call__(self, x: Tensor) -> Tensor:
        return self.dq(self.q(x))


class Weight(nn.Module):
    """A random int8 (or other) weight as buffers; calling it dequantizes it.

    Args:
        axis: of the scales; None for one.
    """

    def __init__(
        self,
        *shape: int,
        axis: int | None = 0,
        dtype: torch.dtype = torch.int8,
        scale: float = 0.02,
        zero_point: int | None = None,
    ) -> None:
        super().__init__()
        lo, hi = (0, 256) if dtype == torch.uint8 else (-127, 128)
        self.axis, self.dtype = axis, dtype
        self.register_buffer("ints", torch.randint(lo, hi, shape, dtype=dtype))
        n = 1 if axis is None else shape[axis]
        zero = (128 if dtype == torch.uint8 else 0) if zero_point is None else zero_point
        self.register_buffer("scales", scale * (0.5 + torch.rand(n)))
        self.register_buffer("zero_points", torch.full((n,), zero, dtype=torch.int64))

    def forward(self) -> Tensor:
        lo, hi = RANGE[self.dtype]
        operators = torch.ops.quantized_decomposed
        if self.axis is None:
            return operators.dequantize_per_tensor.tensor(
                self.ints, self.scales[0], self.zero_points[0], lo, hi, self.dtype
            )
        return operators.dequantize_per_channel(
            self.ints, self.scales, self.zero_points, self.axis, lo, hi, self.dtype
        )


class PerTensorWeight(Weight):
    """One scale, as numbers in the graph."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.int8, scale: float = 0.02) -> None:
        super().__init__(*shape, axis=None, dtype=dtype, scale=scale)
        self.grid = Grid(float(self.scales), int(self.zero_points), dtype)

    def forward(self) -> Tensor:
        return self.grid.dq(self.ints)


def exported(model: nn.Module, *inputs: Any, dynamic: Any = None) -> GraphModule:
    """The graph of a model as torch.export makes it."""
    torch._dynamo.reset()  # which traces for torch 2.6, and counts the graphs of a forward method
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic).module()
    assert isinstance(graph, GraphModule)
    return graph


def kinds(graph: GraphModule) -> list[str]:
    """The classes of the modules that a lowered graph calls, in its order, and the functions and
    methods; not the check of its inputs."""
    found = []
    for node in graph.graph.nodes:
        if node.op == "call_module":
            found.append(type(graph.get_submodule(node.target)).__name__)
        elif node.op in ("call_function", "call_method"):
            found.append(str(getattr(node.target, "__name__", node.target)))
    return [name for name in found if name != "InputShapes"]


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result
    return [tensor for value in values for tensor in flat(value)]


def agree(
    graph: Any,
    lowered: GraphModule,
    inputs: Sequence[Tensor],
    steps: int = 1,
    atol: float = 1e-4,
    share: float = 0.05,
) -> None:
    """Integer outputs within so many steps, and no more than a share of them apart; float outputs
    close."""
    with torch.no_grad():
        expected, got = flat(graph(*inputs)), flat(lowered(*inputs))
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert type(b) is Tensor, "quantized tensors must not leave the graph"
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.is_floating_point():
            assert torch.allclose(a, b, rtol=1e-4, atol=atol), (a - b).abs().max()
        else:
            apart = (a.int() - b.int()).abs()
            assert int(apart.max()) <= steps, apart.max()
            assert float((apart > 0).float().mean()) <= share
            assert len(a.unique()) > 3, "the test's data says nothing"


def reloaded(module: GraphModule) -> GraphModule:
    """A pickle of a graph module, read again: torch.fx traces its code anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = pickle.loads(pickle.dumps(module))
    assert isinstance(loaded, GraphModule)
    return loaded


def lowered_like(
    model: nn.Module, *inputs: Tensor, dynamic: Any = None, **options: Any
) -> tuple[GraphModule, GraphModule]:
    """The exported graph of a model and its lowered form, which must agree."""
    graph = exported(model, *inputs, dynamic=dynamic)
    lowered = octavo.lower(graph)
    agree(graph, lowered, inputs, **options)
    loaded = reloaded(lowered)
    with torch.no_grad():
        pairs = zip(flat(lowered(*inputs)), flat(loaded(*inputs)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    return graph, lowered
