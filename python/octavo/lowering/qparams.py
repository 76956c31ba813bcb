"""Quantize and dequantize nodes: what they say about scale, zero point and range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from octavo.dtypes import QDType, qint8, quint8
from octavo.lowering.operators import Operator

__all__ = ["QParams", "affects_values", "is_dequantize", "is_quantize", "qparams_of"]

_QDTYPE = {torch.uint8: quint8, torch.int8: qint8}


@dataclass(frozen=True)
class QParams:
    """One scale and zero point, the dtype that holds the integers, and the range they keep to.

    Attributes:
        scale: rounded to float32, as modules have it.
        lo, hi: the least and the greatest integer; the dtype's own unless the graph has narrower
            ones.
    """

    scale: float
    zero_point: int
    qdtype: QDType
    lo: int
    hi: int

    def same_grid(self, other: QParams) -> bool:
        """Whether equal integers mean equal values."""
        return (
            self.scale == other.scale
            and self.zero_point == other.zero_point
            and self.qdtype is other.qdtype
        )

    def holds(self, other: QParams) -> bool:
        """Whether integers within the other range are within this one."""
        return self.lo <= other.lo and other.hi <= self.hi

    @property
    def narrow(self) -> tuple[float, float] | None:
        """The values of `lo` and `hi` where the dtype reaches further, else None."""
        if (self.lo, self.hi) == (self.qdtype.qmin, self.qdtype.qmax):
            return None
        return (
            (self.lo - self.zero_point) * self.scale,
            (self.hi - self.zero_point) * self.scale,
        )

    def clamps_exactly(self, lo: float | None, hi: float | None) -> bool:
        """Whether a clamp of these values gives values of the same grid: where a bound can be
        reached, it is one of them.
        """
        least, greatest = ((q - self.zero_point) * self.scale for q in (self.lo, self.hi))
        if lo is not None and not (lo <= least or (lo <= greatest and self._on_grid(lo))):
            return False
        return hi is None or hi >= greatest or (hi >= least and self._on_grid(hi))

    def _on_grid(self, value: float) -> bool:
        steps = value / self.scale
        return steps == round(steps)


def is_quantize(op: Operator | None) -> bool:
    """Whether it is ``quantize_per_tensor`` of any namespace, with quant_min, quant_max, dtype."""
    return op is not None and op.name == "quantize_per_tensor" and "quant_max" in op.arguments


def is_dequantize(op: Operator | None) -> bool:
    """Whether it is ``dequantize_per_tensor`` of any namespace, with the same arguments."""
    return op is not None and op.name == "dequantize_per_tensor" and "quant_max" in op.arguments


def affects_values(op: Operator | None) -> bool:
    """Whether it is one of the operators of Q/DQ graphs."""
    return op is not None and op.namespace != "aten" and "quantize" in op.name


def qparams_of(op: Operator, number: Callable[[Node], Any]) -> QParams | str:
    """The parameters of a quantize or dequantize operator, or why no 8-bit tensor has them.

    Args:
        number: the value of a constant node, as a tensor; None where it is computed.
    """
    scale, zero_point = (_number(op.get(key), number) for key in ("scale", "zero_point"))
    if scale is None or zero_point is None:
        return "its scale is computed when the graph runs"
    qdtype = _QDTYPE.get(op.get("dtype"))
    if qdtype is None:
        return f"its integers are {op.get('dtype')}; the kernels' are 8-bit"
    lo, hi = op.get("quant_min"), op.get("quant_max")
    if not (isinstance(lo, int) and isinstance(hi, int)):
        return f"its range [{lo}, {hi}] is not known before it runs"
    if not qdtype.qmin <= lo <= hi <= qdtype.qmax:
        return f"its range [{lo}, {hi}] is not within that of {qdtype}"
    if op.get("out_dtype") not in (None, torch.float32):
        return f"it dequantizes to {op.get('out_dtype')}"
    scale32 = torch.tensor(float(scale), dtype=torch.float32).item()
    if not (math.isfinite(scale32) and scale32 > 0.0):
        return f"its scale {scale} is not a positive float32"
    if not qdtype.qmin <= int(zero_point) <= qdtype.qmax:
        return f"its zero point {zero_point} is not within the range of {qdtype}"
    return QParams(scale32, int(zero_point), qdtype, lo, hi)


def _number(value: Any, number: Callable[[Node], Any]) -> float | int | None:
    if isinstance(value, Node):
        value = number(value)
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else None
    return value if isinstance(value, (int, float)) else None
