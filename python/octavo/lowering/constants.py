"""Constants of a graph: tensors that do not depend on its inputs, and quantized weights in them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from octavo.lowering.operators import operator_of, words

__all__ = ["Constants", "NoKernel", "QuantizedWeight", "attribute"]

# What may stand between a constant and its use.
_QUANTIZATION = {
    "quantize_per_tensor",
    "dequantize_per_tensor",
    "quantize_per_channel",
    "dequantize_per_channel",
}
_SAME_ELEMENTS = {"detach", "alias", "clone", "contiguous", "lift_fresh_copy"}
_VIEWS = words("t numpy_T transpose permute view reshape unsqueeze squeeze select slice")


class NoKernel(Exception):
    """Why a node stays as it is."""


@dataclass(frozen=True)
class QuantizedWeight:
    """int8 integers with one scale, or one for each index of an axis.

    Attributes:
        ints: int8, the shape of the float weight.
        scales, zero_points: 1-D, float32 and int32 (embeddings: float32).
        axis: of the scales; None where there is one.
    """

    ints: Tensor
    scales: Tensor
    zero_points: Tensor
    axis: int | None

    def permuted(self, dims: tuple[int, ...]) -> QuantizedWeight:
        axis = None if self.axis is None else dims.index(self.axis)
        return QuantizedWeight(
            self.ints.permute(dims).contiguous(), self.scales, self.zero_points, axis
        )

    def for_axis(self, axis: int) -> QuantizedWeight:
        """The same; NoKernel where the scales belong to another axis."""
        if self.axis is not None and self.axis != axis and self.scales.numel() > 1:
            raise NoKernel(
                f"the weight has its scales on axis {self.axis}, and the kernels need them on that "
                f"of the output channels, {axis}"
            )
        return self


def attribute(module: Any, target: str) -> Any:
    """What a get_attr node reads."""
    for part in target.split("."):
        module = getattr(module, part)
    return module


class Constants:
    """The constants of a graph module. Attributes that the graph writes are none."""

    def __init__(self, module: GraphModule, written: Set[str]) -> None:
        self._module, self._written = module, written
        self._known: dict[Node, bool] = {}

    def is_constant(self, node: Any) -> bool:
        """Whether a node is a constant tensor, or computed from such by quantization or views."""
        if not isinstance(node, Node):
            return False
        if node not in self._known:
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: Node) -> bool:
        if node.op == "get_attr":
            target = str(node.target)
            return target not in self._written and isinstance(
                attribute(self._module, target), Tensor
            )
        op = operator_of(node)
        if op is None or op.inplace or op.name not in _QUANTIZATION | _SAME_ELEMENTS | _VIEWS:
            return False
        return all(self.is_constant(source) for source in node.all_input_nodes)

    def value(self, node: Any) -> Tensor | None:
        """The value of a constant node, computed by the graph's own operators; else None."""
        if not self.is_constant(node):
            return None
        if node.op == "get_attr":
            result: Tensor = attribute(self._module, str(node.target))
            return result.detach()
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self.value)
        target = node.target if callable(node.target) else getattr(torch.Tensor, node.target)
        computed: Tensor = target(*args, **kwargs)
        return computed

    def floats(self, node: Any, what: str) -> Tensor | None:
        """A float constant, or None where the argument is None. NoKernel for everything else."""
        if node is None:
            return None
        value = self.value(node)
        if value is None or not value.is_floating_point():
            raise NoKernel(f"its {what} is no float constant")
        return value

    def weight(self, node: Any) -> QuantizedWeight:
        """The int8 weight that a node dequantizes. NoKernel where it is something else."""
        if not self.is_constant(node):
            raise NoKernel("its weight is no constant")
        op = operator_of(node)
        if op is not None and op.name in _SAME_ELEMENTS:
            return self.weight(op.first)
        if op is not None and op.name in ("t", "numpy_T", "transpose", "permute"):
            inner = self.weight(op.first)
            return inner.permuted(_permutation(op.name, op.arguments, inner.ints.dim()))
        if op is None or op.name not in ("dequantize_per_tensor", "dequantize_per_channel"):
            raise NoKernel("its weight is float")
        ints = self.value(op.first)
        assert ints is not None
        per_channel = op.name == "dequantize_per_channel"
        names = ("scales", "zero_points") if per_channel else ("scale", "zero_point")
        scales, zero_points = (self._numbers(op.get(name)) for name in names)
        if zero_points.numel() == 0:
            zero_points = torch.zeros_like(scales, dtype=torch.int64)
        shift = _shift_to_int8(ints, op.get("quant_min"), op.get("quant_max"))
        return QuantizedWeight(
            (ints.to(torch.int32) - shift).to(torch.int8),
            scales.float(),
            zero_points - shift,
            op.get("axis") % ints.dim() if per_channel else None,
        )

    def _numbers(self, value: Any) -> Tensor:
        """An argument as a 1-D tensor; empty where it is None."""
        if value is None:
            return torch.empty(0)
        if isinstance(value, Node):
            value = self.value(value)
        return torch.as_tensor(value).reshape(-1)


def _shift_to_int8(ints: Tensor, lo: Any, hi: Any) -> int:
    """What to subtract from the integers, and from their zero points, to make them int8."""
    if ints.dtype == torch.int8:
        return 0
    if ints.dtype == torch.uint8:
        return 128
    if isinstance(lo, int) and isinstance(hi, int) and -128 <= lo <= hi <= 127:
        return 0
    raise NoKernel(f"its weight's integers are {ints.dtype} in [{lo}, {hi}]; the kernels' are int8")


def _permutation(name: str, arguments: dict[str, Any], rank: int) -> tuple[int, ...]:
    dims = list(range(rank))
    if name == "permute":
        return tuple(dim % rank for dim in arguments["dims"])
    if name == "transpose":
        a, b = arguments["dim0"] % rank, arguments["dim1"] % rank
        dims[a], dims[b] = dims[b], dims[a]
        return tuple(dims)
    return tuple(reversed(dims))
