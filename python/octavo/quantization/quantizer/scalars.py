"""Operations of a tensor and a number, whose qparams follow from the tensor's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from octavo.dtypes import as_qdtype
from octavo.nn.quantized.modules.scalar import product_qparams, rounded, sum_qparams
from octavo.quantization.pt2e.graph import argument, op_name
from octavo.quantization.utils import observed_dtype

__all__ = ["derived_qparams", "is_float", "scalar_operation"]

Steps = list[tuple[str, float]]


def is_float(value: Any) -> bool:
    """Whether it is a node that gives a float32 tensor."""
    if not isinstance(value, Node):
        return False
    known = value.meta.get("val")
    return isinstance(known, Tensor) and known.dtype == torch.float32


def derived_qparams(node: Node, dtype: Any) -> Callable[[list[Any]], tuple[Tensor, Tensor]]:
    """What computes the qparams of a node's result from the observer of its input, by the rules of
    ``add_scalar`` and ``mul_scalar``. It can be pickled.
    """
    return functools.partial(_qparams, scalar_operation(node) or [], dtype)


def scalar_operation(node: Node) -> Steps | None:
    """Sums with and products by a number that a node computes, in order; None for anything else."""
    name = op_name(node)
    if name not in ("add", "sub", "rsub", "mul", "div") or len(node.args) < 2:
        return None
    number = node.args[1]
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not is_float(node):
        return None
    names = [formal.name for formal in node.target._schema.arguments]  # type: ignore[union-attr]
    if ("alpha" in names and argument(node, "alpha") != 1) or "rounding_mode" in names:
        return None
    if not is_float(node.args[0]) or not math.isfinite(number) or (name == "div" and not number):
        return None
    steps = {
        "add": [("add", number)],
        "sub": [("add", -number)],
        "rsub": [("mul", -1.0), ("add", number)],
        "mul": [("mul", number)],
    }
    return steps[name] if name in steps else [("mul", 1.0 / number)]


def _qparams(steps: Steps, dtype: Any, observers: list[Any]) -> tuple[Tensor, Tensor]:
    found = observers[0].calculate_qparams()
    scale, zero_point = (value.reshape(-1)[0].item() for value in found)
    qdtype = as_qdtype(observed_dtype(dtype))
    for kind, number in steps:
        if kind == "add":
            scale, zero_point, _ = sum_qparams(scale, int(zero_point), qdtype, number)
        else:
            scale, zero_point = product_qparams(scale, int(zero_point), qdtype, number)
        scale = rounded(scale)
    return torch.tensor([scale], dtype=torch.float64), torch.tensor([zero_point])
